"""Tables of the bench in the terminal, or their JSON."""

from pathlib import Path

import typer
from rich.table import Table

from dflmoe.bench.page import number, size
from dflmoe.bench.paper import PaperSummary, Standings
from dflmoe.bench.summary import Summary, TaskTable, unit_name
from dflmoe.cli.tables import console


def show(summary: Summary, page: Path, *, as_json: bool) -> None:
    """Print the tables of an experiment and where its page is."""
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    terminal = console()
    for table in summary.tables:
        terminal.print(_table(table))
    if summary.safety is not None:
        found = summary.safety
        kept = "" if found.kept is None else f"; the guard keeps {found.kept:.0%} of true gains"
        terminal.print(
            f"Against alone, {found.cases} cases: mean {found.mean:+.1f} points, one in twenty "
            f"below {found.fifth:+.1f}, {found.worse:.0%} worse by more than 2 (at most "
            f"{found.worse_at_most:.0%}){kept}.",
            markup=False,
        )
    for failure in summary.failures:
        terminal.print(f"failed: {failure.label}: {failure.reason}", markup=False)
    typer.echo(f"Page: {page}")


def show_paper(paper: PaperSummary, page: Path, *, as_json: bool) -> None:
    """Print how methods stand, and ours beside the paper."""
    if as_json:
        typer.echo(paper.model_dump_json(indent=1))
        return
    terminal = console()
    for standings in paper.standings:
        terminal.print(_standings(standings, paper.ours))
    shown = Table(title="Ours beside the paper", title_justify="left", box=None)
    for column in ("published table", "method", "published", "gain", "here", "gain ", "seeds"):
        left = column in ("published table", "method")
        shown.add_column(column, justify="left" if left else "right")
    for table in paper.beside:
        for k, cell in enumerate(table.cells):
            gain = cell.published_gain
            shown.add_row(
                "" if k else table.title,
                cell.method,
                f"{cell.published:.2f}",
                "-" if gain is None else f"{gain:+.2f}",
                number(cell.score, table.unit),
                number(cell.gain, table.unit, sign=True),
                str(cell.seeds),
            )
    terminal.print(shown)
    others = sorted({table.stands_for for table in paper.beside if table.stands_for})
    if others:
        terminal.print(
            f"Not at hand, and others played in their place: {', '.join(others)}. Compare the "
            "order of methods, not the numbers."
        )
    if paper.failures:
        terminal.print(f"{paper.failures} runs failed; the pages of the experiments say why.")
    typer.echo(f"Page: {page}")


def _standings(standings: Standings, ours: str) -> Table:
    shown = Table(title=standings.title, title_justify="left", box=None)
    for column in (
        "rank",
        "method",
        "above others",
        "tables",
        "ours wins",
        "ties",
        "loses",
        "bytes",
    ):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for row in standings.rows:
        against = [str(count) for count in (row.wins, row.ties, row.losses)]
        shown.add_row(
            str(row.rank),
            row.title,
            f"{row.above:.0%}",
            str(row.tables),
            *(["-"] * len(against) if row.title == ours else against),
            size(row.site_bytes),
        )
    return shown


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
