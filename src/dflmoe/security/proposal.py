"""Proposals: the next version of a roster, which counts once enough approvers have signed it.

A proposal is a bundle like any other and travels like one; whoever holds it can see who has signed
and what it changes, and only ``roster.checked`` decides whether it counts.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    TargetFile,
    Targets,
)

from dflmoe.errors import EnvelopeError, FederationError, RosterError, UnknownKeyError
from dflmoe.security.card import Card, Request
from dflmoe.security.charter import Charter
from dflmoe.security.keys import SiteKeys, key_of, key_text
from dflmoe.security.roster import (
    CHARTER,
    FEWEST_APPROVERS,
    RELAY,
    RETIRES,
    ROLE,
    UNDER,
    Bundle,
    Member,
    Roster,
    agreed,
    card_of,
    delegated,
    path_of,
    root_of,
    signed_by,
    targets_of,
    text_of,
)
from dflmoe.types import SiteId

ROSTER_DAYS = 180
OVERLAP_DAYS = 30
"""How long the old key of a site still counts after a new one was approved."""


def _file(path: str, text: str) -> dict[str, TargetFile]:
    return {path: TargetFile.from_data(path, text.encode(), ["sha256"])}


def request(
    card: Card, keys: SiteKeys, *, version: int = 1, old: Ed25519PrivateKey | None = None
) -> Request:
    """Return a site's card, signed by it: the request of a newcomer, or what is new of a member.

    Args:
        card: What the site says of itself.
        keys: Its keys.
        version: Of the card; more than that of any before.
        old: The key before, which signs too when it is rotated.
    """
    text = card.signed().decode()
    ends = keys.certificate.not_valid_after_utc.replace(microsecond=0)
    own = Metadata(Targets(version, None, ends, _file(path_of(card.site), text)))
    for key in (keys.signing, *([old] if old else [])):
        own.sign(CryptoSigner(key), append=True)
    return Request(key=key_text(keys.public), card=text, signed_card=text_of(own))


def possessed(asked: Request) -> Card:
    """Return the card of a request whose key signed it.

    Raises:
        UnknownKeyError: The key did not sign it.
        EnvelopeError: It is malformed.
    """
    card, key = asked.shown(), key_of(asked.key)
    try:
        own = targets_of(asked.signed_card)
        card_of(card.site, own.signed, asked.card)
    except (RepositoryError, RosterError) as error:
        raise EnvelopeError(
            f"the request of {card.site} does not hold together: {error}"
        ) from error
    if not signed_by(own, [key]):
        raise UnknownKeyError(
            f"the request of {card.site} is not signed with the key that it names; refuse it"
        )
    return card


def founded(charter: Charter, founder: Request, second: Request, now: datetime) -> Bundle:
    """Return the roster of two sites that found a federation; nobody has signed it yet."""
    keys = {key.keyid: key for key in (key_of(founder.key), key_of(second.key))}
    text = charter.signed().decode()
    nobody = Delegations(keys={}, roles={})
    targets = Targets(1, None, _until(now), _file(CHARTER, text), nobody, {UNDER: 1})
    empty = Bundle(
        roots=(text_of(Metadata(_root(1, keys, now))),),
        targets=text_of(Metadata(targets)),
        charter=text,
        cards={},
        signed_cards={},
    )
    for one in (founder, second):
        empty = _placed(empty, one)
    return empty


def _until(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0) + timedelta(days=ROSTER_DAYS)


def _root(version: int, keys: Mapping[str, Key], now: datetime) -> Root:
    ids, threshold = sorted(keys), agreed(len(keys))
    roles = {name: Role(list(ids), threshold) for name in sorted(TOP_LEVEL_ROLE_NAMES)}
    return Root(version, None, _until(now), dict(keys), roles, consistent_snapshot=False)


def _placed(bundle: Bundle, asked: Request, *, relay: bool = False) -> Bundle:
    """Return a bundle with a site in it, in the version that it has."""
    card, key = possessed(asked), key_of(asked.key)
    if card.site in TOP_LEVEL_ROLE_NAMES:
        raise RosterError(f"no site can be called {card.site!r}; the newcomer needs another name")
    extra = {ROLE: RELAY} if relay else {}
    role = DelegatedRole(card.site, [key.keyid], 1, True, [path_of(card.site)], None, extra)
    return _with_card(_delegated(bundle, role, key), card.site, asked)


def _delegated(bundle: Bundle, role: DelegatedRole, key: Key) -> Bundle:
    """Return a bundle in which a site signs by other keys, one of them new."""
    metadata = targets_of(bundle.targets)
    keys, roles = delegated(metadata.signed)
    metadata.signed.delegations = Delegations({**keys, key.keyid: key}, {**roles, role.name: role})
    return bundle.model_copy(update={"targets": text_of(metadata)})


def _with_card(bundle: Bundle, site: SiteId, asked: Request) -> Bundle:
    """Return a bundle with another card of a site."""
    return bundle.model_copy(
        update={
            "cards": {**bundle.cards, site: asked.card},
            "signed_cards": {**bundle.signed_cards, site: asked.signed_card},
        }
    )


def _next(roster: Roster, now: datetime) -> Bundle:
    """Return the next version of a roster, which nobody has signed yet."""
    metadata = targets_of(roster.bundle.targets)
    metadata.signed.version += 1
    metadata.signed.expires = _until(now)
    metadata.signatures.clear()
    return roster.bundle.model_copy(update={"targets": text_of(metadata)})


def with_site(
    roster: Roster, asked: Request, now: datetime, *, approver: bool = True, relay: bool = False
) -> Bundle:
    """Return a proposal in which a site belongs; nobody has signed it yet.

    Raises:
        RosterError: There is such a site, or the request is for another federation.
        UnknownKeyError: The request's key did not sign it.
    """
    card = possessed(asked)
    if card.site in roster.members:
        raise RosterError(f"there is a site {card.site!r} already; the newcomer needs another name")
    if card.federation != roster.charter.federation:
        raise FederationError(f"the request of {card.site} is for another federation")
    bundle = _placed(_next(roster, now), asked, relay=relay)
    return _approved_by(bundle, roster, [key_of(asked.key)], (), now) if approver else bundle


def with_card(roster: Roster, asked: Request) -> Bundle:
    """Return a roster with a newer card of a member, which nobody needs to approve.

    Raises:
        RosterError: There is no such member.
    """
    card = asked.shown()
    _member(roster, card.site)
    return _with_card(roster.bundle, card.site, asked)


def with_key(roster: Roster, asked: Request, now: datetime) -> Bundle:
    """Return a proposal in which a site has one more key; nobody has signed it yet.

    The keys before count for ``OVERLAP_DAYS`` more, so that heads that are on their way arrive.

    Raises:
        RosterError: There is no such member.
        UnknownKeyError: The card is not signed with the new key and one that the site has.
    """
    card, key = possessed(asked), key_of(asked.key)
    member = _member(roster, card.site)
    if not signed_by(targets_of(asked.signed_card), member.keys.values()):
        raise UnknownKeyError(
            f"the new key of {card.site} is not vouched for by its old one; refuse it"
        )
    retires = {k: f"{now.astimezone(UTC) + timedelta(days=OVERLAP_DAYS)}" for k in member.keys}
    extra = {RETIRES: retires} | ({ROLE: RELAY} if member.relay else {})
    ids = [*member.keys, key.keyid]
    role = DelegatedRole(card.site, ids, 1, True, [path_of(card.site)], None, extra)
    bundle = _with_card(_delegated(_next(roster, now), role, key), card.site, asked)
    return _approved_by(bundle, roster, [key], member.keys, now) if member.approver else bundle


def _member(roster: Roster, site: SiteId) -> Member:
    if site not in roster.members:
        raise RosterError(f"there is no site {site!r}; there are {', '.join(roster.members)}")
    return roster.members[site]


def without_site(roster: Roster, site: SiteId, now: datetime) -> Bundle:
    """Return a proposal in which a site no longer belongs; nobody has signed it yet.

    Raises:
        RosterError: There is no such site, or too few approvers would be left.
    """
    member = _member(roster, site)
    bundle = _next(roster, now)
    metadata = targets_of(bundle.targets)
    keys, roles = delegated(metadata.signed)
    metadata.signed.delegations = Delegations(
        {k: key for k, key in keys.items() if k not in roles[site].keyids},
        {name: role for name, role in roles.items() if name != site},
    )
    left = {
        "targets": text_of(metadata),
        "cards": {s: text for s, text in bundle.cards.items() if s != site},
        "signed_cards": {s: text for s, text in bundle.signed_cards.items() if s != site},
    }
    bundle = bundle.model_copy(update=left)
    return _approved_by(bundle, roster, (), member.keys, now) if member.approver else bundle


def renewed(roster: Roster, now: datetime) -> Bundle:
    """Return a proposal that says the same for longer; nobody has signed it yet."""
    return _approved_by(_next(roster, now), roster, (), (), now)


def _approved_by(
    bundle: Bundle, roster: Roster, more: Iterable[Key], fewer: Iterable[str], now: datetime
) -> Bundle:
    """Return a bundle with one more root, in which other keys decide."""
    last = root_of(roster.bundle.roots[-1]).signed
    gone = set(fewer)
    keys = {k: last.keys[k] for k in last.roles[Root.type].keyids if k not in gone}
    keys |= {key.keyid: key for key in more}
    if len(keys) < FEWEST_APPROVERS:
        raise RosterError(
            f"{len(keys)} approver would be left, and {FEWEST_APPROVERS} must agree; "
            f"let another site approve first"
        )
    root = text_of(Metadata(_root(last.version + 1, keys, now)))
    targets = targets_of(bundle.targets)
    targets.signed.unrecognized_fields[UNDER] = last.version + 1
    return bundle.model_copy(
        update={"roots": (*roster.bundle.roots, root), "targets": text_of(targets)}
    )


def signed(bundle: Bundle, key: Ed25519PrivateKey) -> Bundle:
    """Return a proposal with one more signature."""
    signer = CryptoSigner(key)
    root, targets = root_of(bundle.roots[-1]), targets_of(bundle.targets)
    root.sign(signer, append=True)
    targets.sign(signer, append=True)
    return bundle.model_copy(
        update={"roots": (*bundle.roots[:-1], text_of(root)), "targets": text_of(targets)}
    )


def lacking(bundle: Bundle) -> int:
    """Return how many more approvers must sign a proposal."""
    root = root_of(bundle.roots[-1])
    judges = [root_of(text).signed for text in bundle.roots[-2:]]
    targets = targets_of(bundle.targets)
    found = [
        judge.get_verification_result(Root.type, root.signed_bytes, root.signatures)
        for judge in judges
    ]
    found.append(
        root.signed.get_verification_result(Targets.type, targets.signed_bytes, targets.signatures)
    )
    return max(0, *(result.threshold - len(result.signed) for result in found))
