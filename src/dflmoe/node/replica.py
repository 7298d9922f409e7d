"""The heads that a site holds, its own and others', as an exchange sees them.

A replica knows what it may offer, what it wants, and what it takes; how bytes travel is not its
business. Whatever arrives is checked here, in the order of ``security.admission``, and a failure is
counted and costs nothing else.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.metadata import version

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from dflmoe.core.site import LEADING, Lent
from dflmoe.errors import (
    DflmoeError,
    EquivocationError,
    FederationError,
    HeadError,
    PolicyError,
    ReplayError,
    SecurityError,
    StoreError,
)
from dflmoe.node.agreed import spec_of
from dflmoe.node.home import Home
from dflmoe.node.spending import told_so_far
from dflmoe.node.store import Store
from dflmoe.security.admission import announced, in_force, received
from dflmoe.security.audit import Facts, Kind, belonging, moves
from dflmoe.security.policy import POLICY, Policy
from dflmoe.security.roster import Bundle, Roster
from dflmoe.types import Clock, SiteId
from dflmoe.wire.envelope import HEAD, seal, unsealed
from dflmoe.wire.frames import MARK
from dflmoe.wire.manifest import Manifest, band, now
from dflmoe.wire.payload import HeadSpec, decode, digest, encode, lost_precision
from dflmoe.wire.wrapper import HEADER_LIMIT, is_wrapped, recipients, unwrapped, wrapped

LOOKED_AGAIN = timedelta(minutes=1)
"""Keys and rosters are read anew when their files changed, and so often, as some end by the day."""


@dataclass(frozen=True)
class Held:
    """A head that a replica holds.

    Attributes:
        manifest: What its site says of it.
        envelope: As it was signed.
        payload: As it is stored: plain at a site, wrapped at a relay.
    """

    manifest: Manifest
    envelope: bytes
    payload: bytes


class Replica:
    """The heads that one member of a federation holds: the newest of each site.

    Threads may share it: the network serves peers while the site trains.
    """

    def __init__(self, home: Home, store: Store, clock: Clock = now, *, notes: bool = True) -> None:
        """Open a replica.

        Args:
            home: The site's folder.
            store: Its store.
            clock: By which it dates.
            notes: Let the log say who belongs; not while it is examined.

        Raises:
            FederationError: The site belongs to no federation.
            SecurityError: Keys, roster or policy cannot be used.
        """
        self.home, self.store, self._clock = home, store, clock
        self._lock = threading.RLock()
        self._wrapped_for: dict[str, frozenset[SiteId]] = {}
        self._spoilt: set[str] = set()
        self._own: Held | None = None  # every peer asks for it
        self._stamp, self._refreshed = home.stamp, clock()
        self.name = home.site.name
        self.keys = home.keys
        self.policy = Policy.load(home.folder / POLICY)
        roster = home.roster(clock())
        if roster is None:
            raise FederationError(
                f"{home.charter.name!r} has no roster yet, so there is nobody to lend to; "
                f"invite a second site with: dflmoe federation invite"
            )
        self._roster = roster
        if notes:
            self._note_members()

    def now(self) -> datetime:
        """Return this moment, by the replica's clock."""
        return self._clock()

    def count(self, error: DflmoeError) -> None:
        """Count something that was refused."""
        self.store.refused(type(error).__name__, str(error), self._clock())

    # --- who belongs ---

    @property
    def roster(self) -> Roster:
        """Who belongs, as this site knows it."""
        return self._roster

    @property
    def relays(self) -> bool:
        """Whether this member only passes heads on."""
        member = self._roster.members.get(self.name)
        return member is not None and member.relay

    def learn(self, bundle: Bundle) -> bool:
        """Take in a roster that somebody handed on; returns whether it said anything new.

        Raises:
            SecurityError: It does not hold, or is older.
        """
        with self._lock:
            before = self._roster.bundle
            if bundle == before:
                return False
            self._roster = self.home.install(bundle, self._clock())
            self.keys = self.home.keys
            self._note_members()
            return self._roster.bundle != before

    def refresh(self) -> None:
        """Take in what an administrator changed in the site's folder, and keys whose time has come.

        Raises:
            SecurityError: What stands there does not hold; what was known still counts.
        """
        with self._lock:
            moment, stamp = self._clock(), self.home.stamp
            if stamp == self._stamp and moment - self._refreshed < LOOKED_AGAIN:
                return
            self.home.promote(moment)
            self._roster = self.home.roster(moment) or self._roster
            self.keys = self.home.keys
            self._note_members()
            self._stamp, self._refreshed = stamp, moment

    def _note_members(self) -> None:
        """Let the log say who joined, left or has other keys or rules since it last said so."""
        if self.store.newest_entry() is None:
            whose = {"site": self.name, "federation": self._roster.charter.federation}
            self.store.note("begin", whose, self._clock())
        for kind, facts in moves(
            belonging(self.store.entries("join", "leave", "key")), self._roster
        ):
            self.store.note(kind, facts, self._clock())
        rules: dict[Kind, str] = {
            "charter": self._roster.charter.digest,
            "policy": self.policy.digest,
        }
        for kind, digest_now in rules.items():
            said = self.store.newest_entry(kind)
            if said is None or said.told["digest"] != digest_now:
                self.store.note(kind, {"digest": digest_now}, self._clock())

    # --- heads ---

    def lend(self, lent: Lent, rows: int) -> Manifest:
        """Sign a head and hold it, so that an exchange can offer it.

        Args:
            lent: What the site lends.
            rows: Rows that it learnt from; told as a band.

        Raises:
            ExpiredError: The roster lapsed.
            FederationError: The charter lets no head of so few rows be lent, the site no longer
                belongs, or it is a relay.
            HeadError: The head does not fit the charter.
            PolicyError: This site's policy lets no such head be lent.
            StoreError: It cannot be stored.

        Returns:
            What is said of it; what was said before if it is the same head of the same round.
        """
        charter, moment = self._roster.charter, self._clock()
        in_force(self._roster, moment)
        if self.name not in self._roster.members:
            raise FederationError(f"{self.name} no longer belongs to {charter.name!r}")
        if self.relays:
            raise FederationError(f"{self.name} is a relay, which passes heads on and lends none")
        if rows < charter.min_rows:
            raise FederationError(
                f"{self.name} has {rows} rows; the charter lets no head of fewer than "
                f"{charter.min_rows} be lent"
            )
        if rows < self.policy.min_rows or charter.dtype not in self.policy.dtypes:
            raise PolicyError(
                f"the policy here lets no head of {rows} rows be lent as {charter.dtype}"
            )
        leading = LEADING[lent.kind]
        payload = encode(lent.tensors, charter.dtype, leading=leading)
        spec = spec_of(charter, replace(lent, site=self.name))
        blob = digest(payload)
        decode(payload, blob, spec, self.name)  # as any peer will
        with self._lock:
            last = self.store.heads().get(self.name)
            if last is not None:
                before = manifest_of(last.envelope)
                again = (blob, lent.round, charter.digest)
                if (before.payload, before.round, before.charter) == again:
                    return before  # a round that is played again after a stop
            manifest = Manifest(
                federation=charter.federation,
                charter=charter.digest,
                site=self.name,
                seq=self.store.next_number(moment),
                round=lent.round,
                kind=lent.kind,
                network=charter.network,
                width=lent.width,
                dtype=charter.dtype,
                rounding=lost_precision(lent.tensors, charter.dtype, leading=leading),
                size=len(payload),
                payload=blob,
                rows=band(rows),
                parent=self.store.last_lent(),
                privacy=told_so_far(self.store, self.policy),
                created=moment,
                software=version("dflmoe"),
            )
            facts: Facts = {"round": manifest.round, "kind": manifest.kind, "size": manifest.size}
            entry = self.store.keep_lent(manifest.seq, manifest.payload, facts, moment)
            manifest = manifest.model_copy(update={"audit": entry.digest})
            envelope = seal(manifest.signed(), HEAD, self.keys.signing)
            self.store.keep_head(self.name, manifest.seq, envelope, payload, moment, blob=blob)
            self._own = Held(manifest, envelope, payload)
        return manifest

    def offers(self) -> list[bytes]:
        """Return the envelopes of all heads that are held of members."""
        members = self._roster.members
        return [head.envelope for site, head in self.store.heads().items() if site in members]

    def held(self, site: SiteId) -> Held | None:
        """Return the head that is held of a site, if there is one that can be read."""
        head, own = self.store.heads().get(site), self._own
        if head and own and head.envelope == own.envelope:
            return own  # without waiting for what is being checked
        with self._lock:  # a newer head would take the file away
            head = self.store.heads().get(site)
            payload = self._read(head.blob) if head else None
        if head is None or payload is None:
            return None
        return Held(manifest_of(head.envelope), head.envelope, payload)

    def mark(self, envelope: bytes) -> str:
        """Return what tells a head from another of the same number, in a summary."""
        return manifest_of(envelope).payload[:MARK]

    def _read(self, blob: str) -> bytes | None:
        """Return what is stored; what cannot be read is counted, and asked for again."""
        try:
            return self.store.payload(blob)
        except StoreError as error:
            self.count(error)
            self._spoilt.add(blob)
            return None

    def wants(self, envelope: bytes) -> Manifest | None:
        """Return the manifest of an offered head whose payload should be fetched.

        Returns:
            ``None`` for a head that is held already or is older, or is this site's own.

        Raises:
            SecurityError: It must not be believed; that is counted.
            HeadError: It does not fit the charter; that is counted.
        """
        with self._lock:
            try:
                return self._news(envelope)
            except ReplayError:
                return self._needed_again(envelope)
            except EquivocationError as error:
                manifest = manifest_of(envelope)
                first = self.store.heads()[manifest.site].envelope
                for proof in (first, envelope):
                    self.store.keep_evidence(manifest.site, manifest.seq, proof, self._clock())
                self.count(error)
                raise
            except (SecurityError, HeadError) as error:
                self.count(error)
                raise

    def take(self, envelope: bytes, payload: bytes) -> bool:
        """Check a head that was fetched, and hold it; returns whether it is newer.

        Raises:
            SecurityError: It must not be believed; that is counted.
            HeadError: It does not fit the charter; that is counted.
            StoreError: It cannot be stored.
        """
        with self._lock:
            manifest = self.wants(envelope)
            if manifest is None:
                return False
            try:
                plain = self._checked(manifest, payload)
            except (SecurityError, HeadError) as error:
                self.count(error)
                raise
            blob = digest(plain) if self.relays else manifest.payload
            return self.store.keep_head(
                manifest.site,
                manifest.seq,
                envelope,
                plain,
                self._clock(),
                blob=blob,
                facts={
                    "site": manifest.site,
                    "seq": manifest.seq,
                    "round": manifest.round,
                    "payload": manifest.payload,
                },
            )

    def fit_to_pass(self, held: Held) -> bytes:
        """Return a payload as it may lie with strangers: wrapped for every member.

        A relay hands on what it has; a site wraps anew whenever members have changed.
        """
        if is_wrapped(held.payload):
            return held.payload
        public = {
            site: X25519PublicKey.from_public_bytes(bytes.fromhex(member.card.wrapping))
            for site, member in self._roster.members.items()
            if site in self._sites()
        }
        return wrapped(held.payload, self._roster.charter.federation, public)

    def payload_for(self, peer: SiteId, held: Held) -> bytes | None:
        """Return a payload as a member may have it; nothing for who does not belong.

        It goes plain from site to site, and wrapped where a relay is on either side.
        """
        member = self._roster.members.get(peer)
        if member is None:
            return None
        return self.fit_to_pass(held) if self.relays or member.relay else held.payload

    def for_members(self, payload: bytes) -> bool:
        """Return whether a wrapped payload can be read by the sites of the roster, and no other.

        Raises:
            EnvelopeError: It is not wrapped.
        """
        return self._sites() == recipients(payload, "a payload")

    def intact(self, payload: bytes, manifest: Manifest) -> bool:
        """Return whether a wrapped payload is what its site announced, as far as can be seen here.

        Raises:
            EnvelopeError: It cannot be opened.
        """
        if self.relays:
            return True
        federation, key = self._roster.charter.federation, self.keys.wrapping
        return digest(unwrapped(payload, federation, self.name, key, "it")) == manifest.payload

    def stale(self) -> list[SiteId]:
        """Return the sites whose heads a relay holds wrapped for other members than today's.

        A member that holds them wraps them anew when it is asked.
        """
        if not self.relays:
            return []
        with self._lock:
            heads = self.store.heads()
            for head in heads.values():
                if head.blob not in self._wrapped_for:
                    payload = self._read(head.blob)
                    readers = recipients(payload, "a payload") if payload else frozenset()
                    self._wrapped_for[head.blob] = readers
        return [s for s, head in heads.items() if self._wrapped_for[head.blob] != self._sites()]

    def _sites(self) -> frozenset[SiteId]:
        return frozenset(s for s, member in self._roster.members.items() if not member.relay)

    def inbox(self) -> list[Lent]:
        """Return the newest head of each peer, decoded: what a round mixes.

        Peers against whom there is evidence, and those who no longer belong, are left out.
        """
        with self._lock:  # a newer head would take a file away
            return [lent for site in self.store.heads() if (lent := self._usable(site))]

    def missing(self, heard: Iterable[SiteId]) -> dict[SiteId, str]:
        """Return the sites of the roster that contributed nothing to a round, and why.

        Args:
            heard: Those whose heads were in the round.
        """
        there, heads, guilty = {*heard, self.name}, self.store.heads(), self.store.convicted()

        def why(site: SiteId) -> str:
            if site in guilty:
                return "it signed two heads of one number"
            if site in heads:
                return "its head cannot be used"
            return "no head of it came"

        return {site: why(site) for site in sorted(self._sites() - there)}

    # --- what stands behind these ---

    def _usable(self, site: SiteId) -> Lent | None:
        """Return a peer's head, decoded, if it may be used and can be read."""
        strange = site == self.name or site not in self._roster.members
        if strange or site in self.store.convicted():
            return None
        held = self.held(site)
        if held is None:
            return None
        manifest = held.manifest
        try:
            self.policy.allows(manifest)  # it may be stricter than when the head came
            tensors = received(manifest, held.payload, self._spec(manifest))
        except (HeadError, PolicyError) as error:
            self.count(error)
            return None
        return Lent(site, manifest.round, manifest.kind, manifest.width, tensors)

    def _needed_again(self, envelope: bytes) -> Manifest | None:
        """Return the manifest of a head that is held, and whose payload should come once more."""
        manifest = manifest_of(envelope)
        held = self.store.heads().get(manifest.site)
        if held is None or held.envelope != envelope or manifest.site == self.name:
            return None
        spoilt = held.blob in self._spoilt
        return manifest if spoilt or manifest.site in self.stale() else None

    def _news(self, envelope: bytes) -> Manifest | None:
        newest = {site: manifest_of(head.envelope) for site, head in self.store.heads().items()}
        manifest = announced(envelope, self._roster, newest, self._clock())
        if manifest.site == self.name:
            return None
        self.policy.allows(manifest)
        return manifest

    def _checked(self, manifest: Manifest, payload: bytes) -> bytes:
        """Return a payload as it is stored, once all that can be checked here has been."""
        charter, whose = self._roster.charter, f"the head of {manifest.site}"
        if self.relays:
            if len(payload) > manifest.size + HEADER_LIMIT:
                raise HeadError(f"{whose} has {len(payload)} bytes, and {manifest.size} announced")
            recipients(payload, whose)
            return payload
        if is_wrapped(payload):
            payload = unwrapped(payload, charter.federation, self.name, self.keys.wrapping, whose)
        received(manifest, payload, self._spec(manifest))
        return payload

    def _spec(self, manifest: Manifest) -> HeadSpec:
        """Return what a head must be, by the charter and by this site's policy."""
        spec = spec_of(self._roster.charter, manifest)
        strictest = self.policy.max_norm
        return spec if strictest is None else replace(spec, max_norm=min(spec.max_norm, strictest))


@lru_cache(maxsize=256)
def manifest_of(envelope: bytes) -> Manifest:
    """Return the manifest of an envelope that was checked before."""
    return Manifest.read(unsealed(envelope, HEAD, "a head").payload, "a manifest")
