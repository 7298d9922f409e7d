"""Render an experiment: one HTML page that opens offline, its JSON, and Markdown for the docs."""

from pathlib import Path

from dflmoe.bench.summary import Figure, Summary, unit_name
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


def number(
    figure: Figure | None, unit: float = 1, *, sign: bool = False, digits: int | None = None
) -> str:
    """Return a number with its interval as people read it."""
    if figure is None:
        return "-"
    if digits is None:
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


def html(summary: Summary) -> str:
    """Return the page: one file, no script, no request to anywhere.

    Raises:
        MissingExtraError: The extra ``bench`` is not installed.
    """
    return _rendered("page.html", summary, _figures(summary))


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

    Args:
        summary: The results.
        page: Where the page goes.
        command: What makes the results from the raw data.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: The extra ``bench`` is not installed.
    """
    pictures = {}
    for name, drawing in _figures(summary).items():
        picture = page.with_name(f"{page.stem}-{name}.svg")
        replace_file(picture, drawing)
        pictures[name] = picture.name
    replace_file(page, _rendered("page.md", summary, pictures, command))


def _figures(summary: Summary) -> dict[str, str]:
    try:
        from dflmoe.bench.figures import figures  # noqa: PLC0415 - extra
    except ImportError as error:
        raise _missing(error) from error
    return figures(summary)


def _rendered(template: str, summary: Summary, pictures: dict[str, str], command: str = "") -> str:
    """Return a filled template; ``pictures`` are SVG for HTML, and file names for Markdown."""
    try:
        from dflmoe.report.pages import environment  # noqa: PLC0415 - extra
    except ImportError as error:
        raise _missing(error) from error
    templates = environment("dflmoe.bench", escape=template.endswith(".html"))
    templates.filters |= {"size": size, "unit_name": unit_name}
    return templates.get_template(template).render(
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
