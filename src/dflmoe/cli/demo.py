"""``dflmoe demo``: three hospitals' nodes on this machine, over mutual TLS."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from dflmoe.cli.interrupt import INTERRUPTED, interruptible
from dflmoe.cli.page import shown_at
from dflmoe.cli.pilot import dtype_of, result_sentence, result_table
from dflmoe.demo.stage import put_on, stage
from dflmoe.errors import OptionError
from dflmoe.files import writable
from dflmoe.node.home import Home
from dflmoe.node.status import Status
from dflmoe.types import SiteId


def demo(
    *,
    sites: Annotated[int, typer.Option(help="Hospitals: 2, 3 or 4.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of lending at each.")] = 5,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    dtype: Annotated[str, typer.Option(help="How numbers travel: fp32, fp16 or int8.")] = "fp32",
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep", help="One round, in step, as dflmoe pilot --demo-split plays it."
        ),
    ] = False,
    page: Annotated[
        str | None, typer.Option(help="host:port to serve the first hospital's live page at.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the reports.")] = Path("runs/demo"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")
    ] = False,
) -> None:
    """Start three real hospitals' nodes on this machine, and see whether lending heads pays.

    Every node is a process with keys and rows of its own; heads travel over mutual TLS.

    Example: dflmoe demo --sites 4
    """
    if rounds < 1:
        raise OptionError(f"--rounds is {rounds}; it takes 1 or more")
    staged = stage(
        sites, seed=seed, dtype=dtype_of(dtype), rounds=rounds, lockstep=lockstep, out=out
    )
    writable(out)
    interruptible()
    console = Console(stderr=True, highlight=False)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as screen:
            told: dict[SiteId, str] = {}

            def look(statuses: dict[SiteId, Status]) -> None:
                names = [site.name for site in staged.study.sites]
                if console.is_terminal:
                    screen.update(_table(names, statuses), refresh=True)
                    return
                for name, status in statuses.items():
                    line = f"{name}: {status.doing}"
                    if status.last is not None:
                        line += f", round {status.last.number}"
                    if told.get(name) != line:
                        told[name] = line
                        console.print(line)

            @contextmanager
            def beside(folder: Path) -> Iterator[None]:
                with shown_at(Home(folder), page) if page else nullcontext() as url:
                    if url is not None:
                        console.print(f"Page: {url}", markup=False, soft_wrap=True)
                    yield

            report = put_on(staged, look, beside)
    except KeyboardInterrupt:
        console.print("Stopped; all nodes have ended.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        return
    terminal = Console(highlight=False)
    terminal.print(result_table(report))
    sent = sum(one.sent_bytes for one in report.operation)
    typer.echo(
        f"{result_sentence(report)}\n{len(report.operation)} nodes sent each other {sent:,} bytes "
        f"over mutual TLS; one test fold of five, so intervals are wide: dflmoe pilot plays all.\n"
        f"Report: {out / 'report.html'}; each site's own lies beside it."
    )


def _table(names: list[SiteId], statuses: dict[SiteId, Status]) -> Table:
    """Return what all sites say of themselves, as one table."""
    table = Table(title="Hospitals on this machine, each a node of its own", title_justify="left")
    for column in ("site", "round", "does", "AUC alone", "mixed", "heads held", "sent"):
        table.add_column(column, justify="right" if column == "sent" else "left")
    for name in names:
        status = statuses.get(name)
        if status is None:
            table.add_row(name, "-", "starting", "-", "-", "-", "-")
            continue
        last = status.last
        heads = [
            f"{peer.site} {peer.head_age_s:.0f} s" + (f" ({peer.share:.2f})" if peer.share else "")
            for peer in status.peers
            if peer.head_age_s is not None
        ]
        table.add_row(
            name,
            "-" if last is None else str(last.number),
            status.doing,
            _score(last.own_score if last else None),
            _score(last.mixture_score if last else None),
            ", ".join(heads) or "-",
            f"{status.sent:,} B",
        )
    return table


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
