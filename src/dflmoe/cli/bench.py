"""``dflmoe bench``: methods against each other on medical data, and pages of the results."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.bench.experiment import RunSetting, load, shipped
from dflmoe.bench.page import number, size, write, write_docs
from dflmoe.bench.record import RunRecord, stored
from dflmoe.bench.runner import plan, run_all
from dflmoe.bench.summary import Summary, TaskTable, summarise, unit_name
from dflmoe.cli.interrupt import INTERRUPTED, interrupt
from dflmoe.cli.progress import bar
from dflmoe.errors import OptionError
from dflmoe.files import writable
from dflmoe.simulation.cores import available_cores
from dflmoe.simulation.machine import machine_named

DATA = "DFLMOE_DATA"
LOG_WIDTH = 120

app = typer.Typer(no_args_is_help=True, help="Compare methods on medical data.")

Name = Annotated[str, typer.Argument(help="An experiment by name, or a TOML file of your own.")]
Quick = Annotated[
    bool, typer.Option("--quick/--full", help="One seed and few rows, or all that is planned.")
]
Out = Annotated[Path, typer.Option(help="Folder of records and pages.")]
Tasks = Annotated[str, typer.Option(help="Tasks to play, with commas; all if not given.")]
Methods = Annotated[str, typer.Option(help="Methods to play, with commas; all if not given.")]
Seeds = Annotated[int | None, typer.Option(help="Seeds to play, from 0.")]
Data = Annotated[Path | None, typer.Option(help=f"Folder of data sets; else what {DATA} names.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


@app.command("list")
def list_experiments(*, as_json: AsJson = False) -> None:
    """List the experiments that come with the package.

    Example: dflmoe bench list
    """
    experiments = [load(name) for name in shipped()]
    if as_json:
        typer.echo(json.dumps({e.name: e.question for e in experiments}, indent=1))
        return
    table = Table("experiment", "question", "tasks", "methods", box=None)
    for e in experiments:
        table.add_row(e.name, e.question, str(len(e.tasks)), str(len(e.methods)))
    Console(highlight=False).print(table)


@app.command("run")
def run(
    experiment: Name,
    *,
    quick: Quick = True,
    tasks: Tasks = "",
    methods: Methods = "",
    seeds: Seeds = None,
    data: Data = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one for each core.")] = None,
    device: Annotated[
        str, typer.Option(help="Where networks are trained: cpu, cuda, cuda:1, mps or auto.")
    ] = "cpu",
    out: Out = Path("runs/bench"),
    as_json: AsJson = False,
) -> None:
    """Play an experiment; started again, it goes on where it was.

    Example: dflmoe bench run homogeneous --quick
    """
    chosen = load(experiment)
    root = _root(data)
    settings = _settings(
        experiment, quick=quick, tasks=tasks, methods=methods, seeds=seeds, root=root
    )
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs is {jobs}; it takes 1 or more")
    machine = machine_named(device)
    writable(out)
    console = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    stopped = False
    try:
        jobs = jobs or len(available_cores())
        run = partial(run_all, settings, out, root=root, jobs=jobs, machine=machine)
        _play(run, len(settings), console)
    except KeyboardInterrupt:
        stopped = True
        console.print("Stopped; the same command goes on where it was.")
    summary = summarise(chosen, settings, _records(settings, out))
    page = write(summary, out)
    _show(summary, page, as_json=as_json)
    if stopped:
        raise typer.Exit(INTERRUPTED)


@app.command("page")
def page(
    experiment: Name,
    *,
    quick: Quick = True,
    tasks: Tasks = "",
    methods: Methods = "",
    seeds: Seeds = None,
    data: Data = None,
    out: Out = Path("runs/bench"),
    markdown: Annotated[
        Path | None, typer.Option(help="Also write Markdown and figures, here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the page from the records that are there, and play nothing.

    Example: dflmoe bench page homogeneous --full --markdown homogeneous.md
    """
    settings = _settings(
        experiment, quick=quick, tasks=tasks, methods=methods, seeds=seeds, root=_root(data)
    )
    summary = summarise(load(experiment), settings, _records(settings, out))
    written = write(summary, out)
    if markdown is not None:
        kind = "--quick" if quick else "--full"
        write_docs(summary, markdown, f"{DATA}=... dflmoe bench run {experiment} {kind}")
    _show(summary, written, as_json=as_json)


def _settings(
    experiment: str,
    *,
    quick: bool,
    tasks: str,
    methods: str,
    seeds: int | None,
    root: Path | None,
) -> list[RunSetting]:
    if seeds is not None and seeds < 1:
        raise OptionError(f"--seeds is {seeds}; it takes 1 or more")
    return plan(
        load(experiment),
        quick=quick,
        tasks=tuple(filter(None, tasks.split(","))),
        methods=tuple(filter(None, methods.split(","))),
        seeds=None if seeds is None else range(seeds),
        root=root,
    )


def _root(data: Path | None) -> Path | None:
    """Return the folder of data sets that was named, here or in the environment."""
    return data or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)


def _records(settings: Sequence[RunSetting], out: Path) -> list[RunRecord]:
    found = (stored(out, setting) for setting in settings)
    return [record for record in found if record is not None]


def _play(run: Callable[..., Iterator[RunRecord]], count: int, console: Console) -> None:
    """Play what is left with a bar; in a log, one line a run."""
    with bar(console) as progress:
        task = progress.add_task("runs", total=None)

        def begun(left: int) -> None:
            progress.update(task, total=left)
            if left < count:
                console.print(f"{count - left} of {count} runs are there already.")

        for record in run(begun=begun):
            progress.advance(task)
            label = record.setting.label
            if record.status == "failed":
                console.print(f"failed: {label}: {record.reason}", style="red", markup=False)
            else:
                console.print(
                    f"{label}: {record.metric} {record.value:.3f} in {record.seconds:.0f} s",
                    markup=False,
                )


def _show(summary: Summary, page: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=LOG_WIDTH)
    for table in summary.tables:
        console.print(_table(table))
    if summary.safety is not None:
        found = summary.safety
        kept = "" if found.kept is None else f"; the guard keeps {found.kept:.0%} of true gains"
        console.print(
            f"Against alone, {found.cases} cases: mean {found.mean:+.1f} points, one in twenty "
            f"below {found.fifth:+.1f}, {found.worse:.0%} worse by more than 2 (at most "
            f"{found.worse_at_most:.0%}){kept}.",
            markup=False,
        )
    for failure in summary.failures:
        console.print(f"failed: {failure.label}: {failure.reason}", markup=False)
    typer.echo(f"Page: {page}")


def _table(table: TaskTable) -> Table:
    shown = Table(title=table.heading, title_justify="left", box=None)
    for column in ("method", unit_name(table), "gain over local", "minus ours", "bytes a site"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for row in table.rows:
        shown.add_row(
            row.title,
            number(row.score, table.unit),
            number(row.gain, table.unit, sign=True),
            number(row.against, table.unit, sign=True),
            size(row.site_bytes),
        )
    return shown
