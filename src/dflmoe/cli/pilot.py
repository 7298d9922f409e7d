"""``dflmoe pilot``: from a file with a site column to a report."""

import re
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.interrupt import INTERRUPTED, interrupt
from dflmoe.cli.progress import bar
from dflmoe.data.arrays import read_arrays
from dflmoe.data.schema import Schema
from dflmoe.data.study import Study
from dflmoe.errors import DataFileError, MissingExtraError, OptionError
from dflmoe.files import writable
from dflmoe.pilot.arms import ARMS, FIRST_LOOK
from dflmoe.pilot.cost import Prices
from dflmoe.pilot.models import models
from dflmoe.pilot.plan import Mode, Options
from dflmoe.pilot.run import run, steps_of
from dflmoe.report.render import write
from dflmoe.report.schema import Report, Value
from dflmoe.wire.payload import WireDtype


def pilot(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="CSV, Parquet, .npz, or the site.toml of each site; without it, four embedded "
            "hospitals."
        ),
    ] = None,
    *,
    site_column: Annotated[str, typer.Option(help="Column that names the site.")] = "site",
    label: Annotated[str, typer.Option(help="Column to predict.")] = "label",
    patient_column: Annotated[
        str | None, typer.Option(help="Column that names the patient; never divided.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="TOML file with agreed columns, units and levels.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; may be repeated.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Site to leave out; may be repeated.")
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Leave out files that cannot be read, and say so."),
    ] = False,
    train_rows: Annotated[
        int | None, typer.Option(help="Labelled rows that each site may learn from.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A first look: one repeat, two folds, one control, no verdict."
        ),
    ] = False,
    folds: Annotated[int, typer.Option(help="Test folds.")] = 5,
    repeats: Annotated[int, typer.Option(help="How often all patients are tested.")] = 4,
    rounds: Annotated[int | None, typer.Option(help="Rounds of lending.")] = None,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    mode: Annotated[str, typer.Option(help="auto, or paper for the published method.")] = "auto",
    network: Annotated[
        str | None, typer.Option(help="Network of all sites, by name or package.module:factory.")
    ] = None,
    head_from: Annotated[
        str | None, typer.Option(help="First layer of the network's head, which is lent.")
    ] = None,
    public_body: Annotated[
        Path | None, typer.Option(help="Safetensors file that the network's body begins with.")
    ] = None,
    body_learns: Annotated[
        list[str] | None, typer.Option(help="Layer of it that goes on learning; may be repeated.")
    ] = None,
    charter: Annotated[
        str | None,
        typer.Option(
            help="Light network that all agreed on, averaged, then lent, beside their own."
        ),
    ] = None,
    sensitivity: Annotated[float, typer.Option(help="Of the operating point.")] = 0.9,
    specificity: Annotated[float, typer.Option(help="Of the other operating point.")] = 0.9,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also with 20, 40, 80 and 160 labelled rows.")
    ] = False,
    value_per_decision: Annotated[
        float | None, typer.Option(help="What one more right decision is worth to you.")
    ] = None,
    decisions_per_year: Annotated[
        int | None, typer.Option(help="Decisions of one site and year.")
    ] = None,
    operator_hours: Annotated[float, typer.Option(help="Of one site and year.")] = 24.0,
    operator_rate: Annotated[float, typer.Option(help="Of one operator hour.")] = 60.0,
    currency: Annotated[str, typer.Option(help="Of all sums.")] = "EUR",
    demo_split: Annotated[
        bool,
        typer.Option(
            "--demo-split", help="Only what dflmoe demo --lockstep plays, in one process."
        ),
    ] = False,
    sites: Annotated[
        int | None, typer.Option(help="Hospitals of --demo-split: 2, 3 or 4; 3 if not given.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="How numbers travel: fp32, fp16 or int8.")] = "fp32",
    peers: Annotated[
        int | None,
        typer.Option(
            help="Peers that a site hears in a round, by use and chance; all if not given."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where networks are trained: cpu, cuda, cuda:1, mps or auto.")
    ] = "cpu",
    precision: Annotated[str, typer.Option(help="What bodies compute in: fp32 or bf16.")] = "fp32",
    executor: Annotated[
        str, typer.Option(help="Who trains them: threads of this process, or ray.")
    ] = "threads",
    workers: Annotated[
        int | None, typer.Option(help="How many of them; as many as cores if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/pilot"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")
    ] = False,
) -> None:
    """Tell every site what it has alone, what it has with borrowed heads, and whether that is real.

    Example: dflmoe pilot cohort.csv --site-column hospital --label died --patient-column id
    """
    if mode not in ("auto", "paper"):
        raise OptionError(f"--mode is {mode!r}; it is auto or paper")
    chosen_mode: Mode = "paper" if mode == "paper" else "auto"
    options = Options(
        folds=FIRST_LOOK.folds if quick else folds,
        repeats=FIRST_LOOK.repeats if quick else repeats,
        rounds=rounds,
        seed=seed,
        mode=chosen_mode,
        train_rows=train_rows,
        sensitivity=sensitivity,
        specificity=specificity,
        network=network,
        head_from=head_from,
        public_body=public_body,
        body_learns=tuple(body_learns or ()),
        charter=charter,
        dtype=dtype_of(dtype),
        peers=peers,
        device=device,
        precision=precision,
        executor=executor,
        workers=workers,
    ).checked()
    if (value_per_decision is None) != (decisions_per_year is None):
        raise OptionError("--value-per-decision and --decisions-per-year go together; give both")
    prices = Prices(
        currency=currency,
        operator_hours=operator_hours,
        operator_rate=operator_rate,
        per_decision=value_per_decision,
        decisions=decisions_per_year,
    )
    arms: Collection[str] = FIRST_LOOK.arms if quick else ARMS
    console = Console(stderr=True, highlight=False)
    if demo_split:
        if data:
            raise OptionError("--demo-split plays the embedded hospitals; name no file with it")
        study, options, arms = _demo_split(sites, options)
    elif sites is not None:
        raise OptionError("--sites counts the hospitals of --demo-split; give that, too")
    else:
        study = _read(
            data or [],
            console,
            site=site_column,
            label=label,
            patient=patient_column,
            schema=schema,
            drop=tuple(drop or ()),
            skip_unreadable=skip_unreadable,
        )
    study = study.without(tuple(leave_out or ())).checked()
    writable(out)
    report = _play(study, options, prices, console, curve=curve, arms=arms)
    if report is None:
        console.print("Stopped before the first repeat was done; no report was written.")
        raise typer.Exit(INTERRUPTED)
    page = out / "report.html"
    write(report, page)
    kept = None if report.partial or demo_split else out / "models"
    if kept is not None:
        with console.status("one model for each site, from all of its rows"):
            for name, model in models(study, options).items():
                model.save(kept / f"{file_name(name)}.safetensors")
    _told(report, page, kept, as_json=as_json)
    if report.partial:
        raise typer.Exit(INTERRUPTED)


def _told(report: Report, page: Path, kept: Path | None, *, as_json: bool) -> None:
    """Print what came of a pilot, and where it lies."""
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        return
    Console(highlight=False).print(result_table(report))
    typer.echo(f"{result_sentence(report)}\nReport: {page}")
    if kept is not None:
        typer.echo(f"Models: {kept}")


def dtype_of(text: str) -> WireDtype:
    """Return how numbers travel.

    Raises:
        OptionError: They cannot travel so.
    """
    known: tuple[WireDtype, ...] = get_args(WireDtype)
    for dtype in known:
        if dtype == text:
            return dtype
    raise OptionError(f"--dtype is {text!r}; it is {', '.join(known)}")


def _demo_split(sites: int | None, options: Options) -> tuple[Study, Options, tuple[str, ...]]:
    """Return what the demonstration plays."""
    try:
        from dflmoe.demo import study as demo  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise _no_tables(error) from error
    played = demo.demo_study(demo.DEFAULT if sites is None else sites)
    return played, demo.demo_options(options.seed, options.dtype), demo.ARMS


def _no_tables(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"tables need {error.name}; install it with: pip install 'dflmoe[pilot]'"
    )


def file_name(site: str) -> str:
    """Return what a site's file is called, whatever stands in its name."""
    return re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-") or "site"


def _read(
    data: list[Path],
    console: Console,
    *,
    site: str,
    label: str,
    patient: str | None,
    schema: Path | None,
    drop: tuple[str, ...],
    skip_unreadable: bool,
) -> Study:
    if len(data) == 1 and data[0].suffix.lower() == ".npz":
        return read_arrays(data[0])
    try:
        from dflmoe.data import reading, tables  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise _no_tables(error) from error
    if not data:
        return tables.embedded_study()
    if all(one.suffix.lower() == ".toml" for one in data):
        with bar(console) as progress:
            task = progress.add_task("reading", total=None)

            def step(done: int, of: int) -> None:
                progress.update(task, completed=done, total=of)

            return reading.study_at(data, skip_unreadable=skip_unreadable, step=step)
    if len(data) > 1:
        raise OptionError("several files are the site.toml of each site; give those, or one file")
    if data[0].suffix.lower() not in {".csv", ".parquet", ".pq"}:
        raise DataFileError(
            f"data file {data[0]} is of an unknown kind; give a .csv, .parquet or .npz file, or a "
            f"site.toml that says where the rows are"
        )
    if schema is not None:
        return tables.read_with_schema(data[0], Schema.load(schema))
    return tables.read_table(data[0], tables.Roles(site, label, patient, drop))


def _play(
    study: Study,
    options: Options,
    prices: Prices,
    console: Console,
    *,
    curve: bool,
    arms: Collection[str],
) -> Report | None:
    """Play with a progress bar; the first Ctrl-C ends the repeat, what is done is reported."""
    for warning in study.warnings:
        console.print(f"note: {warning}")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with bar(console) as progress:
            total = steps_of(options, curve=curve, arms=arms)
            task = progress.add_task("pilot", total=total)

            def step(name: str) -> None:
                progress.update(task, advance=1, description=name)
                if not console.is_terminal:
                    console.print(f"{progress.tasks[task].completed:.0f} of {total}: {name}")

            return run(study, options, prices=prices, curve=curve, arms=arms, step=step)
    finally:
        signal.signal(signal.SIGINT, before)


def result_table(report: Report) -> Table:
    """Return the table that ends a pilot."""
    table = Table(title=f"{report.title}: {report.metric}, 95 % intervals over patients")
    for name in ("site", "rows", "alone", "borrowed", "gain", "over best control", "verdict"):
        table.add_column(name, justify="left" if name in {"site", "verdict"} else "right")
    for site in [*report.sites, report.mean]:
        table.add_row(
            site.name,
            str(site.rows),
            _plain(site.arms["alone"]),
            _plain(site.arms["federated"]),
            _signed(site.gain),
            _signed(site.control_gain),
            site.verdict,
            end_section=site is report.sites[-1],
        )
    return table


def result_sentence(report: Report) -> str:
    """Return the outcome in one sentence."""
    share = report.pooled_share
    text = f"Mean gain {_signed(report.mean.gain)}"
    if share is not None and share > 0:
        text += f", {share:.0%} of what pooling all patients would gain"
    text += f"; {report.cost.payload_bytes_per_head} bytes a head."
    if report.partial:
        text += f" Partial: {report.repeats_done} of {report.repeats} repeats."
    for ran in report.operation:
        if ran.missing:
            text += f" A subset: at {ran.site} nothing of {', '.join(ran.missing)} was there."
    return text


def _plain(value: Value | None) -> str:
    return "-" if value is None else f"{value.value:.3f}"


def _signed(value: Value | None) -> str:
    if value is None:
        return "-"
    text = f"{value.value:+.3f}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:+.3f}, {value.high:+.3f}]"
    return text
