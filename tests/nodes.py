"""Nodes as processes over mutual TLS, whose links all pass proxies: for tests that break them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit

from tests.faults import Proxy

from dflmoe.data.source import SETTINGS
from dflmoe.demo.founding import found, free_address, study_charter, study_rows
from dflmoe.demo.study import demo_study
from dflmoe.errors import EnvelopeError
from dflmoe.node.home import read_limited
from dflmoe.node.status import STATUS, Status
from dflmoe.node.store import STORE, Store
from dflmoe.types import SiteId

SITES = ("cleveland-a", "cleveland-b", "budapest", "long-beach", "switzerland")


class Nodes:
    """Hospitals of the embedded study, the largest in halves, each a process."""

    def __init__(self, folder: Path, sites: Sequence[SiteId] = SITES, every: float = 5.0) -> None:
        """Found a federation; nobody runs yet.

        Args:
            folder: Each site has a folder in it.
            sites: Some of ``SITES``; two or more.
            every: Seconds from round to round.
        """
        self.folder, self.sites = folder, tuple(sites)
        at = {site: free_address() for site in sites}
        self.proxies = {site: Proxy(at[site]).start() for site in sites}
        dialled = {site: proxy.address for site, proxy in self.proxies.items()}
        found(folder, dialled, study_charter(demo_study(), exchange="seeded"))
        rows = study_rows()
        largest = rows.pop("cleveland")
        rows |= {"cleveland-a": largest[::2], "cleveland-b": largest[1::2]}
        for site in sites:
            rows[site].to_csv(folder / site / "rows.csv", index=False)
            (folder / site / SETTINGS).write_text(
                f'bind = "{at[site]}"\nevery = {every}\n[data]\npath = "rows.csv"\n'
            )
        self.running: dict[SiteId, subprocess.Popen[bytes]] = {}
        self._writers: list[threading.Thread] = []

    def starts(self, site: SiteId) -> None:
        """Start a node; what it prints goes through a pipe, as to journald: its disk may fill."""
        command = [sys.executable, "-m", "dflmoe.cli.main", "node", "run"]
        self.running[site] = node = subprocess.Popen(
            [*command, "--home", str(self.folder / site)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        writer = threading.Thread(target=self._writes_down, args=(site, node), daemon=True)
        writer.start()
        self._writers.append(writer)

    def _writes_down(self, site: SiteId, node: subprocess.Popen[bytes]) -> None:
        assert node.stdout is not None
        with node.stdout, (self.folder / f"{site}.log").open("ab", buffering=0) as log:
            for line in node.stdout:
                log.write(line)

    def printed(self, site: SiteId) -> str:
        """Return what a node has printed."""
        return (self.folder / f"{site}.log").read_text(encoding="utf-8")

    def sends(self, site: SiteId, what: signal.Signals) -> None:
        """Send a signal to a node that runs."""
        if self.running[site].poll() is None:
            os.kill(self.running[site].pid, what)

    def may_write(self, site: SiteId, size: int = RLIM_INFINITY) -> None:
        """Let no file of a node grow beyond a size: 0 is what a full disk is to it."""
        if self.running[site].poll() is None:
            prlimit(self.running[site].pid, RLIMIT_FSIZE, (size, RLIM_INFINITY))

    def status(self, site: SiteId) -> Status | None:
        """Return what a node says of itself; none before it says anything."""
        try:
            raw = read_limited(self.folder / site / STATUS, "the status")
            return Status.read(raw, "the status")
        except EnvelopeError:
            return None

    def round(self, site: SiteId) -> int:
        """Return the last round of a site."""
        told = self.status(site)
        return told.last.number if told and told.last else 0

    def store(self, site: SiteId) -> Store:
        """Open the store of a site, beside its node."""
        return Store(self.folder / site / STORE, sweeps=False)

    def joined(self) -> bool:
        """Return whether everybody has a stream with everybody, or a head of everybody."""
        told = [self.status(site) for site in self.sites]
        return all(
            one is not None and one.pid is not None and all(p.connected for p in one.peers)
            for one in told
        )

    def end(self) -> None:
        """Let every node end, as an administrator does."""
        for what in (signal.SIGCONT, signal.SIGTERM):
            for site in self.running:
                self.sends(site, what)
        for node in self.running.values():
            node.wait()
        for writer in self._writers:
            writer.join()

    def stop(self) -> None:
        """End all."""
        self.end()
        for proxy in self.proxies.values():
            proxy.stop()
