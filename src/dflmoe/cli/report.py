"""``dflmoe report``: what this site can tell others of itself, and what all tell together."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.site import home_of
from dflmoe.cli.tables import console
from dflmoe.errors import DflmoeError, OptionError, ShareError
from dflmoe.files import replace_file, writable
from dflmoe.node.home import read_limited
from dflmoe.pilot.sharing import believed, share_of, signed_share
from dflmoe.report.consortium import Consortium, consortium
from dflmoe.report.schema import Report
from dflmoe.report.share import Measured, Share, shares_of
from dflmoe.report.together import write
from dflmoe.report.verdict import SENTENCES
from dflmoe.wire.manifest import now

REPORT_BYTES = 64 * 1024**2


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Reports that sites shared, with --federation.")
    ] = None,
    *,
    federation: Annotated[
        bool, typer.Option("--federation", help="One page of all sites, from what they shared.")
    ] = False,
    share: Annotated[
        Path | None, typer.Option(help="Write this site's signed report here, for the others.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("runs/federation"),
    pdf: Annotated[bool, typer.Option("--pdf", help="Print the page, too; by Chromium.")] = False,
    unsigned: Annotated[
        bool,
        typer.Option(
            "--unsigned",
            help="Take reports that nobody signed: report.json of a pilot or a demonstration.",
        ),
    ] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what this site can share; with --federation, make one page of what all shared.

    Example: dflmoe report --federation shared/*.json --pdf
    """
    if federation:
        if share is not None:
            raise OptionError("--share and --federation do different things; give one of them")
        _together(files or [], home, out, pdf=pdf, unsigned=unsigned, as_json=as_json)
        return
    if files or pdf or unsigned:
        raise OptionError("files, --pdf and --unsigned go with --federation; add it")
    here = home_of(home)
    found = share_of(here, now())
    if share is not None:
        replace_file(share, signed_share(here, found))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    terminal = console()
    terminal.print(_table([found]))
    terminal.print(SENTENCES[found.verdict], markup=False)
    told = "Nothing was sent to anybody" if share is None else f"Signed report: {share}"
    where = "; --share FILE writes it, signed, for the others" if share is None else ""
    terminal.print(f"{told}{where}.", markup=False, soft_wrap=True)


def _together(
    files: list[Path], home: Path, out: Path, *, pdf: bool, unsigned: bool, as_json: bool
) -> None:
    if not files:
        raise ShareError("no shared report was given; name at least one file")
    writable(out)
    if unsigned:
        shares = [one for path in files for one in _unsigned(path)]
        found = consortium(shares)
    else:
        here = home_of(home)
        roster = here.roster(now())
        if roster is None:
            raise ShareError(
                "this site has no roster to check signatures by; found a federation first, or add "
                "--unsigned"
            )
        shares = [
            believed(read_limited(path, "report"), roster, f"report {path}") for path in files
        ]
        found = consortium(shares, members=list(roster.members), vouched=True)
    written = write(found, out, pdf=pdf)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    terminal = console()
    terminal.print(_table(found.shares))
    terminal.print(_sentence(found), markup=False)
    for path in written:
        terminal.print(f"Written: {path}", markup=False, soft_wrap=True)


def _unsigned(path: Path) -> list[Share]:
    """Return the shares of a file that nobody signed.

    Raises:
        ShareError: It is none, or by a newer version.
    """
    raw = read_limited(path, "report", REPORT_BYTES)
    try:
        told = json.loads(raw)
        if isinstance(told, dict) and "format" in told:
            return [Share.read(raw, f"report {path}")]
        return shares_of(Report.model_validate(told), now())
    except (ValueError, ValidationError, DflmoeError) as error:
        first = str(error).splitlines()[0]
        raise ShareError(
            f"report {path} is no report.json and no shared report: {first}; make it anew with "
            f"this version"
        ) from error


def _table(shares: list[Share]) -> Table:
    table = Table(box=None)
    for name in ("site", "alone", "mixed", "gain", "verdict", "sent"):
        table.add_column(name, justify="left" if name in {"site", "verdict"} else "right")
    for one in shares:
        table.add_row(
            one.site,
            _shown(one.alone, sign=False),
            _shown(one.mixed, sign=False),
            _shown(one.gain, sign=True),
            one.verdict,
            f"{one.sent:,} B",
        )
    return table


def _shown(found: Measured | None, *, sign: bool) -> str:
    if found is None:
        return "-"
    spelt = "{:+.3f}" if sign else "{:.3f}"
    if found.low is None or found.high is None:
        return spelt.format(found.value)
    return f"{spelt} [{spelt}, {spelt}]".format(found.value, found.low, found.high)


def _sentence(found: Consortium) -> str:
    if found.mean_gain is None:
        return "No site measured a gain."
    mean = Measured(value=found.mean_gain.value, low=found.mean_gain.low, high=found.mean_gain.high)
    return f"Mean gain of {len(found.shares)} sites: {_shown(mean, sign=True)}: {found.verdict}."
