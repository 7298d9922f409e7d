"""The exchange over a network: gRPC, TLS 1.3, both sides known by the certificates of the roster.

One stream between two members carries everything, in both directions, so a site that cannot be
dialled takes full part. A site's own new head is announced at once; heads of others are told in a
summary, shortly after something changed and once a minute. Who lacks one asks for its envelope, and
after that was checked for its payload, from the byte where it left off; nothing is pushed unasked.
A stream that ends is opened again, with patience, for ever.
"""

import asyncio
import itertools
import json
import logging
import random
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

import grpc

from dflmoe.errors import (
    DflmoeError,
    ExchangeError,
    HeadError,
    PolicyError,
    SecurityError,
    StoreError,
)
from dflmoe.node import TLS_1_3_ONLY
from dflmoe.node.exchange import Synced
from dflmoe.node.link import SERVER, SERVICE, SYNC, dialled, link, reason
from dflmoe.node.replica import Held, Replica
from dflmoe.node.session import Pull, Session
from dflmoe.node.store import StoredHead
from dflmoe.security.roster import Bundle, Member, bundled
from dflmoe.types import SiteId
from dflmoe.wire.frames import (
    CHUNK_BYTES,
    Announce,
    Ask,
    Chunk,
    Frame,
    RosterFrame,
    Summary,
    Want,
    unframed,
)
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.payload import digest
from dflmoe.wire.wrapper import HEADER_LIMIT, is_wrapped

logger = logging.getLogger(__name__)

SUMMARY_S = 60.0
SETTLE_S = 0.5
"""After something changed, so long is waited for more before others are told."""

WITNESSED = 1000
"""Receipts that a peer is told at once: as many days."""

NOTED = 100
"""Sentences on what was refused that wait for the node to ask."""

STALLED_S = 300.0
"""A payload of which nothing came for so long is asked for elsewhere; at 1 KB/s a piece comes."""

FAREWELL_S = 1.0
"""A stream that was ended here, and does not end, is cut off after so long."""

PATIENCE_S = (0.5, 30.0)
"""Between two attempts to dial: the first, and the longest."""


class Network:
    """The network part of a node: runs in a thread of its own, so that training disturbs nobody."""

    def __init__(self, replica: Replica, bind: str | None) -> None:
        """Prepare a network part; ``start`` begins.

        Args:
            replica: What is exchanged.
            bind: ``host:port`` to listen at; none for a site that only dials. Port 0 takes any.
        """
        self.replica, self._bind = replica, bind
        self.port: int | None = None
        self._sessions: dict[SiteId, Session] = {}
        self._pulls: dict[SiteId, Pull] = {}
        self._dials: dict[SiteId, asyncio.Task[None]] = {}
        self._numbers = itertools.count()
        self._failures: dict[SiteId, str] = {}
        self._done = Synced()
        self._told_roster: Bundle | None = None
        self._changed: asyncio.Event
        self._stirred: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._taken = threading.Condition()

    # --- for the node's own thread ---

    def start(self) -> None:
        """Listen and dial.

        Raises:
            ExchangeError: The address is taken, or may not be used; or gRPC would speak TLS 1.2.
        """
        if not TLS_1_3_ONLY:
            raise ExchangeError(
                "gRPC was imported before dflmoe.node and would speak TLS 1.2; "
                "import dflmoe.node first"
            )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise ExchangeError(
                f"{self._bind} cannot be listened at: {self._failure}; choose another port"
            ) from self._failure

    def stop(self) -> None:
        """Close all streams, and stop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def sync(self) -> Synced:
        """Tell peers at once of what is new here; returns what came since the last call."""
        self._loop.call_soon_threadsafe(self._changed.set)
        with self._taken:
            done, self._done = self._done, Synced()
        return done

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until something that heads or rosters bring about is so; returns whether it is."""
        with self._taken:
            return self._taken.wait_for(until, seconds)

    def reachable(self) -> dict[SiteId, datetime]:
        """Return the peers with whom there is a stream, and since when."""
        return {site: one.since for site, one in dict(self._sessions).items()}

    def holders(self) -> set[SiteId]:
        """Return the peers on a stream who said that they hold this site's newest head."""
        own = self.replica.store.heads().get(self.replica.name)
        return {s for s, one in dict(self._sessions).items() if own and one.holds >= own.seq}

    def moved(self) -> dict[SiteId, dict[str, int]]:
        """Return bytes sent to each peer, and received, on the streams of now.

        The store does not know them yet.
        """
        live = dict(self._sessions)
        return {s: {"sent": one.sent, "received": one.received} for s, one in live.items()}

    def _moving(self) -> int:
        """Return bytes, both ways, on the streams of now."""
        return sum(count for ways in self.moved().values() for count in ways.values())

    def failures(self) -> dict[SiteId, str]:
        """Return why the last attempt to dial a peer failed, of peers with whom there is none."""
        return {s: why for s, why in dict(self._failures).items() if s not in self._sessions}

    # --- in the network's thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._changed, self._stirred = asyncio.Event(), asyncio.Event()
        server = await self._listening() if self._bind else None
        self._ready.set()
        self._told_roster = self.replica.roster.bundle
        self._meet()
        tellers = [asyncio.create_task(self._tell()), asyncio.create_task(self._sum_up())]
        await self._stop.wait()
        for session in list(self._sessions.values()):
            self._leave(session)
        tasks = {*tellers, *self._dials.values()}
        while tasks:  # gRPC may lose a cancellation that meets the end of a stream
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=FAREWELL_S)
        if server:
            await server.stop(0.2)

    async def _listening(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=SERVER)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
                        "Probe": grpc.unary_unary_rpc_method_handler(self._probe),
                        "Witness": grpc.unary_unary_rpc_method_handler(self._witness),
                        "Sync": grpc.stream_stream_rpc_method_handler(self._serve),
                    },
                ),
            )
        )
        credentials = grpc.dynamic_ssl_server_credentials(self._pinned(), self._pinned, True)
        self.port = server.add_secure_port(str(self._bind), credentials)
        await server.start()
        return server

    def _pinned(self) -> grpc.ServerCertificateConfiguration:
        """Return the certificates of today: asked for at each handshake."""
        return grpc.ssl_server_certificate_configuration(
            [self._own()], self.replica.roster.certificates
        )

    def _own(self) -> tuple[bytes, bytes]:
        keys = self.replica.keys
        return keys.tls_secret, keys.pem.encode()

    async def _hello(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Tell a peer that it is known, and the time, before it opens a stream."""
        await self._known(context)
        return self.replica.now().isoformat().encode()

    async def _probe(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Tell a peer whether it can be dialled from here; empty if it can."""
        member = self.replica.roster.members[await self._known(context)]
        return (await dialled(self.replica, member)).encode()

    async def _witness(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Tell a peer what is kept here for its audit log."""
        site = await self._known(context)
        receipts = self.replica.store.receipts(site)[-WITNESSED:]
        return json.dumps([raw.decode() for _, raw in receipts]).encode()

    async def _known(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> SiteId:
        """Return the member that a connection's certificate is pinned for, or end the call."""
        (pem,) = context.auth_context()["x509_pem_cert"]
        site = self.replica.roster.bearer.get(pem.decode("ascii"))
        if site is not None:
            return site
        self._refused(SecurityError("a connection was refused: its certificate is of no member"))
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a member")
        raise AssertionError  # pragma: no cover - abort has raised

    async def _serve(
        self,
        incoming: AsyncIterable[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> AsyncIterator[bytes]:
        """Serve a stream that a peer has opened."""
        session = self._enter(await self._known(context))
        listening = asyncio.create_task(self._listen(session, incoming))
        session.ends.append(listening.cancel)
        here = asyncio.current_task()
        if here is not None:  # a peer that does not read is cut off
            session.ends.append(lambda: self._loop.call_later(FAREWELL_S, here.cancel))
        try:
            async for raw in session.outgoing():
                yield raw
        finally:
            listening.cancel()
            self._leave(session)

    # --- dialling ---

    def _meet(self) -> None:
        """Dial whom this site should dial, and end streams with whom no longer belongs."""
        members = self.replica.roster.members
        for site in [s for s in self._dials if s not in members]:
            self._dials.pop(site).cancel()
        for site in [s for s in self._sessions if s not in members]:
            self._leave(self._sessions[site])
        if self.replica.name not in members:
            return
        for site, member in members.items():
            if site not in self._dials and self._dials_to(member):
                self._dials[site] = asyncio.create_task(self._dial(site))

    def _dials_to(self, member: Member) -> bool:
        """Return whether this site dials another: of two that can be dialled, the first by name."""
        name = self.replica.name
        if member.site == name or not member.card.endpoints:
            return False
        own = self.replica.roster.members[name].card.endpoints
        return not own or name < member.site

    async def _dial(self, site: SiteId) -> None:
        """Keep a stream with a peer open, for ever."""
        first, longest = PATIENCE_S
        patience = first
        while (member := self.replica.roster.members.get(site)) is not None:
            for endpoint in member.card.endpoints:
                try:
                    if await self._visit(site, member, endpoint):
                        patience = first
                except (grpc.aio.AioRpcError, DflmoeError, OSError, ValueError) as error:
                    logger.info("no stream with %s at %s: %s", site, endpoint, reason(error))
                    self._failures[site] = reason(error)
                    self._note_taken()
            await asyncio.sleep(patience * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            patience = min(longest, 2 * patience)

    async def _visit(self, site: SiteId, member: Member, endpoint: str) -> bool:
        """Open a stream with a peer and stay until it ends; returns whether it was open."""
        async with link(self.replica, member, endpoint) as channel:
            sync: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SYNC)
            session = self._enter(site)
            try:
                call = sync(session.outgoing())
                session.ends.append(call.cancel)
                await self._listen(session, call)
            finally:
                self._leave(session)
        return True

    # --- a stream ---

    def _enter(self, site: SiteId) -> Session:
        if site in self._sessions:
            self._leave(self._sessions[site])
        session = Session(site, self.replica.now())
        self._sessions[site] = session
        session.say(self._summary())
        self._note_taken()
        return session

    def _leave(self, session: Session) -> None:
        """End a stream; what was on its way in is asked for elsewhere."""
        if self._sessions.get(session.peer) is session:
            del self._sessions[session.peer]
        session.close()
        for way, count in (("sent", session.sent), ("received", session.received)):
            if count:
                self._kept(way, session.peer, count)
        session.sent = session.received = 0
        for pull in list(self._pulls.values()):
            if pull.asked is session:
                self._elsewhere(pull)

    def _kept(self, way: str, peer: SiteId, count: int) -> None:
        try:
            self.replica.store.moved(way, peer, count, self.replica.now())
        except StoreError as error:
            self._noted(error)

    def _elsewhere(self, pull: Pull) -> None:
        """Ask somebody else who holds it for the envelope of a head that does not come."""
        site, seq = pull.manifest.site, pull.manifest.seq
        for other in list(self._sessions.values()):
            if other is not pull.asked and other.told.get(site, -1) >= seq:
                other.say(Ask(site=site))
                return

    def _summary(self) -> Summary:
        roster = self.replica.roster
        heads = {
            site: (head.seq, self._mark(head))
            for site, head in self.replica.store.heads().items()
            if site in roster.members
        }
        return Summary(roster=roster.digest, heads=heads)

    def _mark(self, head: StoredHead) -> str:
        return self.replica.mark(head.envelope)

    async def _tell(self) -> None:
        """Tell peers at once of an own head or another roster; the rest follows in a summary."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), SUMMARY_S)
            self._changed.clear()
            try:
                await asyncio.to_thread(self.replica.refresh)
            except DflmoeError as error:
                self._noted(error)
            try:
                self._tell_once()
            except DflmoeError as error:
                self._noted(error)
            self._stirred.set()

    def _tell_once(self) -> None:
        if self.replica.roster.bundle != self._told_roster:
            self._told_roster = self.replica.roster.bundle
            self._meet()
            self._each(self._hand_on)
        own = self.replica.store.heads().get(self.replica.name)

        def announce(session: Session) -> None:
            if own and session.told.get(own.site, -1) < own.seq:
                session.told[own.site] = own.seq
                session.say(Announce(envelope=own.envelope))

        self._each(announce)

    async def _sum_up(self) -> None:
        """Send a summary shortly after something changed, and once a minute."""
        while True:
            await self._stirred.wait()
            await asyncio.sleep(SETTLE_S)
            self._stirred.clear()
            try:
                summary = self._summary()
                self._each(partial(Session.say, frame=summary))
            except DflmoeError as error:
                self._noted(error)

    def _each(self, do: Callable[[Session], None]) -> None:
        """Do something with every session; one that does not read is ended, and costs no other."""
        for session in list(self._sessions.values()):
            try:
                do(session)
            except ExchangeError as error:
                self._noted(error)
                self._leave(session)

    async def _listen(self, session: Session, incoming: AsyncIterable[bytes]) -> None:
        """Take in what a peer says until the stream ends; nonsense ends it."""
        try:
            async for raw in incoming:
                session.received += len(raw)
                await self._heard(session, unframed(raw))
        except DflmoeError as error:
            self._refused(error)
        finally:
            self._leave(session)

    async def _heard(self, session: Session, frame: Frame) -> None:
        match frame:
            case Summary():
                await self._compare(session, frame)
            case Announce():
                await self._offered(session, frame.envelope)
            case Ask():
                head = self.replica.store.heads().get(frame.site)
                if head is not None:
                    session.say(Announce(envelope=head.envelope))
            case Want():
                session.answer(partial(self._give, session, frame))
            case Chunk():
                await self._came(session, frame)
            case RosterFrame():
                await self._learn(frame.bundle)

    async def _compare(self, session: Session, summary: Summary) -> None:
        """Ask for what a peer has newer, and hand on the roster if it has another."""
        heads, guilty = self.replica.store.heads(), self.replica.store.convicted()
        for site, (seq, mark) in summary.heads.items():
            if site not in self.replica.roster.members:
                continue
            session.told[site] = max(seq, session.told.get(site, -1))
            if site == self.replica.name:
                session.holds = seq
                self._note_taken()
                continue
            held, pull = heads.get(site), self._pulls.get(site)
            if pull is not None and pull.manifest.seq >= seq and self._comes(pull):
                continue
            if held is None or held.seq < seq:
                session.say(Ask(site=site))
            elif held.seq == seq and site not in guilty and self._mark(held) != mark:
                session.say(Ask(site=site))  # its site signed two of one number
        for site in self.replica.stale():
            session.say(Ask(site=site))
        if summary.roster != self.replica.roster.digest:
            self._hand_on(session)

    def _hand_on(self, session: Session) -> None:
        """Hand on the roster, unless this very one was handed to the peer before."""
        roster = self.replica.roster
        if session.roster_sent != roster.digest:
            session.roster_sent = roster.digest
            session.say(RosterFrame(bundle=roster.raw))

    def _note_taken(self) -> None:
        with self._taken:
            self._taken.notify_all()

    async def _learn(self, raw: bytes) -> None:
        try:
            new = await asyncio.to_thread(lambda: self.replica.learn(bundled(raw)))
        except DflmoeError as error:
            logger.info("a roster was not taken: %s", error)
            return
        if new:
            self._changed.set()
            with self._taken:
                self._done.roster = True
                self._taken.notify_all()

    async def _offered(self, session: Session, envelope: bytes) -> None:
        """Ask for a payload, unless it is held, or comes already from somebody who is not stuck."""
        try:
            manifest = self.replica.wants(envelope)
        except (SecurityError, HeadError) as error:
            self._noted(error)
            return
        if manifest is None or not self._affords(manifest):
            return
        site = manifest.site
        pull = self._pulls.get(site)
        if pull is not None and pull.manifest == manifest:
            if self._comes(pull):
                return
        else:  # the latest wins
            pull = self._pulls[site] = Pull(manifest, envelope, session)
        pull.asked, pull.at, pull.number = session, self._loop.time(), next(self._numbers)
        session.say(
            Want(
                number=pull.number,
                site=site,
                payload=manifest.payload,
                blob=pull.blob.hex(),
                at=pull.length,
            )
        )

    def _affords(self, manifest: Manifest) -> bool:
        """Return whether a head's bytes may still move today; it comes or goes tomorrow if not."""
        limit, today = self.replica.policy.bytes_per_day, f"{self.replica.now():%Y-%m-%d}"
        if limit is None:
            return True
        traffic = self.replica.store.traffic().items()
        spent = sum(count for (day, _, _), count in traffic if day == today)
        if spent + self._moving() + manifest.size <= limit:
            return True
        self._refused(
            PolicyError(
                f"the bytes that the policy here allows a day are spent; a head of "
                f"{manifest.site} waits until tomorrow"
            )
        )
        return False

    def _comes(self, pull: Pull) -> bool:
        """Return whether a payload is on its way, and not stuck."""
        live = self._sessions.get(pull.asked.peer) is pull.asked
        return live and self._loop.time() - pull.at < STALLED_S

    async def _give(self, session: Session, want: Want) -> None:
        """Send a payload in pieces, from where the peer left off if it is the same bytes."""
        try:
            held = await asyncio.to_thread(self.replica.held, want.site)
            wanted = held is not None and held.manifest.payload == want.payload
            if held is not None and wanted and self._affords(held.manifest):
                await self._pieces(session, want, held)
        except DflmoeError as error:
            self._noted(error)

    async def _pieces(self, session: Session, want: Want, held: Held) -> None:
        payload = self.replica.payload_for(session.peer, held)
        if payload is None:  # it was removed a moment ago
            return
        blob = digest(payload) if is_wrapped(payload) else held.manifest.payload
        at = want.at if want.blob == blob else 0
        while True:
            piece = payload[at : at + CHUNK_BYTES]
            last = at + len(piece) >= len(payload)
            await session.give(Chunk(want.number, blob, at, last, piece))
            at += len(piece)
            if last:
                return

    async def _came(self, session: Session, chunk: Chunk) -> None:
        """Put a piece of a payload where it belongs; the last is followed by all checks."""
        pull = next((p for p in self._pulls.values() if p.number == chunk.number), None)
        if pull is None or pull.asked is not session or not (chunk.piece or chunk.last):
            return
        blob, site = bytes.fromhex(chunk.blob), pull.manifest.site
        if blob != pull.blob and chunk.at == 0:
            pull.blob, pull.came, pull.length = blob, [], 0
        if blob != pull.blob or chunk.at != pull.length:
            return
        pull.at = self._loop.time()
        pull.came.append(chunk.piece)
        pull.length += len(chunk.piece)
        if pull.length > pull.manifest.size + HEADER_LIMIT:
            del self._pulls[site]
            self._refused(HeadError(f"{session.peer} sends more of a head than its site announced"))
            self._elsewhere(pull)
        elif chunk.last:
            del self._pulls[site]
            await self._whole(session, pull)

    async def _whole(self, session: Session, pull: Pull) -> None:
        """Check a payload that has come to its end; if it fails, somebody else is asked."""
        try:
            payload = b"".join(pull.came)
            taken = await asyncio.to_thread(self.replica.take, pull.envelope, payload)
        except DflmoeError as error:
            self._noted(error)
            self._elsewhere(pull)
            return
        if taken:
            session.told[pull.manifest.site] = pull.manifest.seq
            self._changed.set()
            with self._taken:
                self._done.taken.append(pull.manifest.site)
                self._taken.notify_all()

    def _refused(self, error: DflmoeError) -> None:
        """Count and note something that was refused."""
        with suppress(StoreError):
            self.replica.count(error)
        self._noted(error)

    def _noted(self, error: DflmoeError) -> None:
        logger.info("refused: %s", error)
        with self._taken:
            self._done.refused = [*self._done.refused, str(error)][-NOTED:]
            self._taken.notify_all()
