"""The bench's figures, as SVG that stands in the page itself."""

from collections.abc import Callable
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dflmoe.bench.paper import Standings
from dflmoe.bench.summary import MethodRow, Summary, TaskTable, unit_name
from dflmoe.report.figures import BLUE, GREY, INK, ORANGE, svg

NOTHING = 100
"""Bytes at which a method stands that sends none: a logarithm has no zero."""

Draw = Callable[[Summary, TaskTable, Axes], None]


def figures(summary: Summary) -> dict[str, str]:
    """Return gains over local only, and scores against bytes; nothing where nothing was played."""
    if not summary.tables:
        return {}
    longest = max(len(table.rows) for table in summary.tables)
    heights: dict[str, tuple[Draw, float]] = {
        "gains": (_gains, 1.2 + 0.26 * longest),
        "traffic": (_traffic, 3.2),
    }
    columns = min(2, len(summary.tables))
    lines = -(-len(summary.tables) // columns)
    return {
        name: svg(partial(_panels, summary, draw, lines, columns), (5 * columns, height * lines))
        for name, (draw, height) in heights.items()
    }


def rank_against_bytes(standings: Standings, ours: str) -> str:
    """Return how many others every method scores above, against what it sends."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row in standings.rows:
            there = (max(row.site_bytes, NOTHING), 100 * row.above)
            _point(axes, there, row.title, ORANGE if row.title == ours else BLUE)
        _bytes_below(axes)
        axes.set_ylabel("scores above so many of the others, %")

    return svg(draw, (9, 4.5))


def _panels(summary: Summary, draw: Draw, lines: int, columns: int, figure: Figure) -> None:
    """Draw one panel a table."""
    for k, table in enumerate(summary.tables):
        axes = figure.add_subplot(lines, columns, k + 1)
        draw(summary, table, axes)
        axes.set_title(table.heading, fontsize=9)


def _gains(summary: Summary, table: TaskTable, axes: Axes) -> None:
    """Draw the gain of every method as a forest plot."""
    gains = [(row, row.gain) for row in reversed(table.rows) if row.gain is not None]
    axes.axvline(0, color=INK, lw=0.8)
    for y, (row, gain) in enumerate(gains):
        colour = _colour(summary, row)
        if gain.low is not None and gain.high is not None:
            axes.plot([gain.low, gain.high], [y, y], color=colour, lw=2)
        axes.plot([gain.value], [y], "o", color=colour, ms=6)
    axes.set_yticks(range(len(gains)), [row.title for row, _ in gains])
    axes.set_xlabel(f"gain over local only ({unit_name(table)})")


def _traffic(summary: Summary, table: TaskTable, axes: Axes) -> None:
    """Draw the score of every method against what it sends."""
    for row in table.rows:
        there = (max(row.site_bytes, NOTHING), row.score.value)
        _point(axes, there, row.title, _colour(summary, row))
    _bytes_below(axes)
    axes.set_ylabel(unit_name(table))


def _point(axes: Axes, there: tuple[float, float], name: str, colour: str) -> None:
    axes.plot(*([v] for v in there), "o", color=colour, ms=6)
    axes.annotate(name, there, xytext=(5, 3), textcoords="offset points", fontsize=7, color=INK)


def _bytes_below(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel(f"bytes sent for each site ({NOTHING} stands for none)")


def _colour(summary: Summary, row: MethodRow) -> str:
    if row.title == summary.reference:
        return ORANGE
    return GREY if row.title.startswith("control") else BLUE
