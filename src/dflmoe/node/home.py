"""The folder of a site: its name, its keys, and the federation that it belongs to.

Every file in it is replaced whole or not at all, and nothing is written before it was checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from dflmoe.errors import (
    EnvelopeError,
    FederationError,
    FingerprintError,
    KeyFileError,
    RosterError,
    StoreError,
)
from dflmoe.files import replace_file
from dflmoe.security.card import Card, Endpoint, Request, requested
from dflmoe.security.charter import Charter
from dflmoe.security.invitation import Invitation, invite, invited
from dflmoe.security.keys import (
    PublicKey,
    SiteKeys,
    key_of,
    key_text,
    load_keys,
    new_keys,
    same_fingerprint,
    save_keys,
)
from dflmoe.security.proposal import (
    founded,
    lacking,
    possessed,
    request,
    signed,
    with_card,
    with_key,
    with_site,
)
from dflmoe.security.roster import (
    FEWEST_APPROVERS,
    ROSTER_BYTES,
    Bundle,
    Roster,
    bundled,
    checked,
    proposed,
    root_of,
    signed_by,
    targets_of,
    trust_of,
)
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Digest, Document, SiteName

SITE, KEYS, NEXT = "site.json", "keys.pem", "next.pem"
CHARTER, TRUST, ROSTER = "charter.json", "trust.json", "roster.json"
MODEL = "model.safetensors"


OVERLAP = timedelta(days=7)
"""A new certificate begins to serve this long before the old one ends: peers know it by then."""


class Site(Document):
    """What a site is called and where it can be dialled."""

    name: SiteName
    endpoints: tuple[Endpoint, ...] = ()


class Trust(Document):
    """Why a site believes a roster.

    Attributes:
        charter: SHA-256 of the rules that it joined by.
        inviter: The key of who invited it; none at the founder.
        root: SHA-256 of the first root; none before there is one.
    """

    charter: Digest
    inviter: PublicKey | None
    root: Digest | None


def read_limited(path: Path, what: str, limit: int = ROSTER_BYTES) -> bytes:
    """Return a file that a person handed over.

    Raises:
        EnvelopeError: It is missing, unreadable or too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise EnvelopeError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if len(raw) > limit:
        raise EnvelopeError(f"{what} {path} is larger than {limit} bytes; it is none of ours")
    return raw


@dataclass(frozen=True)
class Home:
    """The folder of one site."""

    folder: Path

    # --- the site itself ---

    @classmethod
    def made(cls, folder: Path, name: SiteId, endpoints: Sequence[str], now: datetime) -> "Home":
        """Make a folder with new keys.

        Raises:
            KeyFileError: There is a site in it already.
            EnvelopeError: The name or an address is malformed.
            OutputError: The folder cannot be written.
        """
        home = cls(folder)
        if any((folder / name).exists() for name in (SITE, KEYS)):
            raise KeyFileError(f"{folder} holds a site already; its keys are never replaced")
        try:
            site = Site(name=name, endpoints=tuple(endpoints))
        except ValidationError as error:
            first = error.errors()[0]
            raise EnvelopeError(
                f"{first['input']!r} does not do: names are small letters, digits and hyphens, "
                f"addresses are host:port"
            ) from error
        save_keys(new_keys(name, now), folder / KEYS)
        replace_file(folder / SITE, site.signed())
        return home

    @property
    def site(self) -> Site:
        """What the site is called.

        Raises:
            KeyFileError: There is no site in the folder.
            EnvelopeError: Its file is malformed.
        """
        if not (self.folder / SITE).exists():
            raise KeyFileError(f"{self.folder} holds no site; make one with: dflmoe site init NAME")
        return Site.read(read_limited(self.folder / SITE, "the site"), "the site")

    @property
    def keys(self) -> SiteKeys:
        """The keys of the site.

        Raises:
            KeyFileError: One cannot be used.
        """
        return load_keys(self.folder / KEYS)

    @property
    def stamp(self) -> tuple[int | None, ...]:
        """When keys and roster were last written: what differs if somebody changed them."""
        paths = [self.folder / name for name in (KEYS, NEXT, ROSTER)]
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in paths)

    def card(self, charter: Charter, *keys: SiteKeys) -> Card:
        """Return what the site says of itself, with the certificates of some keys."""
        site = self.site
        return Card(
            federation=charter.federation,
            site=site.name,
            wrapping=keys[-1].wrapping_text,
            certificates=tuple(dict.fromkeys(one.pem for one in keys)),
            endpoints=site.endpoints,
        )

    def serve(self, model: bytes) -> None:
        """Keep the model of the last round.

        Raises:
            OutputError: The folder cannot be written.
        """
        replace_file(self.folder / MODEL, model)

    def model(self) -> Path:
        """Return the file with the model of the last round.

        Raises:
            StoreError: No round was played yet.
        """
        path = self.folder / MODEL
        if not path.exists():
            raise StoreError(
                f"the site in {self.folder} has played no round yet, so it has no model; "
                f"run: dflmoe node run --once"
            )
        return path

    # --- its federation ---

    def create(self, charter: Charter) -> None:
        """Begin a federation; it has a roster once a second site has joined.

        Raises:
            FederationError: The site belongs to one already.
            OutputError: The folder cannot be written.
        """
        self._alone()
        self._begin(charter, inviter=None, root=None)

    def invite(self, site: SiteId, now: datetime) -> bytes:
        """Return an invitation for a site."""
        return invite(
            self.charter,
            inviter=self.site.name,
            keys=self.keys,
            root=self._trust.root,
            site=site,
            now=now,
        )

    def join(self, raw: bytes, told: str, now: datetime) -> tuple[Invitation, Request]:
        """Accept an invitation whose inviter's fingerprint was told by phone.

        Returns:
            The invitation, and the request to send back.

        Raises:
            FingerprintError: The fingerprint is another.
            FederationError: The site belongs to a federation already, or is not meant.
            SecurityError: The invitation does not hold.
        """
        self._alone()
        invitation = invited(raw, site=self.site.name, now=now)
        compared(invitation.key, told, invitation.inviter)
        self._begin(invitation.charter, inviter=invitation.key, root=invitation.root)
        return invitation, self.request()

    def request(self) -> Request:
        """Return the request that asks to belong."""
        keys = self.keys
        return request(self.card(self.charter, keys), keys)

    @property
    def charter(self) -> Charter:
        """The rules that the site agreed to.

        Raises:
            FederationError: It belongs to no federation.
        """
        path = self.folder / CHARTER
        if not path.exists():
            raise FederationError(
                f"the site in {self.folder} belongs to no federation; begin one with: dflmoe "
                f"federation create, or accept an invitation with: dflmoe federation join"
            )
        return Charter.read(read_limited(path, "the charter"), "the charter")

    def roster(self, now: datetime) -> Roster | None:
        """Return the roster that is held, checked anew; none before the federation has one.

        Raises:
            SecurityError: It does not hold.
        """
        path, trust = self.folder / ROSTER, self._trust
        if trust.root is None or not path.exists():
            return None
        held = bundled(read_limited(path, "the roster"))
        # what is held is not new, so it may have expired
        return checked(held, trust.root, held=proposed(held, now), now=now)

    def approve(
        self, raw: bytes, now: datetime, *, approver: bool = True, relay: bool = False
    ) -> Bundle:
        """Return a proposal from a request, or one more signature on a proposal; nothing is stored.

        Args:
            raw: The request or the proposal.
            now: The moment.
            approver: Whether a newcomer shall decide with the others.
            relay: Whether it only passes heads on.

        Raises:
            SecurityError: It does not hold.
        """
        held, keys = self.roster(now), self.keys
        asked = as_request(raw)
        if asked is None:
            bundle = bundled(raw)
            if self._trust.root is None:
                self._founding(bundle)
        elif held is None:
            self._not_own(asked)
            bundle = founded(self.charter, self.request(), asked, now)
        elif possessed(asked).site in held.members:
            bundle = with_key(held, asked, now)
        else:
            bundle = with_site(held, asked, now, approver=approver and not relay, relay=relay)
        return signed(bundle, keys.signing)

    def install(self, bundle: Bundle, now: datetime) -> Roster:
        """Store a roster that is newer than the one that is held.

        Raises:
            RosterError: It lacks signatures, or does not hold.
            SecurityError: It is older, expired, or of another federation.
        """
        held, trust = self.roster(now), self._trust
        root = trust.root
        if root is None:
            self._founding(bundle)
            if not signed_by(root_of(bundle.roots[0]), [self.keys.public]):
                raise RosterError(
                    "this site has not approved the first roster; read and sign it with: "
                    "dflmoe federation approve"
                )
            root = trust_of(bundle)
        missing = lacking(bundle)
        if missing:
            raise RosterError(
                f"{missing} more must approve this proposal; hand it to them, "
                f"who run: dflmoe federation approve"
            )
        roster = checked(bundle, root, held=held, now=now)
        if roster.charter.digest != trust.charter:
            raise FederationError("the roster has another charter than the one that was joined")
        replace_file(self.folder / ROSTER, roster.raw)
        if trust.root is None:
            self._trusts(Trust(charter=trust.charter, inviter=trust.inviter, root=root))
        self.promote(now)
        return roster

    def renew(self, now: datetime) -> Roster | None:
        """Make a new certificate; nobody needs to approve it.

        Peers learn it before it serves: it stands on the site's card beside the old one, which
        serves until ``OVERLAP`` before its end.

        Returns:
            The roster that has the new card; none before the federation has a roster.

        Raises:
            FederationError: The site belongs to no federation.
            SecurityError: The roster that is held does not hold.
            OutputError: The folder cannot be written.
        """
        old = self.keys
        keys = new_keys(self.site.name, now, old)
        roster = self.roster(now)
        if (self.folder / NEXT).exists() and load_keys(self.folder / NEXT).public != old.public:
            raise KeyFileError(
                f"{self.folder / NEXT} holds a new identity that waits for the approvers; "
                f"renew the certificate once they agreed, or remove the file to give it up"
            )
        if roster is None:
            save_keys(keys, self.folder / KEYS)
            return None
        save_keys(keys, self.folder / NEXT)
        card = self.card(roster.charter, old, keys)
        newer = request(card, keys, version=self._card_after(roster))
        return self.install(with_card(roster, newer), now)

    def rotate(self, now: datetime) -> Request:
        """Draw a new identity, which serves once the approvers have agreed; returns the request.

        Raises:
            FederationError: The site belongs to no federation, or it has no roster yet.
            KeyFileError: A new identity waits for the approvers already.
            SecurityError: The roster that is held does not hold.
            OutputError: The folder cannot be written.
        """
        roster, old = self.roster(now), self.keys
        if roster is None:
            raise FederationError(
                "the federation has no roster yet, so nobody knows this site's key; "
                "make a new folder instead"
            )
        path = self.folder / NEXT
        kept = load_keys(path) if path.exists() else old  # a certificate whose time has not come
        if kept.public != old.public:
            raise KeyFileError(
                f"{path} holds a new identity that waits for the approvers; "
                f"remove the file to give it up"
            )
        keys = replace(kept, signing=new_keys(self.site.name, now).signing)
        save_keys(keys, path)
        version, card = self._card_after(roster), self.card(roster.charter, old, keys)
        return request(card, keys, version=version, old=old.signing)

    def promote(self, now: datetime) -> bool:
        """Begin to use the next keys, if it is time; returns whether it was.

        A new identity serves once the roster has it, a new certificate shortly before the old ends.

        Raises:
            SecurityError: The roster that is held, or the next keys, cannot be used.
        """
        path, roster = self.folder / NEXT, self.roster(now)
        if roster is None or not path.exists():
            return False
        old, keys = self.keys, load_keys(path)
        member = roster.members.get(self.site.name)
        if member is None or keys.public.keyid not in member.keys:
            return False
        if keys.public == old.public and now < old.certificate.not_valid_after_utc - OVERLAP:
            return False
        path.replace(self.folder / KEYS)
        return True

    # --- what stands behind these ---

    @property
    def _trust(self) -> Trust:
        _ = self.charter  # says what to do where there is none
        return Trust.read(read_limited(self.folder / TRUST, "the trust"), "the trust")

    def _trusts(self, trust: Trust) -> None:
        replace_file(self.folder / TRUST, trust.signed())

    def _begin(self, charter: Charter, *, inviter: str | None, root: str | None) -> None:
        self._trusts(Trust(charter=charter.digest, inviter=inviter, root=root))
        replace_file(self.folder / CHARTER, charter.signed())

    def _alone(self) -> None:
        _ = self.site
        if (self.folder / CHARTER).exists():
            raise FederationError(
                f"the site in {self.folder} belongs to {self.charter.name!r} already; "
                f"another federation needs a folder of its own"
            )

    def _not_own(self, asked: Request) -> None:
        if asked.key == key_text(self.keys.public):
            raise RosterError("a federation is founded by two; this is your own request")

    def _founding(self, bundle: Bundle) -> None:
        """Check a first roster: it names inviter and site, and no other, under the joined rules.

        Raises:
            RosterError: It names others.
            FederationError: It is under other rules.
        """
        trust = self._trust
        root = root_of(bundle.roots[0]).signed
        there = {key_text(root.keys[k]) for role in root.roles.values() for k in role.keyids}
        own = key_text(self.keys.public)
        expected = {own, trust.inviter} if trust.inviter else there
        if own not in there or there != expected or len(there) > FEWEST_APPROVERS:
            raise RosterError(
                "the first roster does not name the inviter and this site alone; refuse it"
            )
        if Charter.read(bundle.charter.encode(), "the charter").digest != trust.charter:
            raise FederationError("the roster has another charter than the one that was joined")

    def _card_after(self, roster: Roster) -> int:
        """Return the version of the site's next card."""
        if self.site.name not in roster.members:
            raise FederationError(f"{self.site.name} no longer belongs to {roster.charter.name!r}")
        version: int = targets_of(roster.bundle.signed_cards[self.site.name]).signed.version
        return version + 1


def compared(key: PublicKey, told: str, whose: str) -> None:
    """Check that a fingerprint is the one that was told by phone.

    Raises:
        FingerprintError: It is another.
    """
    if not same_fingerprint(key_of(key), told):
        raise FingerprintError(
            f"the key in the file is not the one whose fingerprint {whose} told you; do not go on: "
            f"call them again, and ask for the file anew"
        )


def as_request(raw: bytes) -> Request | None:
    """Return a request, or nothing if it is a proposal.

    Raises:
        EnvelopeError: It is neither.
    """
    try:
        return requested(raw)
    except EnvelopeError:
        bundled(raw)
        return None
