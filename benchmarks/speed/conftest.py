"""Benchmarks in pairs: ours and a reference in turns, and a table of ratios at the end."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "peers"))  # the workload that peers share

OUT = Path("runs/speed")
ROWS: list[dict[str, str | float | None]] = []


class Speed:
    """What a benchmark says: how long it takes beside something else, or a number."""

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self._benchmark = benchmark

    def beside(
        self,
        what: str,
        ours: Callable[[], object],
        reference: Callable[[], object],
        *,
        target: float | None = None,
        rounds: int = 5,
    ) -> None:
        """Time the two in turns.

        Args:
            what: What ours is, and beside what.
            ours: Is timed.
            reference: Is timed just before it, each time.
            target: The most that the ratio is meant to be.
            rounds: How often, after one that warms up.
        """
        took = []

        def before() -> None:
            began = perf_counter()
            reference()
            took.append(perf_counter() - began)

        self._benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        stats = self._benchmark.stats
        assert stats is not None
        mine, theirs = stats.stats.data, took[-rounds:]
        ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
        self._add(what, "s", target, value=median(mine), reference=median(theirs), ratio=ratio)

    def told(
        self,
        what: str,
        ask: Callable[[], float],
        unit: str,
        target: float | None = None,
        *,
        times: int = 3,
    ) -> None:
        """Tell a number that something measures itself, the median of some times."""
        found: list[float] = []
        self._benchmark.pedantic(lambda: found.append(ask()), rounds=times)
        self._add(what, unit, target, value=median(found))

    def _add(
        self,
        what: str,
        unit: str,
        target: float | None,
        *,
        value: float,
        reference: float | None = None,
        ratio: float | None = None,
    ) -> None:
        row: dict[str, str | float | None] = {
            "what": what, "value": value, "unit": unit,
            "reference": reference, "ratio": ratio, "target": target,
        }  # fmt: skip
        self._benchmark.extra_info.update(row)
        ROWS.append(row)


@pytest.fixture
def speed(benchmark: BenchmarkFixture) -> Iterator[Speed]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Speed(benchmark)
    torch.set_num_threads(threads)


def shown(value: float, unit: str) -> str:
    """Return a number for people."""
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def pytest_terminal_summary() -> None:
    if not ROWS:
        return
    table = Table("what", box=SIMPLE, title="medians of paired runs", title_justify="left")
    for head in ("ours", "beside", "ratio", "meant to be"):
        table.add_column(head, justify="right")
    for row in ROWS:
        unit, ratio, target = str(row["unit"]), row["ratio"], row["target"]
        reference = row["reference"]
        meant = "" if target is None else f"<= {target:g}" + ("" if ratio else f" {unit}")
        table.add_row(
            str(row["what"]),
            shown(float(row["value"] or 0), unit),
            "" if reference is None else shown(float(reference), unit),
            "" if ratio is None else f"{ratio:.2f}",
            meant,
        )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "table.json").write_text(json.dumps(ROWS, indent=1))
    Console(width=110).print(table)
    with (OUT / "table.txt").open("w") as file:
        Console(file=file, width=110).print(table)
