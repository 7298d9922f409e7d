"""``dflmoe predict``, ``export`` and ``card``: a usable model out."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.progress import bar
from dflmoe.cli.site import home_of
from dflmoe.errors import MissingExtraError, OptionError
from dflmoe.files import replace_file
from dflmoe.model.card import card
from dflmoe.model.export import export as export_model
from dflmoe.model.model import Model, Predictions, load_model
from dflmoe.model.unseen import Unseen, unseen
from dflmoe.node.store import STORE, Store

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Model file of a pilot; that of this site's node if not given."),
]
NOTHING = "abstains"
"""What stands where the likeliest class is not likely enough."""

Line = dict[str, str | int | float]

SHOWN = 50
"""Rows that a table on a terminal shows."""


def model_at(path: Path | None, home: Path) -> Model:
    """Return a model by its file, or that of a site."""
    return load_model(path if path is not None else home_of(home).model())


def audit_head(path: Path | None, home: Path) -> str | None:
    """Return the newest digest of the log of the site whose model it is; none of a pilot's."""
    folder = home_of(home).folder
    if path is not None or not (folder / STORE).exists():
        return None
    store = Store(folder / STORE, sweeps=False)
    newest = store.newest_entry()
    store.close()
    return None if newest is None else newest.digest


def predict(
    rows: Annotated[Path, typer.Argument(help="Table, .npz, file or folder to predict.")],
    *,
    model: ModelOption = None,
    out: Annotated[
        Path | None, typer.Option(help=".csv, .parquet or .json file to write; else a table.")
    ] = None,
    below: Annotated[
        float, typer.Option(help="Abstain where the likeliest class is less likely than this.")
    ] = 0.0,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column of a table to write along; may be repeated.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read.")
    ] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Predict new rows: calibrated probabilities, each expert's opinion, and how far they agree.

    Example: dflmoe predict new-patients.csv --keep id --out predictions.csv
    """
    if not 0 <= below <= 1:
        raise OptionError(f"--below is {below}; it is a probability, 0 to 1")
    if out is not None and out.suffix not in {".csv", ".parquet", ".json"}:
        raise OptionError(f"--out is {out.name}; it ends in .csv, .parquet or .json")
    one = model_at(model, home)
    new = unseen(one.told, rows, keep=tuple(keep or ()), skip_unreadable=skip_unreadable)
    console = Console(stderr=True, highlight=False)
    lines: list[Line] = []
    with bar(console) as progress:
        task = progress.add_task("predicting", total=len(new))
        for at, some in new:
            lines += lines_of(one.predict(some), at, new, below)
            progress.update(task, advance=len(at))
    for why in new.left_out.values():
        console.print(f"left out: {why}", markup=False)
    facts = {
        "site": one.told.site,
        "round": one.told.round,
        "serves": one.told.serves,
        "left_out": new.left_out,
        "rows": lines,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    elif out is not None:
        written(lines, facts, out)
        typer.echo(f"{len(lines)} predictions: {out}")
    else:
        Console(highlight=False).print(_table(one, lines))


def lines_of(found: Predictions, at: list[int], new: Unseen, below: float) -> list[Line]:
    """Return what is written of each row."""
    answered, likely, agreement = found.answered(below), found.likely, found.agreement
    lines: list[Line] = []
    for k, place in enumerate(at):
        line: Line = {name: _plain(values[place]) for name, values in new.names.items()}
        line["likely"] = found.classes[likely[k]] if answered[k] else NOTHING
        line |= {
            f"p {name}": round(float(p), 4)
            for name, p in zip(found.classes, found.probs[k], strict=True)
        }
        line |= {
            "experts from": round(float(agreement[k, 0]), 4),
            "to": round(float(agreement[k, 1]), 4),
        }
        line |= {
            f"{expert} p {name}": round(float(p), 4)
            for expert, said in found.opinions.items()
            for name, p in zip(found.classes, said[k], strict=True)
        }
        lines.append(line)
    return lines


def _plain(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else str(value)


def written(lines: list[Line], facts: dict[str, object], out: Path) -> None:
    """Write predictions.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: Parquet needs a library that is not installed.
    """
    if out.suffix == ".json":
        replace_file(out, json.dumps(facts, indent=1))
        return
    if out.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)
        replace_file(out, text.getvalue())
        return
    try:
        import pandas as pd  # noqa: PLC0415 - extra

        replace_file(out, pd.DataFrame(lines).to_parquet(index=False))
    except ImportError as error:
        raise MissingExtraError(
            f"Parquet needs {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error


def _table(one: Model, lines: list[Line]) -> Table:
    serves = {
        "own": "the site's own model",
        "hedge": "own model and mixture in halves",
        "mixture": "own and borrowed heads",
    }[one.told.serves]
    title = f"By {serves}, round {one.told.round}"
    if len(lines) > SHOWN:
        title += f"; the first {SHOWN} of {len(lines)} rows, --out writes all"
    table = Table(title=title, title_justify="left")
    shown = [name for name in (lines[0] if lines else {}) if " p " not in name]
    for column in shown:
        table.add_column(column)
    for line in lines[:SHOWN]:
        table.add_row(*(str(line[name]) for name in shown))
    return table


def export(
    *,
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(help=".onnx or .pt2 file to write.")] = Path("model.onnx"),
    home: HomeOption = HOME,
) -> None:
    """Write the model for other pipelines, mixture inside, and a card of it beside.

    Example: dflmoe export --out model.onnx
    """
    one = model_at(model, home)
    export_model(one, out)
    beside = out.with_name("MODELCARD.md")
    replace_file(beside, card(one.told, audit_head(model, home)))
    typer.echo(f"Model: {out}\nCard: {beside}")


def show_card(
    *,
    model: ModelOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write; else it is printed.")] = None,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what the model is: data, scores with intervals, whose heads, limits.

    Example: dflmoe card --out MODELCARD.md
    """
    told = model_at(model, home).told
    if as_json:
        typer.echo(told.model_dump_json(indent=1))
        return
    text = card(told, audit_head(model, home))
    if out is None:
        typer.echo(text)
        return
    replace_file(out, text)
    typer.echo(f"Card: {out}")
