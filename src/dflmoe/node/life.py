"""A node's life: one process, from its start to a signal, whatever its peers do.

The rounds are played in the main thread, the network has a thread of its own, and a third writes
the status that people look at. A lock that the system releases with the process keeps a second node
out of the same folder.
"""

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from dflmoe.core.algorithm import Outcome
from dflmoe.errors import (
    DflmoeError,
    ExchangeError,
    OutputError,
    RunningError,
    SettingsError,
    StoreError,
)
from dflmoe.model.making import model_of
from dflmoe.node.agreed import about_of, method_of
from dflmoe.node.baseline import baseline
from dflmoe.node.exchange import Exchange, FolderExchange, Several, Synced
from dflmoe.node.home import Home
from dflmoe.node.network import Network
from dflmoe.node.node import Node, RoundSummary
from dflmoe.node.private import check_promise, lender_of
from dflmoe.node.replica import Replica
from dflmoe.node.settings import Settings
from dflmoe.node.status import status_of
from dflmoe.node.store import STORE, Store
from dflmoe.security.audit import Facts

logger = logging.getLogger(__name__)

LOCK = "node.lock"
MEETING_S, FAREWELL_S = 5.0, 10.0
"""How long a node waits for peers to answer before its first round, and for them to take its newest
head before it ends."""

WATCH_S, RELAY_S = 1.0, 5.0
DISK_S = 10.0
"""A round that could not be stored is played again after so long."""

STOP_S = 30.0


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other node out of a site's folder.

    Raises:
        RunningError: One runs there already.
        OutputError: The folder cannot be written.
    """
    try:
        lock = (folder / LOCK).open("ab+", buffering=0)  # what fails to be written fails here
    except OSError as error:
        raise _unwritable(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunningError(
                f"a node runs in {folder} already; stop it with: dflmoe node stop"
            ) from error
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder} cannot be written: {error.strerror}; free the disk")


def running(folder: Path) -> int | None:
    """Return the process of the node that runs in a folder; none if none does."""
    try:
        with (folder / LOCK).open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(lock.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def stop(folder: Path, patience: float = STOP_S) -> None:
    """Ask the node of a folder to end, and wait until it has.

    Raises:
        RunningError: None runs there, or it does not end.
    """
    pid = running(folder)
    if pid is None:
        raise RunningError(f"no node runs in {folder}; start one with: dflmoe node run")
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + patience
    while running(folder) == pid:
        if time.monotonic() > until:
            raise RunningError(f"the node in {folder} (process {pid}) does not end; look at it")
        time.sleep(0.05)


def _has_room() -> None:
    """Let PyTorch load now what its first step needs, as that asks for a temporary file.

    Raises:
        OutputError: There is no room for one.
    """
    try:
        import torch._dynamo  # noqa: F401, PLC0415 - takes seconds, and only nodes need it now
    except OSError as error:
        raise OutputError(
            f"no temporary file can be written: {error}; free the disk, or set TMPDIR"
        ) from error


class Streams:
    """The network as an exchange: closed while there is no stream with anybody."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def sync(self) -> Synced:
        """See ``Exchange.sync``."""
        done = self._network.sync()
        if not self._network.reachable():
            raise ExchangeError("no peer is connected")
        return done


class Life:
    """A node that runs in this process."""

    def __init__(self, home: Home, settings: Settings) -> None:
        """Open all that a node needs; nothing is sent or listened for yet.

        Raises:
            SecurityError: Keys or roster are missing or cannot be used.
            StoreError: The store cannot be opened.
        """
        self.home, self.settings = home, settings
        self.replica = Replica(home, Store(home.folder / STORE, sweeps=True))
        self.network = Network(self.replica, settings.bind)
        self.doing = "starting"
        self._ended = threading.Event()
        self._mute = ""

    def exchange(self) -> Exchange:
        """Return all ways to the others."""
        ways: list[Exchange] = [Streams(self.network)]
        if self.settings.folder is not None:
            ways.append(FolderExchange(self.replica, self.settings.folder))
        return Several(*ways)

    @contextmanager
    def online(self) -> Iterator[None]:
        """Listen, dial and tell the status, until the block ends.

        Raises:
            ExchangeError: The address cannot be listened at.
        """
        self.network.start()
        store, now = self.replica.store, self.replica.now
        roster = self.replica.roster
        started: Facts = {
            "software": version("dflmoe"),
            "roster": roster.version,
        }
        store.note("start", started, now())
        watch = threading.Thread(target=self._watch, name="status", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._ended.set()
            watch.join()
            self.network.stop()
            self.doing = "stopped"
            with suppress(StoreError):  # the disk may be full, and it ends all the same
                store.note("stop", {}, now())
            self._tell(pid=None)
            self.replica.store.close()

    def rounds(self, until: int | None) -> Iterator[tuple[RoundSummary, Outcome]]:
        """Train what the site has alone, then play rounds, one every so many seconds.

        Args:
            until: The last round; for ever if not given: then a round that cannot be stored ends
                nothing, but is played again until the disk takes it.

        Raises:
            SettingsError: The settings name no rows.
            DataError: The rows cannot be used.
            PrivacyError: The policy asks for a promise that cannot be given honestly.
            StoreError: The last state cannot be read, or a round before ``until`` not stored.
            OutputError: There is no room for a temporary file.
            FloatingPointError: A loss is not finite.
        """
        if self.settings.data is None:
            raise SettingsError("the settings have no section [data], so there is nothing to learn")
        charter, seed = self.replica.roster.charter, self.settings.seed
        self.doing = "training alone"
        _has_room()
        check_promise(charter, self.replica.policy)
        had = baseline(charter, self.settings.data, self.replica.name, seed=seed)
        self.doing = "meeting peers"
        self._meet()
        lender = lender_of(self.replica, had.network)
        method = replace(method_of(charter, had.network), keeps=True, lender=lender)
        about = about_of(charter, self.settings.data, had.rows)

        def serve(summary: RoundSummary, outcome: Outcome) -> bytes:
            made = model_of(
                about,
                had.data,
                had.alone,
                outcome,
                network=had.network,
                dials=method.dials,
                number=summary.number,
                seed=seed,
            )
            return made.to_bytes()

        node = Node(self.replica, self.exchange(), method, had.data, seed, serve)
        node.state()
        while True:
            try:
                yield from self._played(node, until)
                break
            except (StoreError, OutputError) as error:
                if until is not None:
                    raise
                logger.error("%s; the round is played again", error)  # noqa: TRY400 - a sentence
                self.doing = "waiting for the disk"
                time.sleep(DISK_S)
        self.doing = "handing over its head"
        self.hand_over()

    def _played(self, node: Node, until: int | None) -> Iterator[tuple[RoundSummary, Outcome]]:
        self.doing = "playing a round"
        began = time.monotonic()
        for summary, outcome in node.rounds(until):
            yield summary, outcome
            if summary.number != until:
                self.doing = "waiting for the next round"
                time.sleep(max(0.0, began + self.settings.every - time.monotonic()))
                self.doing = "playing a round"
                began = time.monotonic()

    def relay(self) -> None:
        """Pass heads on, until the node goes offline."""
        self.doing, exchange = "relaying", self.exchange()
        while not self._ended.wait(RELAY_S):
            try:
                exchange.sync()
            except ExchangeError as error:
                logger.info("%s", error)

    def hand_over(self, patience: float = FAREWELL_S) -> None:
        """Wait until all peers who are connected hold this site's newest head."""
        network = self.network
        network.wait(lambda: set(network.reachable()) <= network.holders(), patience)

    # --- what stands behind these ---

    def _meet(self) -> None:
        """Give peers that can be dialled a moment to answer."""
        members = self.replica.roster.members

        def all_tried() -> bool:
            dialled = {s for s, m in members.items() if m.card.endpoints} - {self.replica.name}
            return dialled <= {*self.network.reachable(), *self.network.failures()}

        self.network.wait(all_tried, MEETING_S)

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            self._tell(pid=os.getpid())

    def _tell(self, *, pid: int | None) -> None:
        try:
            status = status_of(self.replica, self.network, pid=pid, doing=self.doing)
            status.stored(self.home.folder)
            self._mute = ""
        except DflmoeError as error:
            if str(error) != self._mute:  # once, not once a second
                self._mute = str(error)
                logger.warning("the status cannot be told: %s", error)
