"""``dflmoe data``: what a site's data are like, before anything is learnt from them."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.progress import bar
from dflmoe.data.check import Check, Checked, checked
from dflmoe.data.compared import CHARTER, Difference, compared
from dflmoe.data.declared import Declared
from dflmoe.data.one_site import agreed
from dflmoe.data.source import SETTINGS, Source, read_settings
from dflmoe.errors import (
    DataFileError,
    DflmoeError,
    EnvelopeError,
    MissingExtraError,
    OptionError,
    SchemaError,
    UnsoundError,
)
from dflmoe.files import writable
from dflmoe.security.charter import Charter

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}

app = typer.Typer(no_args_is_help=True, help="What the data of this site are like.")


@app.command()
def check(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A site.toml, a file or a folder; site.toml of this site if not given."
        ),
    ] = None,
    *,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Table that names the label of each file.")
    ] = None,
    patient_column: Annotated[str | None, typer.Option(help="Column of the patient.")] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Files that cannot be read are no failure.")
    ] = False,
    show_patients: Annotated[
        bool, typer.Option("--show-patients", help="Also name patients; otherwise none is.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for check.html and declared.json.")
    ] = None,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Look at every row before anything is learnt: counts, copies, spoilt files, odd labels.

    Example: dflmoe data check films --labels labels.csv --patient-column id --out check
    """
    given = {
        "label": label,
        "labels": labels,
        "patient": patient_column,
        "skip_unreadable": skip_unreadable or None,
    }
    where = path if path is not None else home.expanduser() / SETTINGS
    source = _source(where).model_copy(update={k: v for k, v in given.items() if v is not None})
    name, seed = _called(where)
    if out is not None:
        writable(out)
    found = _look(source, name, seed, show_patients=show_patients)
    if out is not None:
        page = _write(found, out)
    if as_json:
        typer.echo(found.check.model_dump_json(indent=1))
    else:
        Console(highlight=False).print(_found_table(found.check))
        if out is not None:
            typer.echo(f"Page, which stays here: {page}")
    if found.check.failed:
        raise UnsoundError(
            f"nothing can be learnt from these data yet: mend {', '.join(found.check.failed)}"
        )


@app.command()
def compare(
    declarations: Annotated[list[Path], typer.Argument(help="What sites declared, each a JSON.")],
    *,
    charter: Annotated[
        Path | None, typer.Option(help="Also compare with a charter, as TOML or JSON.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what sites declared of their data, before they found a federation.

    Example: dflmoe data compare st-olav.json charite.json --charter charter.toml
    """
    if len(declarations) < 2 and charter is None:  # noqa: PLR2004 - it takes two to differ
        raise OptionError("one declaration differs from nothing; give two, or a --charter")
    sites = [Declared.load(path) for path in declarations]
    differences = compared(sites, None if charter is None else _of_charter(charter))
    if as_json:
        typer.echo(json.dumps([one.model_dump() for one in differences], indent=1))
    elif differences:
        Console(highlight=False).print(_differences_table(differences))
    else:
        typer.echo(f"The data of {', '.join(one.name for one in sites)} fit.")
    if differences:
        raise SchemaError(
            f"the declared data do not fit: mend {', '.join(one.what for one in differences)}"
        )


def _source(path: Path) -> Source:
    """Return where rows are.

    Raises:
        SettingsError: A ``site.toml`` cannot be followed.
        DataFileError: There is nothing at the path.
    """
    if path.suffix.lower() == ".toml":
        return read_settings(path)
    if not path.exists():
        raise DataFileError(f"{path} is not there; check the path")
    return Source(path=path)


def _called(path: Path) -> tuple[str, int]:
    """Return the name and the seed that a site's node has, so that rows are divided alike."""
    if path.suffix.lower() != ".toml":
        whole = path.resolve()
        return (whole.stem if whole.is_file() else whole.name) or "data", 0
    try:
        from dflmoe.node.home import Home  # noqa: PLC0415 - needs the extra
        from dflmoe.node.settings import Settings  # noqa: PLC0415 - needs the extra

        return Home(path.parent).site.name, Settings.load(path).seed
    except (ImportError, DflmoeError):
        return path.resolve().parent.name or "data", 0


def _look(source: Source, name: str, seed: int, *, show_patients: bool) -> Checked:
    """Look at all rows, with a bar."""
    console = Console(stderr=True, highlight=False)
    with bar(console) as progress:
        task = progress.add_task("looking", total=None)

        def step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return checked(source, name, seed=seed, show_patients=show_patients, step=step)


def _write(found: Checked, out: Path) -> Path:
    try:
        from dflmoe.report.check import write  # noqa: PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error
    return write(found, out)


def _of_charter(path: Path) -> Declared:
    """Return what a charter says of rows, as a declaration.

    Raises:
        EnvelopeError: It is missing, malformed, or breaks a rule.
        SchemaError: Its columns are malformed.
    """
    charter = Charter.found(path) if path.suffix.lower() == ".toml" else _signed_charter(path)
    columns = None if charter.columns is None else agreed(charter.columns, path).columns
    return Declared(
        name=CHARTER,
        kind=charter.kind,
        classes=charter.classes,
        shape=charter.shape,
        channels=None if charter.kind == "table" else charter.shape[0],
        columns=None if columns is None else dict(columns),
    )


def _signed_charter(path: Path) -> Charter:
    try:
        return Charter.read(path.read_bytes(), f"charter {path}")
    except OSError as error:
        raise EnvelopeError(f"charter {path} cannot be read: {error.strerror or error}") from error


def _found_table(found: Check) -> Table:
    table = Table("check", "result", "found", "how to fix")
    for one in found.findings:
        result = Text(one.verdict, style=COLOURS[one.verdict])
        table.add_row(one.check, result, Text(one.found), Text(one.fix))
    return table


def _differences_table(differences: tuple[Difference, ...]) -> Table:
    names = dict.fromkeys(name for one in differences for name in one.found)
    table = Table("what", *map(escape, names), "how to mend")
    for one in differences:
        said = (Text(one.found.get(name, "-")) for name in names)
        table.add_row(Text(one.what), *said, Text(one.mend))
    return table
