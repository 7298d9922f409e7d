"""``dflmoe audit``: what happened at this site, and whether somebody changed the log."""

import json
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.site import home_of
from dflmoe.cli.store import store_of
from dflmoe.errors import OptionError, TamperedError
from dflmoe.node.audit import ask, checked, export, exported, kept
from dflmoe.node.replica import Replica
from dflmoe.security.audit import HEX, Entry, Kind

app = typer.Typer(no_args_is_help=True, help="What happened here, and whether the log was changed.")


@app.command()
def show(
    *,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only entries of this kind; may be repeated.")
    ] = None,
    last: Annotated[int, typer.Option(help="So many of the newest; 0 for all.")] = 50,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the log; nothing of it is checked.

    Example: dflmoe audit show --kind refused --kind quarantined
    """
    kinds: list[Kind] = [one for one in get_args(Kind) if one in (kind or ())]
    if unknown := set(kind or ()) - set(kinds):
        raise OptionError(f"--kind {min(unknown)} is none of {', '.join(get_args(Kind))}")
    entries = store_of(home).entries(*kinds)[-last if last > 0 else 0 :]
    if as_json:
        typer.echo(json.dumps([_shown(entry) for entry in entries], indent=1))
        return
    table = Table("number", "at", "kind", "what")
    for entry in entries:
        told = ", ".join(f"{k} {_short(v)}" for k, v in entry.told.items() if v not in (None, []))
        table.add_row(str(entry.number), f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.kind, told)
    Console(highlight=False).print(table)


@app.command()
def verify(
    *,
    log: Annotated[
        Path | None, typer.Option(help="An exported log, of any site; this site's if not given.")
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(help="A log that a peer exported: it holds receipts. May be repeated."),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Dial all peers and ask for the receipts they keep.")
    ] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Check the log against itself, and against what peers keep of it.

    Example: dflmoe audit verify --peers
    """
    if log is not None and peers:
        raise OptionError("--peers asks about this site's own log; give --log or --peers")
    found = [one for path in receipts or () for one in exported(path)[1]]
    silent: dict[str, str] = {}
    if log is not None:
        entries, _ = exported(log)
        site = str(entries[0].told.get("site")) if entries else ""
    else:
        here, store = home_of(home), store_of(home)
        entries, site = store.entries(), here.site.name
        found += kept(store, site, site)
        if peers:
            told, silent = ask(Replica(here, store, notes=False))
            found += told
    came = checked(entries, found, site)
    if as_json:
        said = {
            "site": site,
            "entries": len(came.entries),
            "head": came.entries[-1].digest if came.entries else None,
            "wrong": came.wrong,
            "receipts": came.receipts,
            "not_asked": silent,
        }
        typer.echo(json.dumps(said, indent=1))
    else:
        for peer, why in silent.items():
            typer.echo(f"{peer} could not be asked: {why}")
        witnesses = ", ".join(f"{n} of {holder}" for holder, n in came.receipts.items()) or "none"
        typer.echo(f"{len(entries)} entries of {site}; receipts: {witnesses}.")
    if came.wrong:
        raise TamperedError("; ".join(came.wrong))
    if not as_json:
        others = set(came.receipts) - {site}
        typer.echo(
            "Nothing was changed, and nothing that others were shown is missing."
            if others
            else "Nothing contradicts itself; whether the end was cut off, only peers can tell: "
            "add --peers, or --receipts with a log that one exported."
        )


@app.command(name="export")
def export_(
    file: Annotated[Path, typer.Argument(help="File to write.")], *, home: HomeOption = HOME
) -> None:
    """Write the log, and the receipts for the logs of peers, to a file: one JSON a line.

    Example: dflmoe audit export charite.jsonl
    """
    count = export(store_of(home), home_of(home).site.name, file)
    typer.echo(f"{count} lines in {file}")


def _shown(entry: Entry) -> dict[str, object]:
    return {
        "number": entry.number,
        "at": entry.at.isoformat(),
        "kind": entry.kind,
        "facts": entry.told,
        "digest": entry.digest,
    }


def _short(value: object) -> str:
    """Return a fact as it is read: digests by their beginning."""
    if isinstance(value, list):
        return " ".join(map(_short, value))
    text = str(value)
    return text[:12] if HEX.fullmatch(text) else text
