"""The roster: who belongs to a federation, by whose decision, and under which charter.

It is a repository of The Update Framework (python-tuf): a chain of roots that name the approvers
and how many must agree, and signed targets that hold the charter's hash and, as a delegation to its
own key, every site. What a site says of itself (its card) is signed by that site alone. Nothing
needs a server: any peer, relay or stick can hand the bundle on, and a bundle that is older than
what is held, altered, or signed by too few is refused.

Top-level metadata have one set of keys, so the framework's snapshot and timestamp, which guard
against the theft of a key that lies online, would add nothing and are left out (docs/adr/0013).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from dflmoe.errors import (
    EnvelopeError,
    ExpiredError,
    FederationError,
    ReplayError,
    RosterError,
)
from dflmoe.security.card import Card
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint, key_of, key_text, pinned
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Document, SiteName

ROSTER_BYTES = 4 * 1024**2
"""Larger rosters are refused unread."""

GRACE_DAYS = 90
FEWEST_APPROVERS = 2
CHARTER = "charter.json"
ROLE, RELAY, RETIRES = "role", "relay", "retires"
"""What the approvers add to a delegation: that it is a relay's, and when keys end."""

UNDER = "root"
"""What they add to the targets: the version of the root that they decide under."""

MALFORMED = (RepositoryError, EnvelopeError, ValueError, KeyError, TypeError, AttributeError)
"""What documents of another form may lead to, whoever signed them."""

Part = TypeVar("Part", Root, Targets)
Standing = Literal["valid", "grace", "lapsed"]
Text = Annotated[str, Field(max_length=ROSTER_BYTES)]


class Bundle(Document):
    """A whole roster as it is stored and handed on.

    Attributes:
        format: Of this document.
        roots: Every root from the first.
        targets: Who belongs.
        charter: The rules.
        cards: What each site says of itself.
        signed_cards: Each site's signature over its card.
    """

    format: Literal["dflmoe-roster-1"] = "dflmoe-roster-1"
    roots: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]
    targets: Text
    charter: Text
    cards: dict[SiteName, Text]
    signed_cards: dict[SiteName, Text]


def bundled(raw: bytes) -> Bundle:
    """Return a bundle, none of which is to be believed yet.

    Raises:
        EnvelopeError: It is too large or malformed.
    """
    if len(raw) > ROSTER_BYTES:
        raise EnvelopeError(f"the roster has {len(raw)} bytes; the limit is {ROSTER_BYTES}")
    return Bundle.read(raw, "the roster")


def root_of(text: str) -> Metadata[Root]:
    """Return a root of a bundle.

    Raises:
        RosterError: It is none.
    """
    return _metadata(text, Root)


def targets_of(text: str) -> Metadata[Targets]:
    """Return who belongs, or a signed card.

    Raises:
        RosterError: It is neither.
    """
    return _metadata(text, Targets)


def _metadata(text: str, kind: type[Part]) -> Metadata[Part]:
    """Return signed metadata, once it is of the kind that was asked for."""
    try:
        found: Metadata[Part] = Metadata.from_bytes(text.encode())
        _ = found.signed_bytes  # what cannot be written again, as infinity, was never signed
    except RepositoryError as error:
        raise RosterError(f"a part of the roster cannot be read: {error}") from error
    if not isinstance(found.signed, kind):
        raise RosterError(f"a part of the roster is {found.signed.type}, not {kind.type}")
    return found


def text_of(metadata: Metadata[Root] | Metadata[Targets]) -> str:
    """Return signed metadata as a bundle holds it."""
    return metadata.to_bytes(JSONSerializer(compact=True)).decode()


def trust_of(bundle: Bundle) -> str:
    """Return the SHA-256 of the first root as it is signed; a newcomer's invitation names it.

    Raises:
        RosterError: It is no root.
    """
    return hashlib.sha256(root_of(bundle.roots[0]).signed_bytes).hexdigest()


def agreed(approvers: int) -> int:
    """Return how many approvers must agree: a majority, and at least two."""
    return max(FEWEST_APPROVERS, approvers // 2 + 1)


def path_of(site: SiteId) -> str:
    """Return the path of a site's card among the targets."""
    return f"sites/{site}.json"


@dataclass(frozen=True)
class Member:
    """A site of the roster.

    Attributes:
        site: Its name.
        keys: Those that sign for it, by id; two while one is rotated.
        card: What it says of itself.
        relay: Whether it only passes heads on, and lends none.
        approver: Whether it decides with others who belongs.
    """

    site: SiteId
    keys: Mapping[str, Key]
    card: Card
    relay: bool
    approver: bool


@dataclass(frozen=True)
class Roster:
    """A roster that was checked.

    Attributes:
        bundle: As it is handed on.
        version: Of who belongs.
        expires: The day after which nothing new is accepted.
        charter: The rules.
        members: By name.
        threshold: Approvers that must agree.
    """

    bundle: Bundle
    version: int
    expires: datetime
    charter: Charter
    members: Mapping[SiteId, Member]
    threshold: int

    @cached_property
    def keys(self) -> dict[str, Key]:
        """Every key that signs for a member."""
        return {k: key for member in self.members.values() for k, key in member.keys.items()}

    @cached_property
    def owner(self) -> dict[str, SiteId]:
        """The member that each key signs for."""
        return {k: member.site for member in self.members.values() for k in member.keys}

    @property
    def certificates(self) -> bytes:
        """Certificates of all members: the only ones that a connection trusts."""
        return "".join(c for m in self.members.values() for c in m.card.certificates).encode()

    @cached_property
    def bearer(self) -> dict[str, SiteId]:
        """The member that each certificate, as PEM, is pinned for."""
        return {c: m.site for m in self.members.values() for c in m.card.certificates}

    @cached_property
    def raw(self) -> bytes:
        """The bundle as it is stored and sent."""
        return self.bundle.signed()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of that."""
        return hashlib.sha256(self.raw).hexdigest()

    def standing(self, now: datetime) -> Standing:
        """Return whether the roster is valid, in its days of grace, or lapsed."""
        if now <= self.expires:
            return "valid"
        return "grace" if now <= self.expires + timedelta(days=GRACE_DAYS) else "lapsed"


def checked(bundle: Bundle, trust: str, *, held: Roster | None = None, now: datetime) -> Roster:
    """Return the roster of a bundle, once everything in it was checked.

    Cards are the newest of those held and those received, so that two peers who each know a newer
    card of somebody can both learn from each other.

    Args:
        bundle: As received.
        trust: SHA-256 of the first root.
        held: The roster so far, which is never gone back on.
        now: The moment of the check.

    Raises:
        FederationError: It begins with another root, or is of another federation.
        ReplayError: It is older than the one that is held.
        ExpiredError: It has expired, and says something new.
        RosterError: It contradicts itself or what is held, or too few approvers signed it.
    """
    if trust_of(bundle) != trust:
        raise FederationError(
            "the roster begins with another root than the one that was trusted; "
            "it is of another federation, or forged"
        )
    bundle = _canonical(bundle, held.bundle if held else None)
    try:
        _approved(bundle)
    except RepositoryError as error:
        raise RosterError(f"the roster does not hold together: {error}") from error
    roster = proposed(bundle, now)
    _goes_on(roster, held)
    if now > roster.expires and (held is None or roster.bundle != held.bundle):
        raise ExpiredError(
            f"the roster was valid until {roster.expires:%Y-%m-%d} and says something new; "
            f"ask the approvers to renew it with: dflmoe federation renew"
        )
    return roster


def proposed(bundle: Bundle, now: datetime) -> Roster:
    """Return what a bundle says, whose approvals nobody has checked: for people to read.

    Raises:
        RosterError: It contradicts itself.
    """
    try:
        root, targets = root_of(bundle.roots[-1]).signed, targets_of(bundle.targets).signed
        if targets.unrecognized_fields.get(UNDER) != root.version:
            raise RosterError("the roster was agreed on under another root than its last")
        _hashed(targets.targets, CHARTER, bundle.charter)
        charter = Charter.read(bundle.charter.encode(), "the charter")
        members = _members(bundle, root, targets, charter, now)
    except MALFORMED as error:
        raise RosterError(f"the roster does not hold together: {error}") from error
    return Roster(
        bundle,
        targets.version,
        min(root.expires, targets.expires),
        charter,
        members,
        root.roles[Targets.type].threshold,
    )


def _goes_on(roster: Roster, held: Roster | None) -> None:
    """Check that a roster goes on where the one that is held ended."""
    if held is None:
        return
    before = [root_of(text).signed_bytes for text in held.bundle.roots]
    if [root_of(text).signed_bytes for text in roster.bundle.roots[: len(before)]] != before:
        raise ReplayError("the roster's chain of roots is not that of the one that is held")
    if roster.version < held.version:
        raise ReplayError(
            f"the roster has version {roster.version}, and version {held.version} is held"
        )
    one, other = (targets_of(r.bundle.targets).signed_bytes for r in (roster, held))
    if roster.version == held.version and one != other:
        raise RosterError(
            f"two different rosters of version {held.version} were signed; "
            f"call the approvers: one of their keys may be stolen"
        )


def _approved(bundle: Bundle) -> None:
    """Check that every root was agreed on by the one before and by itself, and the targets too."""
    roots = [root_of(text) for text in bundle.roots]
    judge = roots[0].signed
    for number, one in enumerate(roots, 1):
        judge.verify_delegate(Root.type, one.signed_bytes, one.signatures)
        judge = one.signed
        judge.verify_delegate(Root.type, one.signed_bytes, one.signatures)
        if judge.version != number:
            raise RosterError(f"root {number} of the roster has version {judge.version}")
    targets = targets_of(bundle.targets)
    judge.verify_delegate(Targets.type, targets.signed_bytes, targets.signatures)


def _deciding(root: Root) -> frozenset[str]:
    """Return the keys of the approvers: the same for all roles, each its own, a majority to agree.

    Raises:
        RosterError: The root is otherwise.
    """
    ids = frozenset(root.keys)
    for role in root.roles.values():
        if frozenset(role.keyids) != ids or len(role.keyids) != len(ids):
            raise RosterError("the roster lets different keys decide in different matters")
        if len(ids) < FEWEST_APPROVERS or role.threshold != agreed(len(ids)):
            raise RosterError(
                f"the roster lets {role.threshold} of {len(ids)} keys decide who belongs"
            )
    _genuine(root.keys)
    return ids


def _genuine(keys: Mapping[str, Key]) -> None:
    """Check that keys are Ed25519, and each has its own name and no other."""
    for keyid, key in keys.items():
        try:
            own = key_of(key_text(key)).keyid
        except (ValueError, KeyError, TypeError) as error:
            raise RosterError(f"key {keyid[:12]} of the roster is no Ed25519 key") from error
        if keyid != own or key.keyid != own or key.scheme != "ed25519":
            raise RosterError(f"key {keyid[:12]} of the roster has another name than its own")


def delegated(targets: Targets) -> tuple[Mapping[str, Key], Mapping[SiteId, DelegatedRole]]:
    """Return the keys that sites sign by, and which site by which."""
    there = targets.delegations
    return ({}, {}) if there is None else (there.keys, there.roles or {})


def signed_by(own: Metadata[Targets] | Metadata[Root], keys: Iterable[Key]) -> bool:
    """Return whether one of some keys signed a card or a root."""
    for key in keys:
        try:
            key.verify_signature(own.signatures[key.keyid], own.signed_bytes)
        except (KeyError, UnverifiedSignatureError):
            continue
        return True
    return False


def _hashed(files: Mapping[str, TargetFile], path: str, text: str) -> None:
    if path not in files:
        raise RosterError(f"{path} is not signed")
    files[path].verify_length_and_hashes(text.encode())


def _members(
    bundle: Bundle, root: Root, targets: Targets, charter: Charter, now: datetime
) -> dict[SiteId, Member]:
    """Return every site; its keys are the approvers' word, its card its own."""
    keys_there, roles = delegated(targets)
    _genuine(keys_there)
    approvers = _deciding(root)
    members = {}
    for site, role in sorted(roles.items()):
        if site not in bundle.cards or site not in bundle.signed_cards:
            raise RosterError(f"the roster has no card of {site}")
        keys = {k: keys_there[k] for k in role.keyids if now <= _retires(role, k)}
        own = targets_of(bundle.signed_cards[site])
        if not signed_by(own, [keys_there[k] for k in _lasting(role)]):
            raise RosterError(f"the card of {site} is not signed with its key")
        card = card_of(site, own.signed, bundle.cards[site])
        if card.federation != charter.federation:
            raise RosterError(f"the card of {site} is for another federation")
        relay = role.unrecognized_fields.get(ROLE) == RELAY
        deciding = approvers & set(keys)
        if len(deciding) > 1 or (relay and deciding):
            raise RosterError(f"{site} would decide with {len(deciding)} keys")
        members[site] = Member(site, keys, card, relay, bool(deciding))
    if not set(bundle.cards) == set(bundle.signed_cards) == set(members):
        raise RosterError("the roster has cards of sites that do not belong")
    signing = [k for member in members.values() for k in member.keys]
    if len(signing) != len(set(signing)):
        raise RosterError("two sites of the roster have one key")
    if not approvers <= set(signing):
        raise RosterError("the roster lets keys decide that are of no member")
    return members


def _lasting(role: DelegatedRole) -> list[str]:
    """Return the keys of a site that are not on their way out: they sign its cards."""
    return [k for k in role.keyids if k not in role.unrecognized_fields.get(RETIRES, {})]


def _retires(role: DelegatedRole, keyid: str) -> datetime:
    """Return until when a key signs for its site: for ever, unless it was rotated away."""
    ends = role.unrecognized_fields.get(RETIRES, {}).get(keyid)
    return datetime.max.replace(tzinfo=UTC) if ends is None else datetime.fromisoformat(ends)


def card_of(site: SiteId, own: Targets, text: str) -> Card:
    """Return a card whose hash its site signed, and whose certificates bear the site's name.

    Raises:
        RosterError: The hash is not signed, or the card or a certificate is another site's.
        RepositoryError: The card has another hash.
        EnvelopeError: It is malformed.
    """
    _hashed(own.targets, path_of(site), text)
    card = Card.read(text.encode(), f"the card of {site}")
    if card.site != site:
        raise RosterError(f"the card of {site} is of {card.site}")
    try:
        for pem in card.certificates:
            pinned(pem, site)
        public = X25519PublicKey.from_public_bytes(bytes.fromhex(card.wrapping))
        X25519PrivateKey.generate().exchange(public)  # a key of low order keeps no secret
    except ValueError as error:
        raise RosterError(f"a key or certificate on the card of {site}: {error}") from error
    return card


def _canonical(bundle: Bundle, held: Bundle | None) -> Bundle:
    """Return a bundle with the newest card of each site, spelt in the one way that we spell it.

    Of what is held already the held spelling stays, and only signatures that count are kept, so
    that whoever hands a roster on can neither blow it up nor let two peers swap it for ever.
    """
    before = held or bundle.model_copy(update={"roots": (), "signed_cards": {}, "cards": {}})
    roots, judge = [], root_of(bundle.roots[0]).signed
    known = {root_of(text).signed_bytes: text for text in before.roots}
    for text in bundle.roots:
        one = root_of(text)
        counted = {*judge.keys, *one.signed.keys}
        roots.append(known.get(one.signed_bytes) or _trimmed(one, counted))
        judge = one.signed
    targets = targets_of(bundle.targets)
    same = held is not None and targets_of(held.targets).signed_bytes == targets.signed_bytes
    keys, roles = delegated(targets.signed)
    cards, signed_cards = {}, {}
    for site, text in bundle.signed_cards.items():
        role = roles.get(site)
        lasting = _lasting(role) if role else []
        choices = [(text, bundle.cards.get(site, ""))]
        if site in before.signed_cards and held is not None:
            own = targets_of(before.signed_cards[site])
            if signed_by(own, [keys[k] for k in lasting if k in keys]):
                choices.append((before.signed_cards[site], before.cards[site]))
        newest, cards[site] = max(choices, key=_card_order)
        signed_cards[site] = _trimmed(targets_of(newest), set(role.keyids if role else ()))
    found = bundle.model_copy(
        update={
            "roots": tuple(roots),
            "targets": held.targets if same and held else _trimmed(targets, {*judge.keys}),
            "cards": {**bundle.cards, **cards},
            "signed_cards": signed_cards,
        }
    )
    if len(found.signed()) > ROSTER_BYTES:
        raise RosterError(f"the roster would have more than {ROSTER_BYTES} bytes")
    return found


def _card_order(choice: tuple[str, str]) -> tuple[int, str]:
    """Return what decides between two cards of a site: the version, then the digest."""
    own = targets_of(choice[0])
    return own.signed.version, hashlib.sha256(own.signed_bytes).hexdigest()


def _trimmed(metadata: Metadata[Root] | Metadata[Targets], keyids: set[str]) -> str:
    """Return metadata as text, with signatures of some keys only."""
    for keyid in set(metadata.signatures) - keyids:
        del metadata.signatures[keyid]
    return text_of(metadata)


def changes(before: Roster | None, after: Roster) -> list[str]:
    """Return what a proposal changes, in sentences for those who are asked to approve it."""
    old = before.members if before else {}
    said = [] if before else [f"The federation {after.charter.name!r} is founded."]
    said += [f"{site} no longer belongs." for site in old if site not in after.members]
    for site, member in after.members.items():
        what = "relay" if member.relay else "site"
        prints = " and ".join(fingerprint(key) for key in member.keys.values())
        if site not in old:
            vote = ", and approves" if member.approver else ""
            said.append(f"{site} belongs as a {what}{vote}; fingerprint {prints}.")
        elif member.relay != old[site].relay:
            said.append(f"{site} becomes a {what}.")
        elif set(member.keys) != set(old[site].keys):
            said.append(f"{site} has other keys; fingerprints {prints}.")
        elif member.approver != old[site].approver:
            said.append(f"{site} {'approves' if member.approver else 'no longer approves'}.")
    if before and before.charter != after.charter:
        said.append("The charter is another.")
    said.append(f"{after.threshold} must agree from now on; valid until {after.expires:%Y-%m-%d}.")
    return said
