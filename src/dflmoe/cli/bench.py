"""``dflmoe bench``: methods against each other on medical data, and pages of the results."""

import json
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.bench.experiment import Experiment, RunSetting, load, shipped
from dflmoe.bench.page import write, write_docs, write_paper, write_paper_docs
from dflmoe.bench.paper import beside, published
from dflmoe.bench.record import RunRecord, stored
from dflmoe.bench.runner import plan, run_all
from dflmoe.bench.summary import Summary, summarise
from dflmoe.cli.bench_tables import show, show_paper
from dflmoe.cli.interrupt import INTERRUPTED, interrupt
from dflmoe.cli.progress import bar
from dflmoe.data.sets import is_at_hand
from dflmoe.errors import DataFileError, OptionError
from dflmoe.files import writable
from dflmoe.simulation.cores import available_cores
from dflmoe.simulation.machine import machine_named

DATA = "DFLMOE_DATA"

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
Jobs = Annotated[int | None, typer.Option(help="Processes; one for each core.")]
Device = Annotated[
    str, typer.Option(help="Where networks are trained: cpu, cuda, cuda:1, mps or auto.")
]
Markdown = Annotated[Path | None, typer.Option(help="Also write Markdown and figures, here.")]
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
    jobs: Jobs = None,
    device: Device = "cpu",
    out: Out = Path("runs/bench"),
    as_json: AsJson = False,
) -> None:
    """Play an experiment; started again, it goes on where it was.

    Example: dflmoe bench run homogeneous --quick
    """
    chosen = load(experiment)
    root = _root(data)
    settings = _settings(
        chosen, quick=quick, tasks=_listed(tasks), methods=methods, seeds=seeds, root=root
    )
    stopped = _played(settings, root=root, jobs=jobs, device=device, out=out)
    summary = summarise(chosen, settings, _records(settings, out))
    page = write(summary, out)
    show(summary, page, as_json=as_json)
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
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """Make the page from the records that are there, and play nothing.

    Example: dflmoe bench page homogeneous --full --markdown homogeneous.md
    """
    chosen = load(experiment)
    settings = _settings(
        chosen, quick=quick, tasks=_listed(tasks), methods=methods, seeds=seeds, root=_root(data)
    )
    summary = summarise(chosen, settings, _records(settings, out))
    written = write(summary, out)
    if markdown is not None:
        write_docs(summary, markdown, _command(f"run {experiment}", quick=quick))
    show(summary, written, as_json=as_json)


@app.command("paper")
def paper(
    *,
    quick: Quick = True,
    seeds: Seeds = None,
    data: Data = None,
    jobs: Jobs = None,
    device: Device = "cpu",
    play: Annotated[
        bool, typer.Option("--play/--no-play", help="Play, or only make the pages.")
    ] = True,
    out: Out = Path("runs/bench"),
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """Play the paper's tables and put ours beside them; started again, it goes on where it was.

    Example: dflmoe bench paper --quick
    """
    root, console = _root(data), Console(stderr=True, highlight=False)
    experiments = [load(name) for name in published().experiments]
    settings: dict[str, list[RunSetting]] = {}
    left_out: dict[str, None] = {}
    for one in experiments:
        named = (one.quick_tasks if quick else ()) or one.tasks
        tasks = [task for task in named if is_at_hand(one.task(task).at_hand(root).set, root)]
        left_out.update(dict.fromkeys(task for task in named if task not in tasks))
        settings[one.name] = []
        if tasks:
            settings[one.name] = _settings(
                one, quick=quick, tasks=tasks, methods="", seeds=seeds, root=root
            )
    if not any(settings.values()):
        raise DataFileError(
            f"no set of the paper's tables is at hand, and none that stands in; name a folder of "
            f"data sets by --data or {DATA}"
        )
    if left_out:
        console.print(
            f"Left out, as neither their sets nor those that stand in are at hand: "
            f"{', '.join(left_out)}.",
            markup=False,
        )
    stopped = False
    summaries: dict[str, Summary] = {}
    for one in experiments:
        if settings[one.name] and play and not stopped:
            console.print(one.title, style="bold")
            stopped = _played(settings[one.name], root=root, jobs=jobs, device=device, out=out)
        records = _records(settings[one.name], out)
        summaries[one.name] = summarise(one, settings[one.name], records)
        write(summaries[one.name], out)
    found = beside(summaries)
    written = write_paper(found, out)
    if markdown is not None:
        for name, summary in summaries.items():
            command = _command(f"run {name}", quick=quick)
            write_docs(summary, markdown.with_name(f"{name}.md"), command)
        write_paper_docs(found, markdown, _command("paper", quick=quick))
    show_paper(found, written, as_json=as_json)
    if stopped:
        raise typer.Exit(INTERRUPTED)


def _command(what: str, *, quick: bool) -> str:
    """Return what makes results from the raw data."""
    return f"{DATA}=... dflmoe bench {what} {'--quick' if quick else '--full'}"


def _listed(names: str) -> tuple[str, ...]:
    return tuple(filter(None, names.split(",")))


def _settings(
    experiment: Experiment,
    *,
    quick: bool,
    tasks: Collection[str],
    methods: str,
    seeds: int | None,
    root: Path | None,
) -> list[RunSetting]:
    if seeds is not None and seeds < 1:
        raise OptionError(f"--seeds is {seeds}; it takes 1 or more")
    return plan(
        experiment,
        quick=quick,
        tasks=tasks,
        methods=_listed(methods),
        seeds=None if seeds is None else range(seeds),
        root=root,
    )


def _root(data: Path | None) -> Path | None:
    """Return the folder of data sets that was named, here or in the environment."""
    return data or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)


def _records(settings: Sequence[RunSetting], out: Path) -> list[RunRecord]:
    found = (stored(out, setting) for setting in settings)
    return [record for record in found if record is not None]


def _played(
    settings: Sequence[RunSetting],
    *,
    root: Path | None,
    jobs: int | None,
    device: str,
    out: Path,
) -> bool:
    """Play what has no record yet; return whether somebody stopped it."""
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs is {jobs}; it takes 1 or more")
    machine = machine_named(device)
    writable(out)
    console = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        jobs = jobs or len(available_cores())
        run = partial(run_all, settings, out, root=root, jobs=jobs, machine=machine)
        _play(run, len(settings), console)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on where it was.")
        return True
    return False


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
