"""Fifty nights in one: five nodes, and faults drawn by chance for as long as you like.

Run it as ``python -m tests.soak --minutes 30``. Nodes are processes over mutual TLS, all of whose
links pass proxies; they are killed and started again, frozen and thawed, and their links spoilt in
every way. At the end all is mended, and what must be true is: all nodes run; every log is whole and
no receipt of any peer contradicts it; nobody holds an older head of anybody than it ever received,
and all get the newest of all; no site serves what is worse than what it has alone by a point.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import get_args

from rich.console import Console
from tests.nodes import SITES, Nodes

from dflmoe.node.audit import checked, kept
from dflmoe.node.life import running
from dflmoe.node.node import RoundSummary
from dflmoe.simulation.faults import LinkFault
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now

MENDING_S, CALM_S = 240.0, 30.0
POINT = 0.01


class Night(Nodes):
    """A night of faults."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ended: Counter[str] = Counter()

    def restarts(self) -> None:
        """Start who ended by itself, as systemd would, and note what it said last."""
        for site, node in self.running.items():
            if node.poll() is not None:
                said = self.printed(site).strip().splitlines()[-1]
                self.ended[f"{site}, exit code {node.returncode}: {said}"] += 1
                self.starts(site)

    def faults(self, rng: random.Random) -> Iterator[str]:
        """Yield what is done, fault after fault, for ever; each is mended before its successor."""
        while True:
            self.restarts()
            site = rng.choice(SITES)
            kind = rng.choice(["kill", "freeze", "disk", "link", "link", "link"])
            if kind == "kill":
                yield f"{site} is killed"
                self.sends(site, signal.SIGKILL)
                self.running[site].wait()
                time.sleep(rng.uniform(0, 10))
                self.starts(site)
            elif kind == "freeze":
                yield f"{site} is frozen"
                self.sends(site, signal.SIGSTOP)
                time.sleep(rng.uniform(1, 40))
                self.sends(site, signal.SIGCONT)
            elif kind == "disk":
                yield f"{site} has a full disk"
                self.may_write(site, 0)
                time.sleep(rng.uniform(1, 20))
                self.may_write(site)
            else:
                fault: LinkFault = rng.choice(get_args(LinkFault))
                yield f"{site} has links with {fault}"
                self.proxies[site].becomes(fault)
                time.sleep(rng.uniform(1, 40))
                self.proxies[site].becomes("none")
            time.sleep(rng.uniform(0, 5))

    def scores(self, site: SiteId) -> tuple[float, float]:
        """Return the score of a site alone and of what it serves, on rows of its own."""
        told = RoundSummary.model_validate_json(self.store(site).last_round() or "")
        alone, mixed = told.own_score or 0.0, told.mixture_score or 0.0
        return alone, mixed if told.used else alone


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
        alone, serves = night.scores(site)
        if serves < alone - POINT:
            wrong["worse"].append(f"{site}: {100 * (alone - serves):.1f} points")
    return wrong


def played(night: Night, minutes: float, rng: random.Random, console: Console) -> Counter[str]:
    """Let a night go by; returns how often each thing was done."""
    done: Counter[str] = Counter()
    until = time.monotonic() + 60 * minutes
    with (
        console.status("a night") as shown,
        (night.folder / "events.log").open("w", buffering=1) as told,
    ):
        for what in night.faults(rng):
            if time.monotonic() > until:
                return done
            done[what.split(" ", 1)[1]] += 1
            told.write(f"{now():%H:%M:%S} {what}\n")
            shown.update(f"{what}; {int(until - time.monotonic())} s to go")
    return done


def main() -> None:
    """Play, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="the folder, whatever comes of it")
    chosen = parser.parse_args()
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="dflmoe-soak-"))
    night = Night(folder)
    try:
        for site in SITES:
            night.starts(site)
        done = played(night, chosen.minutes, random.Random(chosen.seed), console)  # noqa: S311
        mended = time.monotonic() + MENDING_S
        while not night.joined() and time.monotonic() < mended:
            night.restarts()
            time.sleep(1)
        settled = now()
        time.sleep(CALM_S)
        alive = {site: running(folder / site) for site in SITES}
        night.end()
        wrong = verdicts(night, alive, settled)
    finally:
        night.stop()
    told = {
        "minutes": chosen.minutes,
        "seed": chosen.seed,
        "faults": done,
        "ended": night.ended,
        "rounds": {site: len(night.store(site).rounds()) for site in SITES},
        "scores": {site: night.scores(site) for site in SITES},
        "wrong": wrong,
    }
    console.print_json(json.dumps(told))
    if chosen.keep or any(wrong.values()):
        console.print(f"what each node printed, and what happened when, is in {folder}")
    else:
        shutil.rmtree(folder)
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
