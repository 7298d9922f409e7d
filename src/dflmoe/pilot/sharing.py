"""A site's own report for others, from its model, store and status; nothing is learnt anew."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.metadata import version

from dflmoe.errors import RunningError, ShareError
from dflmoe.model.model import load_model
from dflmoe.model.told import Measured as Found
from dflmoe.node.home import MODEL, Home
from dflmoe.node.replica import manifest_of
from dflmoe.node.seen import look
from dflmoe.node.spending import told_so_far
from dflmoe.node.store import STORE, Store
from dflmoe.report.share import (
    SHARE,
    Measured,
    Share,
    judged_by,
    large,
    read_share,
    weights,
)
from dflmoe.security.policy import POLICY, Policy
from dflmoe.security.roster import Roster
from dflmoe.wire.envelope import ENVELOPE_LIMIT, opened, seal
from dflmoe.wire.manifest import Manifest, band


def share_of(home: Home, at: datetime) -> Share:
    """Return what a site can share of itself, as of its last round.

    Args:
        home: The site's folder; its node may run.
        at: The moment.

    Raises:
        RunningError: No round was played yet.
        ModelError: Its model cannot be read.
        StoreError: Its store cannot be read.
    """
    seen = look(home)
    if seen.status is None or not seen.rounds:
        raise RunningError(
            f"{seen.site} has played no round yet, so it has nothing to share; "
            f"start its node with: dflmoe node run"
        )
    told = load_model(home.folder / MODEL).told
    store = Store(home.folder / STORE, reads=True)
    try:
        audited = store.newest_entry("audited")
        privacy = told_so_far(store, Policy.load(home.folder / POLICY))
        own, newest = store.heads().get(seen.site), store.newest_entry()
        seconds, begun = store.computed(), store.entries("begin")[:1]
    finally:
        store.close()
    head: Manifest | None = manifest_of(own.envelope) if own else None
    last, status = seen.rounds[-1].summary, seen.status
    judged = told.judged
    gain = _measured(judged.gain)
    days = (at - begun[0].at) / timedelta(days=1) if begun else 0.0
    return Share(
        federation=home.charter.federation,
        charter=home.charter.digest,
        site=seen.site,
        at=at,
        title=seen.federation,
        task=told.task,
        metric=judged.metric,
        rounds=last.number,
        rows=band(told.rows),
        patients=large(judged.patients),
        fewest=large(judged.fewest),
        alone=_measured(judged.alone),
        mixed=_measured(judged.served),
        gain=gain,
        verdict=judged_by(gain, None, judged.fewest),
        shares=weights(seen.site, last.share, [peer.site for peer in status.peers]),
        worth=last.worth,
        peers={peer.site: peer.state for peer in status.peers},
        missing={who: why[:300] for who, why in last.missing.items()},
        aside=tuple(one.site for one in seen.aside),
        withheld=last.withheld,
        sent=status.sent,
        received=status.received,
        head_bytes=head.size if head else 0,
        days=max(0.0, days),
        seconds=seconds,
        attack=_attack(audited.told) if audited else None,
        epsilon=privacy.epsilon if privacy else None,
        audit=newest.digest if newest else None,
        software=version("dflmoe"),
    )


def signed_share(home: Home, share: Share) -> bytes:
    """Return a share as it leaves the site: signed.

    Raises:
        ShareError: It is larger than a signed document may be.
    """
    raw = seal(share.signed(), SHARE, home.keys.signing)
    if len(raw) > ENVELOPE_LIMIT:
        raise ShareError(
            f"the report of {share.site} has {len(raw)} bytes with its signature, and others take "
            f"{ENVELOPE_LIMIT}: it names too many peers"
        )
    return raw


def believed(raw: bytes, roster: Roster, what: str) -> Share:
    """Return the share in an envelope, if its site signed it and belongs to the federation.

    Args:
        raw: As received.
        roster: Who belongs, and with which keys.
        what: What it is called in errors.

    Raises:
        ShareError: It was forged or changed, is of another federation, by another site than it
            says, or by a newer version.
        SecurityError: The envelope is malformed, or signed by a key that nobody knows.
    """
    found = opened(raw, SHARE, roster.keys, what)
    share = read_share(found.payload, what)
    if share.federation != roster.charter.federation:
        raise ShareError(f"{what} is of another federation; it is not counted")
    if share.site not in {roster.owner[key] for key in found.signers}:
        raise ShareError(f"{what} says it is of {share.site}, who did not sign it")
    return share


def _measured(found: Found | None) -> Measured | None:
    if found is None or found.value is None:
        return None
    return Measured(value=found.value, low=found.low, high=found.high)


def _attack(told: Mapping[str, object]) -> Measured:
    value, low, high = (float(str(told[name])) for name in ("auc", "low", "high"))
    return Measured(value=value, low=low, high=high)
