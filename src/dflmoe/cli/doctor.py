"""``dflmoe doctor``: whether this site can run, and what to mend."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.site import home_of
from dflmoe.data.findings import Finding
from dflmoe.errors import UnsoundError
from dflmoe.node.doctor import examined

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the dummy round and the local baseline.")
    ] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Look this site over: keys, clock, roster, ports, machine, rows, peers, and a trial.

    Example: dflmoe doctor --quick
    """
    here = home_of(home)
    _ = here.site  # says what to do where there is none
    console = Console(stderr=True, highlight=False)
    found: list[Finding] = []
    with console.status("looking"):
        for finding in examined(here, trial=not quick):
            found.append(finding)
            if console.is_terminal and not as_json:
                console.print(f"{finding.check}: {finding.verdict}", style=COLOURS[finding.verdict])
    if as_json:
        typer.echo(json.dumps([one.model_dump() for one in found], indent=1))
    else:
        table = Table("check", "result", "found", "how to fix")
        for one in found:
            colour = COLOURS[one.verdict]
            table.add_row(one.check, f"[{colour}]{one.verdict}[/]", one.found, one.fix)
        Console(highlight=False).print(table)
    failed = [one.check for one in found if one.verdict == "failed"]
    if failed:
        raise UnsoundError(f"a node cannot run here yet: mend {', '.join(failed)}")
