"""Faults for tests of nodes: a proxy between two of them, and blows at a chosen moment."""

import asyncio
import errno
import multiprocessing
import os
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from typing import Any, Literal

from dflmoe.errors import DflmoeError
from dflmoe.node.store import Store
from dflmoe.simulation.faults import LinkFault

Fault = Literal["none"] | LinkFault
"""What a proxy does to a link: none, or what ``LinkFault`` says; later is by ``seconds`` of the
proxy, and so many bytes are its ``rate``."""

PIECE = 64 * 1024
CLOSING_S = 0.05


class Proxy:
    """A way to a node that can be spoilt and mended while it is used."""

    def __init__(self, target: str, fault: Fault = "none") -> None:
        """Prepare a proxy; ``start`` begins.

        Args:
            target: ``host:port`` of the node.
            fault: What it does at first.
        """
        self.fault: Fault = fault
        self.seconds, self.rate = 2.0, 1024
        host, port = target.rsplit(":", 1)
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.carried = 0
        self._ready = threading.Event()
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def start(self) -> "Proxy":
        """Listen."""
        self._thread.start()
        self._ready.wait()
        return self

    def stop(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def becomes(self, fault: Fault) -> None:
        """Do something else from now on; links that were lost stay lost."""
        self.fault = fault
        if fault in {"reset", "refuse"}:
            self._loop.call_soon_threadsafe(self._reset_all)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        self._ready.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(CLOSING_S)  # what was just accepted is known by then
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reset_all()
        await asyncio.sleep(CLOSING_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Know a connection from its first moment, so that none is left open."""
        self._links.add(writer)
        self._tasks.append(asyncio.create_task(self._serve(reader, writer)))

    def _reset_all(self) -> None:
        for writer in list(self._links):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, AttributeError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        self._links.discard(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "refuse":
            self._reset(writer)
            return
        try:
            back, forth = await asyncio.open_connection(*self._target)
        except OSError:
            self._reset(writer)
            return
        self._links.add(forth)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(
                self._carry(reader, forth, writer, there=True),
                self._carry(back, writer, forth, there=False),
            )

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        *,
        there: bool,
    ) -> None:
        """Carry what one side sends to the other, as the fault of the moment lets it."""
        while True:
            try:
                piece = await reader.read(self.rate // 4 if self.fault == "trickle" else PIECE)
            except OSError:
                piece = b""
            if not piece:
                if self.fault == "slow close":
                    await asyncio.sleep(self.seconds)
                if self.fault not in {"blackhole", "half open"}:
                    writer.close()
                return
            if self.fault == "reset" or (self.fault == "loss" and os.urandom(1)[0] < 4):
                self._reset(writer)
                self._reset(other)
                return
            if self.fault == "blackhole" or (self.fault == "half open" and there):
                continue
            if self.fault == "latency":
                asyncio.get_running_loop().call_later(self.seconds, self._put, writer, piece)
                continue
            if self.fault == "trickle":
                await asyncio.sleep(0.25)
            step = 7 if self.fault == "slicer" else len(piece)
            for k in range(0, len(piece), step):
                self._put(writer, piece[k : k + step])
                if self.fault == "slicer" and k % 700 == 0:
                    await asyncio.sleep(0)
            with suppress(OSError):
                await writer.drain()

    def _put(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        self.carried += len(piece)
        if not writer.is_closing():
            writer.write(piece)


# --- a disk that is full ---


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """Let no file of this process grow beyond a size for a while: what a full disk is to it."""
    soft, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))


# --- something happens at a chosen moment ---

Blow = Literal["killed", "disk full", "disk read-only"]
"""What happens to a process at a moment: ``kill -9`` or a power cut; or nothing that it writes from
then on can be written, as no file may grow, or as none may be opened for writing."""


@dataclass
class Moments:
    """The moments at which a process writes: before and after each sync, rename and commit."""

    blow: Blow
    at: int | None
    passed: int = 0

    def come(self) -> None:
        """Let a moment pass, or be hit in it."""
        if self.passed == self.at:
            if self.blow == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.blow == "disk full":
                setrlimit(RLIMIT_FSIZE, (0, getrlimit(RLIMIT_FSIZE)[1]))
            else:
                self._read_only()
        self.passed += 1

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call with a moment before and one after it."""

        def watched(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - whatever is called
            self.come()
            done = call(*args, **more)
            self.come()
            return done

        return watched

    def _read_only(self) -> None:
        opened, transaction = os.open, Store._transaction

        def refused(path: Any, flags: int, *args: Any, **more: Any) -> int:  # noqa: ANN401
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return opened(path, flags, *args, **more)

        @contextmanager
        def only_read(store: Store) -> Iterator[None]:
            store._db.execute("PRAGMA query_only = ON")
            with transaction(store):
                yield

        os.open = refused
        Store._transaction = only_read  # type: ignore[assignment,method-assign]


def _watched(
    moments: Moments, work: Callable[..., None], args: tuple[Any, ...], pipe: Connection
) -> None:
    tempfile.gettempdir()  # the disk of temporary files is another
    os.fsync = moments.around(os.fsync)
    os.replace = moments.around(os.replace)
    transaction = Store._transaction

    @contextmanager
    def committed(store: Store) -> Iterator[None]:
        with transaction(store):
            yield
            moments.come()  # all is written, nothing is committed
        moments.come()

    Store._transaction = committed  # type: ignore[assignment,method-assign]
    try:
        work(*args)
    except DflmoeError as error:
        pipe.send(str(error))
    else:
        pipe.send(moments.passed)


def watched(
    work: Callable[..., None],
    *args: Any,  # noqa: ANN401
    blow: Blow = "killed",
    at: int | None = None,
) -> int | str | None:
    """Do something in a process of its own, and hit that at one of its moments.

    Args:
        work: A function of a module.
        args: What it is given.
        blow: What happens.
        at: The moment, from 0; none to let it end in peace.

    Returns:
        How many moments it had; the sentence with which it ended before; none if it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "dflmoe.node.node", work.__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_watched, args=(Moments(blow, at), work, args, theirs))
    process.start()
    theirs.close()
    try:
        came: int | str | None = ours.recv()
    except EOFError:
        came = None
    process.join()
    if came is None and process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the process ended by itself with code {process.exitcode}")
    return came
