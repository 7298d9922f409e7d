"""One stream between two members: what waits to be said, and what is on its way in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime

from dflmoe.errors import ExchangeError
from dflmoe.types import SiteId
from dflmoe.wire.frames import Chunk, Frame, framed, is_chunk
from dflmoe.wire.manifest import Manifest

PIECES = 8
"""Pieces of payloads that wait for a slow peer, and payloads that are given at once."""

UNREAD = 10_000
"""Small frames that wait for a peer before its stream is ended."""


@dataclass
class Pull:
    """A payload on its way in.

    Attributes:
        manifest: What its site says of it.
        envelope: As it was signed.
        asked: The stream that it was asked for on; what others send of it is not looked at.
        number: Of the wish.
        blob: Digest of the bytes that come: as the other side stores them.
        came: The pieces that have come so far.
        length: Their bytes in all.
        at: When something last came, by the loop's clock.
    """

    manifest: Manifest
    envelope: bytes
    asked: "Session"
    number: int = 0
    blob: bytes = b""
    came: list[bytes] = field(default_factory=list)
    length: int = 0
    at: float = 0.0


class Session:
    """One stream with one member, whoever opened it."""

    def __init__(self, peer: SiteId, since: datetime) -> None:
        self.peer, self.since = peer, since
        self.told: dict[SiteId, int] = {}
        self.holds = -1
        self.roster_sent = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.ends: list[Callable[[], object]] = []
        self.sent = self.received = 0
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._open = True
        self._room, self._gives = asyncio.Semaphore(PIECES), asyncio.Semaphore(PIECES)

    def say(self, frame: Frame) -> None:
        """Queue a small frame; never waits, so that listening never waits for speaking.

        Raises:
            ExchangeError: The peer asks for much and reads nothing.
        """
        if self._out.qsize() > UNREAD:
            raise ExchangeError(f"{self.peer} does not read what it asks for")
        self._out.put_nowait(framed(frame))

    def answer(self, give: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin to give a payload, or let it wait for those before.

        Raises:
            ExchangeError: The peer asks for more than anybody has.
        """
        if len(self.tasks) > UNREAD:
            raise ExchangeError(f"{self.peer} asks for more heads than there are")
        task = asyncio.create_task(self._in_turn(give))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _in_turn(self, give: Callable[[], Coroutine[None, None, None]]) -> None:
        async with self._gives:
            await give()

    async def give(self, chunk: Chunk) -> None:
        """Queue a piece of a payload; waits while the peer is slow."""
        await self._room.acquire()
        self._out.put_nowait(framed(chunk))

    async def outgoing(self) -> AsyncIterator[bytes]:
        """Yield what is queued until the session is closed."""
        while (raw := await self._out.get()) is not None and self._open:
            self.sent += len(raw)
            yield raw
            if is_chunk(raw):
                self._room.release()

    def close(self) -> None:
        """End the stream, whether or not the peer reads."""
        self._open = False
        self._out.put_nowait(None)
        for task in self.tasks:
            task.cancel()
        for end in self.ends:
            end()
