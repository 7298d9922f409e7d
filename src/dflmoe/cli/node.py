"""``dflmoe node``: play rounds with the other hospitals, and use what comes of it."""

from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dflmoe.cli.interrupt import INTERRUPTED, interruptible
from dflmoe.cli.options import HOME, HomeOption, JsonOption
from dflmoe.cli.page import shown_at
from dflmoe.cli.site import home_of
from dflmoe.data.source import SETTINGS
from dflmoe.errors import OptionError, RunningError, TrainingError
from dflmoe.node.home import Home, read_limited
from dflmoe.node.life import Life, alone_in, running, stop
from dflmoe.node.node import RoundSummary
from dflmoe.node.settings import Settings
from dflmoe.node.status import STATUS, Status

app = typer.Typer(no_args_is_help=True, help="Play rounds with the other hospitals.")


def settings_of(here: Home) -> Settings:
    """Return the settings of a site."""
    return Settings.load(here.folder / SETTINGS)


@app.command()
def run(
    *,
    once: Annotated[bool, typer.Option("--once", help="One round, and stop.")] = False,
    until: Annotated[int | None, typer.Option(help="Last round; for ever if not given.")] = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds from one round to the next; else as site.toml.")
    ] = None,
    bind: Annotated[
        str | None, typer.Option(help="host:port to listen at; else as site.toml.")
    ] = None,
    page: Annotated[
        str | None, typer.Option(help="host:port to serve the live page at, beside the node.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Play rounds with the newest heads that are held, waiting for nobody.

    Started again, it goes on where it was. Ctrl-C or dflmoe node stop ends it.

    Example: dflmoe node run --until 10
    """
    if once and until is not None:
        raise OptionError("--once and --until both say when to end; give one of them")
    if until is not None and until < 1:
        raise OptionError(f"--until is {until}; it takes 1 or more")
    here = home_of(home)
    name = here.site.name
    given = {"every": every, "bind": bind}
    settings = settings_of(here).model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    interruptible()
    console = Console(stderr=True, highlight=False)
    try:
        with alone_in(here.folder):
            life = Life(here, settings)
            with life.online(), shown_at(here, page) if page else nullcontext() as url:
                if url is not None:
                    console.print(f"Page: {url}", markup=False, soft_wrap=True)
                at = f" and listens at port {life.network.port}" if life.network.port else ""
                console.print(f"{name} runs{at}; Ctrl-C ends it.")
                if life.replica.relays:
                    life.relay()
                last = life.replica.store.last_round()
                played = RoundSummary.model_validate_json(last).number if last else 0
                for summary, _ in life.rounds(played + 1 if once else until):
                    console.print(_line(summary), markup=False)
    except FloatingPointError as error:
        raise TrainingError(f"site {name!r}: {error}; check its data for extreme values") from error
    except KeyboardInterrupt:
        console.print("Stopped; started again, it goes on where it was.")
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def status(*, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Show what the node does, and what it has of each peer.

    Example: dflmoe node status --json
    """
    here = home_of(home)
    pid = running(here.folder)
    if not (here.folder / STATUS).exists():
        raise RunningError(f"no node has run in {here.folder}; start one with: dflmoe node run")
    shown = Status.read(read_limited(here.folder / STATUS, "the status"), "the status")
    if pid is None:
        shown = shown.model_copy(update={"pid": None, "doing": "stopped"})
    if as_json:
        typer.echo(shown.model_dump_json(indent=1))
        return
    Console(highlight=False).print(_table(shown))


@app.command("stop")
def stop_node(*, home: HomeOption = HOME) -> None:
    """End the node of this site; a round that was not finished is played again.

    Example: dflmoe node stop
    """
    here = home_of(home)
    stop(here.folder)
    typer.echo(f"The node of {here.site.name} has stopped.")


def _line(summary: RoundSummary) -> str:
    """Return a round in one line."""
    scores = [
        "-" if score is None else f"{score:.3f}"
        for score in (summary.own_score, summary.mixture_score)
    ]
    serves = "the mixture serves" if summary.used else "the own model serves"
    heard = ", ".join(summary.heard) or "nobody"
    line = (
        f"round {summary.number}: AUC alone {scores[0]}, mixed {scores[1]}; {serves}; heard {heard}"
    )
    if summary.missing:
        nothing = ", ".join(f"{site} ({why})" for site, why in summary.missing.items())
        there = len(summary.heard)
        line += f", {there} of {there + len(summary.missing)}: nothing of {nothing}"
    if summary.withheld is not None:
        line += f"; its own head is not lent: {summary.withheld}"
    return line if summary.outage is None else f"{line}; nothing was exchanged: {summary.outage}"


def _table(shown: Status) -> Table:
    """Return a status for people."""
    last = shown.last
    head = f"{shown.site} in {shown.federation}: {shown.doing}"
    if last is not None:
        head += f"\n{_line(last)}"
    head += f"\nroster {shown.roster[0]}, {shown.roster[1]}; {shown.sent} bytes sent, "
    head += f"{shown.received} received, {shown.refused} refused"
    table = Table(title=head, title_justify="left")
    for column in ("peer", "state", "connected", "head of round", "age", "share", "problem"):
        table.add_column(column)
    for peer in shown.peers:
        table.add_row(
            f"{peer.site} (relay)" if peer.relay else peer.site,
            f"{peer.state}, quarantined" if peer.quarantined else peer.state,
            "yes" if peer.connected else "no",
            "-" if peer.head_round is None else str(peer.head_round),
            "-" if peer.head_age_s is None else f"{peer.head_age_s:.0f} s",
            "-" if peer.share is None else f"{peer.share:.2f}",
            peer.problem or "",
        )
    return table
