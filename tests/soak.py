"""Fifty nights in one: five nodes, and faults drawn by chance for as long as you like.

Run it as ``python -m tests.soak --minutes 30``. Nodes are processes over mutual TLS, all of whose
links pass proxies; they are killed and started again, frozen and thawed, and their links spoilt in
every way. At the end all is mended, and what must be true is: all nodes run; every log is whole and
no receipt of any peer contradicts it; nobody holds an older head of anybody than it ever received,
and all get the newest of all; no site serves what is worse than what it has alone by a point.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import get_args

from rich.console import Console
from tests.faults import Fault, Proxy

from dflmoe.data.tables import read_frame
from dflmoe.demo.founding import found, free_address
from dflmoe.errors import EnvelopeError
from dflmoe.node.audit import checked, kept
from dflmoe.node.home import read_limited
from dflmoe.node.life import running
from dflmoe.node.node import RoundSummary
from dflmoe.node.settings import SETTINGS
from dflmoe.node.status import STATUS, Status
from dflmoe.node.store import STORE, Store
from dflmoe.security.charter import Charter
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now

SITES = ("cleveland-a", "cleveland-b", "budapest", "long-beach", "switzerland")
EVERY_S = 5.0
MENDING_S, CALM_S = 240.0, 30.0
POINT = 0.01


class Night:
    """Five hospitals of the embedded study, the largest in halves, each a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        at = {site: free_address() for site in SITES}
        self.proxies = {site: Proxy(at[site]).start() for site in SITES}
        embedded = resources.files("dflmoe.data") / "embedded"
        columns = (embedded / "heart_disease.toml").read_text(encoding="utf-8")
        schema = tomllib.loads(columns)
        charter = {
            "federation": "0" * 32,
            "name": schema["title"],
            "task": schema["task"],
            "classes": schema["classes"],
            "kind": "table",
            "shape": [len(schema["columns"])],
            "columns": columns,
            "network": "plain",
            "exchange": "seeded",
        }
        dialled = {site: proxy.address for site, proxy in self.proxies.items()}
        found(folder, dialled, Charter.read(json.dumps(charter).encode(), "the charter"))
        with resources.as_file(embedded / "heart_disease.csv") as path:
            table = read_frame(path)
        names = [name.lower().replace(" ", "-") for name in table["site"]]
        halves = itertools.cycle(SITES[:2])
        table["site"] = [next(halves) if name == "cleveland" else name for name in names]
        for site in SITES:
            rows = table[table["site"] == site].drop(columns="site")
            rows.to_csv(folder / site / "rows.csv", index=False)
            (folder / site / SETTINGS).write_text(
                f'bind = "{at[site]}"\nevery = {EVERY_S}\n[data]\npath = "rows.csv"\n'
            )
        self.nodes: dict[SiteId, subprocess.Popen[bytes]] = {}

    def starts(self, site: SiteId) -> None:
        """Start a node."""
        command = [sys.executable, "-m", "dflmoe.cli.main", "node", "run"]
        with (self.folder / f"{site}.log").open("ab") as log:
            self.nodes[site] = subprocess.Popen(
                [*command, "--home", str(self.folder / site)], stdout=log, stderr=log
            )

    def sends(self, site: SiteId, what: signal.Signals) -> None:
        """Send a signal to a node."""
        os.kill(self.nodes[site].pid, what)

    def faults(self, rng: random.Random) -> Iterator[str]:
        """Yield what is done, fault after fault, for ever; each is mended before its successor."""
        while True:
            site = rng.choice(SITES)
            kind = rng.choice(["kill", "freeze", "link", "link", "link"])
            if kind == "kill":
                yield f"{site} is killed"
                self.sends(site, signal.SIGKILL)
                self.nodes[site].wait()
                time.sleep(rng.uniform(0, 10))
                self.starts(site)
            elif kind == "freeze":
                yield f"{site} is frozen"
                self.sends(site, signal.SIGSTOP)
                time.sleep(rng.uniform(1, 40))
                self.sends(site, signal.SIGCONT)
            else:
                fault: Fault = rng.choice(get_args(Fault))
                yield f"the links of {site}: {fault}"
                self.proxies[site].becomes(fault)
                time.sleep(rng.uniform(1, 40))
                self.proxies[site].becomes("none")
            time.sleep(rng.uniform(0, 5))

    def status(self, site: SiteId) -> Status | None:
        """Return what a node says of itself, once it has played a round."""
        try:
            raw = read_limited(self.folder / site / STATUS, "the status")
            return Status.read(raw, "the status")
        except EnvelopeError:
            return None

    def store(self, site: SiteId) -> Store:
        return Store(self.folder / site / STORE, sweeps=False)

    def healed(self) -> bool:
        """Return whether everybody has a stream with everybody, or a head of everybody."""
        told = [self.status(site) for site in SITES]
        return all(
            one is not None and one.pid is not None and all(p.connected for p in one.peers)
            for one in told
        )

    def stop(self) -> None:
        """End all."""
        for node in self.nodes.values():
            node.terminate()
        for node in self.nodes.values():
            node.wait()
        for proxy in self.proxies.values():
            proxy.stop()


def verdicts(
    night: Night, alive: dict[SiteId, int | None], settled: datetime
) -> dict[str, list[str]]:
    """Return what is not as it must be, in sentences, by promise.

    Args:
        night: At rest.
        alive: The process of each node before it was told to end.
        settled: What was lent until then had the time to arrive.
    """
    stores = {site: night.store(site) for site in SITES}
    wrong: dict[str, list[str]] = {"alive": [], "audit": [], "lost": [], "newest": [], "worse": []}
    for site, store in stores.items():
        if alive[site] is None:
            wrong["alive"].append(f"{site} does not run")
        wrong["audit"] += [f"{site}: {one}" for one in store.check()]
        entries = store.entries()
        receipts = [r for peer, other in stores.items() for r in kept(other, peer, site)]
        wrong["audit"] += [f"{site}: {one}" for one in checked(entries, receipts, site).wrong]
        heads = store.heads()
        newest: Counter[str] = Counter()
        for entry in store.entries("received"):
            whose, seq = str(entry.told["site"]), int(str(entry.told["seq"]))
            newest[whose] = max(newest[whose], seq)
        for whose, seq in newest.items():
            if whose not in heads or heads[whose].seq < seq:
                wrong["lost"].append(f"{site} has lost a head of {whose}")
        for whose, other in stores.items():
            lent = [int(str(e.told["seq"])) for e in other.entries("lent") if e.at <= settled]
            if whose not in heads or heads[whose].seq < max(lent):
                wrong["newest"].append(f"{site} has an older head of {whose}")
        told = RoundSummary.model_validate_json(store.last_round() or "")
        alone, mixed = told.own_score or 0.0, told.mixture_score or 0.0
        if told.used and mixed < alone - POINT:
            wrong["worse"].append(f"{site}: {100 * (alone - mixed):.1f} points")
    return wrong


def main() -> None:
    """Play, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    console, rng = Console(highlight=False), random.Random(chosen.seed)  # noqa: S311 - no secret
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        night = Night(Path(temporary))
        try:
            for site in SITES:
                night.starts(site)
            until = time.monotonic() + 60 * chosen.minutes
            with console.status("a night") as shown:
                for what in night.faults(rng):
                    if time.monotonic() > until:
                        break
                    done[what.split(": ")[-1].split(" is ")[-1]] += 1
                    shown.update(f"{what}; {int(until - time.monotonic())} s to go")
            mended = time.monotonic() + MENDING_S
            while not night.healed() and time.monotonic() < mended:
                time.sleep(1)
            settled = now()
            time.sleep(CALM_S)
            alive = {site: running(night.folder / site) for site in SITES}
            for site in SITES:  # at rest, so that all that was lent can be taken
                night.sends(site, signal.SIGTERM)
            for node in night.nodes.values():
                node.wait()
            wrong = verdicts(night, alive, settled)
            rounds = {site: len(night.store(site).rounds()) for site in SITES}
        finally:
            night.stop()
    console.print_json(
        json.dumps({"faults": done, "rounds": rounds, "wrong": wrong, "minutes": chosen.minutes})
    )
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
