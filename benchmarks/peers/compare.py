"""Compare dflmoe's simulator with others, and with a plain loop, on what ``workload.py`` says.

Run it as ``make bench-peers``, or as ``python benchmarks/peers/compare.py --peers FOLDER`` with the
environments that ``install.py`` made. All are run in turns, each in a process of its own, on two
cores. Memory and processor time are those of the whole tree of processes, daemons included. Linux
only.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
CORES = 2
EVERY_S = 1.0
PR_SET_CHILD_SUBREAPER = 36
QUIET = {
    "OMP_WAIT_POLICY": "passive",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Way:
    """One line of the table.

    Attributes:
        title: For people.
        runner: The file that plays.
        cores: Threads, workers or processes that compute; p2pfl takes what it gets.
        peer: Whose environment; our own if empty.
    """

    title: str
    runner: str
    cores: int
    peer: str = ""

    def command(self, peers: Path) -> list[str]:
        """Return what is run."""
        python = str(peers.absolute() / self.peer / "bin" / "python") if self.peer else ""
        runner = HERE.absolute() / f"run_{self.runner}.py"
        return [python or sys.executable, str(runner), repr(time.time()), str(self.cores)]


WAYS = (
    Way("plain loop, 1 thread", "plain", 1),
    Way("plain loop, 2 threads", "plain", 2),
    Way("dflmoe, 1 worker", "dflmoe", 1),
    Way("dflmoe, 2 workers", "dflmoe", 2),
    Way("Flower, 2 actors", "flower", 2, "flower"),
    Way("fluke-fl, 1 thread", "fluke", 1, "fluke"),
    Way("fluke-fl, 2 threads", "fluke", 2, "fluke"),
    Way("pfl, 1 thread", "pfl", 1, "pfl"),
    Way("pfl, 2 threads", "pfl", 2, "pfl"),
    Way("p2pfl, a thread a site", "p2pfl", 2, "p2pfl"),
)
BASE = WAYS[0].title


class FailedError(Exception):
    """A simulator is not there or did not finish; says why."""


@dataclass
class Tree:
    """Everything that descends from this process: what a run needs.

    Attributes:
        peak_mib: The most proportional memory (PSS: shared pages are counted once) at one look.
        seconds: Processor time of each process when it was last seen.
    """

    peak_mib: float = 0.0
    seconds: dict[psutil.Process, float] = field(default_factory=dict)

    def look(self) -> None:
        """Take a sample."""
        total = 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                self.seconds[process] = sum(process.cpu_times()[:2])
                total += process.memory_full_info().pss
        self.peak_mib = max(self.peak_mib, total / 2**20)


def reaped_s() -> float:
    """Return the processor time of all descendants that have ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def end_all() -> None:
    """End what a run left behind; orphans have become our own children."""
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        left = psutil.Process().children(recursive=True)
        for process in left:
            with suppress(psutil.Error):
                stop(process)
        psutil.wait_procs(left, timeout=5)


@dataclass(frozen=True)
class Run:
    """What came of one run.

    Attributes:
        package: The simulator.
        version: Of it.
        rounds: Seconds of each round.
        start: Seconds from the start of the process to the first training step.
        accuracy: Of the last average on test rows.
        peak_mib: See ``Tree``.
        cpu_s: Processor seconds from start to end.
    """

    package: str
    version: str
    rounds: list[float]
    start: float
    accuracy: float
    peak_mib: float
    cpu_s: float


def measured(way: Way, peers: Path, limit_s: float) -> Run:
    """Run a simulator once.

    Raises:
        FailedError: It was not installed, or did not finish.
    """
    failed = peers / way.peer / "failed"
    if way.peer and failed.exists():
        raise FailedError(f"not installed: {failed.read_text().strip()}")
    if way.peer and not (peers / way.peer / "bin").exists():
        raise FailedError("not installed: run benchmarks/peers/install.py")
    tree, before = Tree(), reaped_s()
    said = output(way.command(peers), tree, limit_s)
    cpu_s = max(reaped_s() - before, sum(tree.seconds.values()))
    return Run(**said, peak_mib=tree.peak_mib, cpu_s=cpu_s)  # type: ignore[arg-type]


def output(command: Sequence[str], tree: Tree, limit_s: float) -> Mapping[str, object]:
    """Return what a runner tells; nothing of it runs any more.

    Raises:
        FailedError: It did not finish.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        log, folder = Path(name) / "log", {"TMPDIR": name, "FLWR_HOME": name}
        with log.open("w") as to:
            process = subprocess.Popen(  # noqa: S603 - our own runners
                command,
                cwd=name,
                env={**os.environ, **QUIET, **folder},
                stdout=to,
                stderr=to,
                start_new_session=True,
            )
            try:
                wait(process, tree, limit_s)
            finally:
                end_all()
        return told(log.read_text(errors="replace"), process.returncode)


def wait(process: subprocess.Popen[bytes], tree: Tree, limit_s: float) -> None:
    """Look at a process until it ends.

    Raises:
        FailedError: It takes too long.
    """
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        tree.look()
        with suppress(subprocess.TimeoutExpired):
            process.wait(EVERY_S)
            return
    raise FailedError(f"did not finish in {limit_s:.0f} s")


def told(log: str, code: int) -> dict[str, object]:
    """Return the last line of JSON.

    Raises:
        FailedError: There is none.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    found = [line for line in lines if line.startswith("{")]
    if code or not found:
        raise FailedError(f"ended with {code}: {lines[-1] if lines else 'it said nothing'}")
    parsed: dict[str, object] = json.loads(found[-1])
    return parsed


def table(runs: Mapping[str, Sequence[Run]], failed: Mapping[str, str]) -> Table:
    """Return the comparison; what failed is in it with the reason."""
    shown = Table("simulator", title="8 sites, 20 rounds of FedAvg, two cores", box=SIMPLE)
    for head in ("s/round", "x plain", "start, s", "peak MiB", "CPU s", "accuracy"):
        shown.add_column(head, justify="right")
    for title, all_ in runs.items():
        row = () if title in failed else cells(all_, runs.get(BASE, ()))
        shown.add_row(title, *(row or ["failed"]))
    versions = dict.fromkeys(
        f"{all_[0].package} {all_[0].version}" for all_ in runs.values() if all_
    )
    reasons = [f"{title} failed: {reason}" for title, reason in failed.items()]
    shown.caption = "\n".join([", ".join(versions), *reasons])
    return shown


def cells(runs: Sequence[Run], base: Sequence[Run]) -> Iterator[str]:
    """Yield medians over rounds and runs; ratios are of paired runs."""
    yield f"{median(s for run in runs for s in run.rounds):.2f}"
    pairs = [median(a.rounds) / median(b.rounds) for a, b in zip(runs, base, strict=False)]
    yield f"{median(pairs):.2f}" if pairs else "-"
    for name, digits in (("start", 1), ("peak_mib", 0), ("cpu_s", 0), ("accuracy", 3)):
        yield f"{median(getattr(run, name) for run in runs):.{digits}f}"


def compare(
    ways: Sequence[Way], peers: Path, repeats: int, limit_s: float
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run all in turns; who fails is left out from then on. Returns runs, and reasons."""
    runs: dict[str, list[Run]] = {way.title: [] for way in ways}
    failed: dict[str, str] = {}
    turns = [way for _ in range(repeats) for way in ways]
    for way in track(turns, "measuring", console=Console(stderr=True)):
        if way.title in failed:
            continue
        try:
            runs[way.title].append(measured(way, peers, limit_s))
        except FailedError as error:
            failed[way.title] = str(error)
    return runs, failed


def empty_ms(workers: int) -> float:
    """Return the milliseconds of a round of ours in which 8 sites only lend a small head."""
    command = [*Way("", "dflmoe", workers).command(HERE), "empty"]
    return float(str(output(command, Tree(), 600)["empty_ms"]))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="runners: plain dflmoe flower fluke pfl p2pfl")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a run may take")
    parser.add_argument("--empty", action="store_true", help="time a round that does nothing")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if chosen.empty:
        found = {f"{workers} workers": empty_ms(workers) for workers in (1, CORES)}
        print(json.dumps({"empty round, ms": found}, indent=1))
        return
    ways = [way for way in WAYS if not chosen.only or way.runner in chosen.only]
    runs, failed = compare(ways, chosen.peers, chosen.repeats, chosen.limit)
    if chosen.json:
        every = {title: [asdict(run) for run in all_] for title, all_ in runs.items()}
        print(json.dumps({"runs": every, "failed": failed}, indent=1))
    else:
        Console().print(table(runs, failed))


if __name__ == "__main__":
    main()
