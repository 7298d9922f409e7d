"""How heads reach other sites: one protocol, whatever carries them.

An exchange replicates signed heads between replicas: the newest of each site, in any order, through
any third party, again and again. It decides nothing; ``Replica`` checks whatever arrives.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dflmoe.errors import DflmoeError, ExchangeError, OutputError, SecurityError
from dflmoe.files import replace_file
from dflmoe.node.home import read_limited
from dflmoe.node.replica import Replica
from dflmoe.security.roster import bundled
from dflmoe.types import SiteId
from dflmoe.wire.envelope import ENVELOPE_LIMIT
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.parcel import Parcel, packed, unpacked
from dflmoe.wire.wrapper import HEADER_LIMIT

logger = logging.getLogger(__name__)


@dataclass
class Synced:
    """What came of one synchronisation.

    Attributes:
        taken: Sites of whom a newer head is held now.
        given: Sites of whose heads the other side took, or holds, a newer one.
        refused: Sentences on what was not believed.
        roster: Whether the roster is newer now.
    """

    taken: list[SiteId] = field(default_factory=list)
    given: list[SiteId] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    roster: bool = False


class Exchange(Protocol):
    """Replicates heads between this replica and others.

    Guarantees: after ``sync`` both sides hold, of each site, the newer of their heads, and the
    newer roster, unless the checks refused it; a call that is cut off or repeated does no harm;
    what was taken is durable; a fault of one head or one peer costs that and nothing else.
    """

    def sync(self) -> Synced:
        """Offer what is held, and take what is newer.

        Raises:
            ExchangeError: Nothing could be exchanged at all; what is held stays.
        """
        ...


class MemoryExchange:
    """Peers in one process: for tests and simulations."""

    def __init__(self, replica: Replica, peers: Sequence[Replica]) -> None:
        self._replica, self._peers = replica, peers

    def sync(self) -> Synced:
        """See ``Exchange.sync``."""
        done = Synced()
        for peer in self._peers:
            done.roster |= _learnt(self._replica, peer, done)
            _learnt(peer, self._replica, done)
            done.taken += _moved(peer, self._replica, done)
            done.given += _moved(self._replica, peer, done)
        return done


def _learnt(to: Replica, of: Replica, done: Synced) -> bool:
    try:
        return to.learn(of.roster.bundle)
    except DflmoeError as error:
        done.refused.append(str(error))
        return False


def _moved(of: Replica, to: Replica, done: Synced) -> list[SiteId]:
    """Let one replica take what another offers; returns whose heads it took."""
    taken = []
    for envelope in of.offers():
        try:
            manifest = to.wants(envelope)
            held = of.held(manifest.site) if manifest else None
            if held is None:
                continue
            payload = of.payload_for(to.name, held)
            if payload is not None and to.take(held.envelope, payload):
                taken.append(held.manifest.site)
        except DflmoeError as error:
            done.refused.append(str(error))
    return taken


class Several:
    """Some ways to the others; a way that is closed costs nothing while another is open."""

    def __init__(self, *ways: Exchange) -> None:
        self._ways = ways

    def sync(self) -> Synced:
        """See ``Exchange.sync``."""
        done, closed = Synced(), []
        for way in self._ways:
            try:
                one = way.sync()
            except ExchangeError as error:
                closed.append(str(error))
                continue
            done.taken += one.taken
            done.given += one.given
            done.refused += one.refused
            done.roster |= one.roster
        if self._ways and len(closed) == len(self._ways):
            raise ExchangeError("; ".join(closed))
        return done


ROSTER = "roster.json"
NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,62})-([0-9]{1,19})\.head")
"""A file of a head: its site, and its number."""


class FolderExchange:
    """A folder that several sites can reach: SFTP, a shared drive, a stick that is carried.

    Heads lie in it as files, wrapped for every site, so whoever owns the folder reads nothing.
    Files appear whole, by renaming; one that was cut off on its way is refused, and taken when it
    is whole. Names outside the pattern, links and folders are left alone.
    """

    def __init__(self, replica: Replica, folder: Path) -> None:
        self._replica, self._folder = replica, folder

    def sync(self) -> Synced:
        """See ``Exchange.sync``."""
        done = Synced()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            there = dict(self._files())
        except OSError as error:
            raise ExchangeError(
                f"folder {self._folder} cannot be used: {error.strerror or error}; "
                f"check that it is mounted and may be written"
            ) from error
        done.roster = self._learn(done)
        for path in there.values():
            self._take(path, done)
        self._give(there, done)
        return done

    def _files(self) -> Iterator[tuple[tuple[SiteId, int], Path]]:
        """Return the files of heads that lie there, by site and number."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                match = NAME.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    yield (match[1], int(match[2])), Path(entry.path)

    def _learn(self, done: Synced) -> bool:
        path = self._folder / ROSTER
        if path.is_symlink() or not path.is_file():
            return False
        try:
            return self._replica.learn(bundled(read_limited(path, "the roster")))
        except DflmoeError as error:
            done.refused.append(str(error))
            return False

    def _parcel(self, path: Path) -> Parcel:
        limit = self._replica.roster.charter.max_head_bytes + ENVELOPE_LIMIT + HEADER_LIMIT
        return unpacked(read_limited(path, "the head", limit), path.name)

    def _take(self, path: Path, done: Synced) -> None:
        try:
            parcel = self._parcel(path)
            manifest = self._replica.wants(parcel.envelope)
            if manifest and self._replica.take(parcel.envelope, parcel.payload):
                done.taken.append(manifest.site)
        except DflmoeError as error:
            logger.info("not taken: %s", error)
            done.refused.append(str(error))

    def _give(self, there: dict[tuple[SiteId, int], Path], done: Synced) -> None:
        """Write what the folder lacks, and remove what is older than what now lies there."""
        try:
            replace_file(self._folder / ROSTER, self._replica.roster.raw)
            for site in list(self._replica.store.heads()):
                held = self._replica.held(site)
                if held is None or site not in self._replica.roster.members:
                    continue
                key = (site, held.manifest.seq)
                if key not in there or not self._readable(there[key], held.manifest):
                    payload = self._replica.fit_to_pass(held)
                    name = f"{site}-{held.manifest.seq}.head"
                    replace_file(self._folder / name, packed(held.envelope, payload))
                    done.given.append(site)
                for (other, seq), path in there.items():
                    if other == site and seq < held.manifest.seq:
                        with suppress(FileNotFoundError):  # a peer was faster
                            path.unlink()
        except (OutputError, OSError) as error:
            raise ExchangeError(
                f"heads were taken from folder {self._folder}, and none can be written to it: "
                f"{error}"
            ) from error

    def _readable(self, path: Path, manifest: Manifest) -> bool:
        """Return whether a file is whole, and can be read by the sites of today and no other."""
        try:
            payload = self._parcel(path).payload
            return self._replica.for_members(payload) and self._replica.intact(payload, manifest)
        except SecurityError:
            return False
