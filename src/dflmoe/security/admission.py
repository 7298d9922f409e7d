"""From an envelope that anybody may have sent to a head that may be used.

The order is normative, cheapest first, and the first failure names itself: size and form of the
envelope, key, signature; only then the manifest, its federation, charter and site; that it is newer
than what is held; what it announces; then, once the payload was fetched, its size and digest, its
header, and its numbers. Whether a head serves is decided later, by the site's own rows.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from dflmoe.errors import (
    EquivocationError,
    ExpiredError,
    FederationError,
    HeadError,
    ReplayError,
    SignatureError,
)
from dflmoe.security.roster import Roster
from dflmoe.types import Params, SiteId
from dflmoe.wire.envelope import HEAD, opened
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.payload import HeadSpec, decode

AHEAD = timedelta(days=1)
"""Numbers are moments: one further ahead than clocks differ would silence its site for ever."""


def announced(
    raw: bytes, roster: Roster, newest: Mapping[SiteId, Manifest], now: datetime
) -> Manifest:
    """Return the manifest of a head whose payload may be fetched.

    Args:
        raw: The envelope, as received.
        roster: Who may lend, and by which rules.
        newest: The newest manifest that was accepted of each site.
        now: The moment.

    Raises:
        ExpiredError: The roster lapsed, so nobody lends or borrows any more.
        EnvelopeError: It is too large or malformed.
        UnknownKeyError: It is signed with a key of no member.
        SignatureError: It was changed, or signed by another site than it names.
        FederationError: It is for another federation or charter, or by a relay.
        ReplayError: It is not newer than what is held.
        EquivocationError: Its site signed two heads of one number.
        HeadError: It announces more bytes, or other numbers, than the charter allows, or has a
            number of the future.
    """
    in_force(roster, now)
    claimed = "a head"
    found = opened(raw, HEAD, roster.keys, claimed)
    manifest = Manifest.read(found.payload, f"the manifest of {claimed}")
    site, charter = manifest.site, roster.charter
    if manifest.federation != charter.federation:
        raise FederationError(f"the head of {site} is for another federation")
    if manifest.charter != charter.digest:
        raise FederationError(
            f"the head of {site} was made by another charter; compare the rosters of both sites"
        )
    if {roster.owner[k] for k in found.signers} != {site}:
        raise SignatureError(f"the head of {site} is signed by another site")
    if roster.members[site].relay:
        raise FederationError(f"{site} is a relay, which passes heads on and lends none")
    held = newest.get(site)
    if held is not None and manifest.seq == held.seq and manifest != held:
        raise EquivocationError(
            f"{site} signed two heads with number {held.seq}: a fault of its software, or its key "
            f"is in two hands; both are kept, and no head of it is used until you say: "
            f"dflmoe head release {site}"
        )
    if held is not None and manifest.seq <= held.seq:
        raise ReplayError(f"the head of {site} has number {manifest.seq}; {held.seq} is held")
    if manifest.seq > (now + AHEAD).timestamp() * 1e6:
        raise HeadError(f"the head of {site} has a number of the future; compare both clocks")
    if manifest.size > charter.max_head_bytes:
        raise HeadError(
            f"{site} announces {manifest.size} bytes; the charter allows {charter.max_head_bytes}"
        )
    if manifest.dtype != charter.dtype:
        raise HeadError(f"{site} announces {manifest.dtype}; the charter says {charter.dtype}")
    return manifest


def in_force(roster: Roster, now: datetime) -> None:
    """Check that a roster is valid, or in its days of grace.

    Raises:
        ExpiredError: It lapsed.
    """
    if roster.standing(now) == "lapsed":
        raise ExpiredError(
            f"the roster was valid until {roster.expires:%Y-%m-%d}, and its days of grace are "
            f"over; ask the approvers to renew it with: dflmoe federation renew"
        )


def received(manifest: Manifest, payload: bytes, spec: HeadSpec) -> Params:
    """Return the tensors of a payload that was announced.

    Raises:
        HeadError: It has another size or digest than announced, or does not fit.
    """
    if len(payload) != manifest.size:
        raise HeadError(
            f"{manifest.site} announced {manifest.size} bytes and sent {len(payload)}; "
            f"it will be asked for again"
        )
    return decode(payload, manifest.payload, spec, manifest.site)
