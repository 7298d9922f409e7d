"""Put the demonstration on: found, start, watch, merge; and leave nothing behind."""

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path

from dflmoe.core.auto import Exchange
from dflmoe.data.source import SETTINGS
from dflmoe.data.study import Study
from dflmoe.demo.founding import found, free_address, study_charter, study_rows
from dflmoe.demo.hospital import REPORT, Part, live
from dflmoe.demo.study import demo_study
from dflmoe.errors import EnvelopeError, ExchangeError
from dflmoe.node.status import STATUS, Status
from dflmoe.report.merge import merged
from dflmoe.report.render import write
from dflmoe.report.schema import Report
from dflmoe.types import SiteId
from dflmoe.wire.payload import WireDtype

LOOK_S, FAREWELL_S = 0.25, 5.0
EXCHANGE: Exchange = "shared"

Look = Callable[[dict[SiteId, Status]], None]
"""Told again and again what each site says of itself."""

Beside = Callable[[Path], AbstractContextManager[object]]


@dataclass(frozen=True)
class Staged:
    """What is put on.

    Attributes:
        study: The hospitals.
        seed: Of all chance.
        dtype: How numbers travel.
        rounds: Of lending.
        lockstep: Whether rounds are played in step.
        out: Folder of the reports.
    """

    study: Study
    seed: int
    dtype: WireDtype
    rounds: int
    lockstep: bool
    out: Path


def stage(
    count: int, *, seed: int, dtype: WireDtype, rounds: int, lockstep: bool, out: Path
) -> Staged:
    """Return what is put on.

    Raises:
        OptionError: There are not so many hospitals.
    """
    return Staged(demo_study(count), seed, dtype, 1 if lockstep else rounds, lockstep, out)


def put_on(staged: Staged, look: Look, beside: Beside = lambda _: nullcontext()) -> Report:
    """Play, and return the report of all sites together; each site's own is written beside it.

    Args:
        staged: What is put on.
        look: Told what each site does, several times a second.
        beside: What runs beside the nodes, given the folder of the first site.

    Raises:
        ExchangeError: A hospital ended before it had reported.
        OutputError: The reports cannot be written.
    """
    names = [site.name for site in staged.study.sites]
    with _folder() as folder:
        _prepared(folder, staged)
        with beside(folder / names[0]), _running(folder, staged) as processes:
            while any(process.is_alive() for process in processes):
                processes[0].join(LOOK_S)
                look(_statuses(folder, names))
            look(_statuses(folder, names))
        ended = [name for name, p in zip(names, processes, strict=True) if p.exitcode != 0]
    if ended:
        raise ExchangeError(
            f"{', '.join(ended)} ended before all was played; what went wrong stands above"
        )
    reports = [
        Report.model_validate_json(
            (staged.out / name / REPORT).with_suffix(".json").read_text(encoding="utf-8")
        )
        for name in names
    ]
    whole = merged(reports)
    write(whole, staged.out / REPORT)
    return whole


@contextmanager
def _folder() -> Iterator[Path]:
    """Give a folder for keys, rows and stores, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dflmoe-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(folder: Path, staged: Staged) -> None:
    """Found the federation, and give every site its own rows and settings."""
    at = {site.name: free_address() for site in staged.study.sites}
    charter = study_charter(
        staged.study, exchange=EXCHANGE, body_seed=staged.seed, dtype=staged.dtype
    )
    found(folder, at, charter)
    rows = study_rows()
    for name, address in at.items():
        rows[name].to_csv(folder / name / "rows.csv", index=False)
        settings = (
            f'bind = "{address}"\nevery = 0\nseed = {staged.seed}\n[data]\npath = "rows.csv"\n'
        )
        (folder / name / SETTINGS).write_text(settings, encoding="utf-8")


@contextmanager
def _running(folder: Path, staged: Staged) -> Iterator[Sequence[SpawnProcess]]:
    """Start the hospitals; whatever happens, none is left behind."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(staged.study.sites))
    processes = [
        context.Process(
            target=live,
            name=site.name,
            args=(
                Part(
                    home=folder / site.name,
                    out=staged.out / site.name,
                    seed=staged.seed,
                    dtype=staged.dtype,
                    rounds=staged.rounds,
                    lockstep=staged.lockstep,
                ),
                barrier,
            ),
        )
        for site in staged.study.sites
    ]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(FAREWELL_S)
            if process.is_alive():
                process.kill()
                process.join()


def _statuses(folder: Path, names: Sequence[SiteId]) -> dict[SiteId, Status]:
    """Return what each site says of itself, as far as it has said anything."""
    said = {}
    for name in names:
        try:
            said[name] = Status.read((folder / name / STATUS).read_bytes(), "the status")
        except (OSError, EnvelopeError):
            continue
    return said
