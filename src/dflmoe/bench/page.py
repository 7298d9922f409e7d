"""Render an experiment: one HTML page that opens offline, its JSON, and Markdown for the docs."""

import io
from collections.abc import Callable
from pathlib import Path

from dflmoe.bench.summary import Figure, MethodRow, Summary, TaskTable
from dflmoe.errors import MissingExtraError
from dflmoe.files import replace_file

SCORE_NAMES = {
    "macro_f1": "macro-F1",
    "auroc": "AUROC",
    "log_loss": "log-loss",
    "ece": "calibration error",
    "iou": "IoU",
    "pixel_accuracy": "pixel accuracy",
    "ssim": "SSIM",
}
WORDS = {"better": "better than ours", "worse": "worse than ours", "level": "no difference shown"}


def number(figure: Figure | None, unit: float, *, sign: bool = False) -> str:
    """Return a number with its interval as people read it."""
    if figure is None:
        return "-"
    digits = 1 if unit > 1 else 2

    def shown(value: float) -> str:
        return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"

    if figure.low is None or figure.high is None:
        return shown(figure.value)
    return f"{shown(figure.value)} [{shown(figure.low)}, {shown(figure.high)}]"


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count:.0f} B"


def unit_name(table: TaskTable) -> str:
    """Return the metric with its unit."""
    return f"{table.metric}, points" if table.unit > 1 else f"{table.metric}, dB"


def html(summary: Summary) -> str:
    """Return the page: one file, no script, no request to anywhere.

    Raises:
        MissingExtraError: The extra ``bench`` is not installed.
    """
    return _rendered("page.html", summary, figures(summary))


def markdown(summary: Summary, command: str, pictures: dict[str, str]) -> str:
    """Return the page for the docs.

    Args:
        summary: The results.
        command: What makes them from the raw data.
        pictures: File names of the figures.
    """
    return _rendered("page.md", summary, pictures, command)


def write(summary: Summary, folder: Path) -> Path:
    """Write the page and its JSON; return where the page is.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: The extra ``bench`` is not installed.
    """
    page = folder / f"{summary.name}.html"
    replace_file(page.with_suffix(".json"), summary.model_dump_json(indent=1) + "\n")
    replace_file(page, html(summary))
    return page


def write_docs(summary: Summary, page: Path, command: str) -> None:
    """Write the Markdown page and its figures beside it.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: The extra ``bench`` is not installed.
    """
    pictures = {}
    for name, drawing in figures(summary).items():
        picture = page.with_name(f"{page.stem}-{name}.svg")
        replace_file(picture, drawing)
        pictures[name] = picture.name
    replace_file(page, markdown(summary, command, pictures))


def _rendered(template: str, summary: Summary, pictures: dict[str, str], command: str = "") -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - extra
    except ImportError as error:
        raise _missing(error) from error
    environment = Environment(
        loader=PackageLoader("dflmoe.bench"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "unit_name": unit_name}
    return environment.get_template(template).render(
        s=summary,
        number=number,
        score_names=SCORE_NAMES,
        words=WORDS,
        pictures=pictures,
        command=command,
    )


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"the bench's page needs {error.name}; install it with: pip install 'dflmoe[bench]'"
    )


def figures(summary: Summary) -> dict[str, str]:
    """Return the figures as SVG: gains over local only, and scores against bytes.

    Raises:
        MissingExtraError: The extra ``bench`` is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - extra
        from matplotlib.axes import Axes  # noqa: PLC0415 - extra
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - extra

        from dflmoe.report.figures import BLUE, GREY, INK, ORANGE, STYLE  # noqa: PLC0415 - extra
    except ImportError as error:
        raise _missing(error) from error

    def colour(row: MethodRow) -> str:
        if row.title == summary.reference:
            return ORANGE
        return GREY if row.title.startswith("control") else BLUE

    def gains(axes: Axes, table: TaskTable) -> None:
        rows = [row for row in table.rows if row.gain is not None][::-1]
        axes.axvline(0, color=INK, lw=0.8)
        for y, row in enumerate(rows):
            gain = row.gain
            if gain is None:
                continue
            if gain.low is not None and gain.high is not None:
                axes.plot([gain.low, gain.high], [y, y], color=colour(row), lw=2)
            axes.plot([gain.value], [y], "o", color=colour(row), ms=6)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_xlabel(f"gain over local only ({unit_name(table)})")

    def traffic(axes: Axes, table: TaskTable) -> None:
        for row in table.rows:
            there = max(row.site_bytes, 100)
            axes.plot([there], [row.score.value], "o", color=colour(row), ms=6)
            axes.annotate(
                row.title, (there, row.score.value), xytext=(5, 3), textcoords="offset points",
                fontsize=7, color=INK,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.margins(x=0.25)
        axes.set_xlabel("bytes sent for each site (100 stands for none)")
        axes.set_ylabel(unit_name(table))

    def drawn(draw: Callable[[Axes, TaskTable], None], height: float) -> str:
        tables = summary.tables
        columns = min(2, len(tables))
        lines = -(-len(tables) // columns)
        with mpl.rc_context(STYLE):
            picture = Picture(figsize=(5 * columns, height * lines), layout="constrained")
            for k, table in enumerate(tables):
                axes = picture.add_subplot(lines, columns, k + 1)
                draw(axes, table)
                axes.set_title(" · ".join(filter(None, (table.title, table.condition))), fontsize=9)
            out = io.StringIO()
            picture.savefig(out, format="svg", metadata={"Date": None})
        text = out.getvalue()
        return text[text.index("<svg") :]

    if not summary.tables:
        return {}
    longest = max(len(table.rows) for table in summary.tables)
    return {"gains": drawn(gains, 1.2 + 0.26 * longest), "traffic": drawn(traffic, 3.2)}
