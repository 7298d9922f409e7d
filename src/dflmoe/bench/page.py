"""Render an experiment: one HTML page that opens offline, its JSON, and Markdown for the docs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from dflmoe.bench.paper import PaperSummary
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
    return _filled("page.html", s=summary, pictures=_figures(summary))


def write(summary: Summary, folder: Path) -> Path:
    """Write the page and its JSON; return where the page is.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: The extra ``bench`` is not installed.
    """
    return _written(folder / f"{summary.name}.html", summary, html(summary))


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
    pictures = _beside(page, _figures(summary))
    replace_file(page, _filled("page.md", s=summary, pictures=pictures, command=command))


def write_paper(paper: PaperSummary, folder: Path) -> Path:
    """Write the page of the paper's tables and its JSON; return where the page is.

    Raises:
        OutputError: The folder cannot be written.
        MissingExtraError: The extra ``bench`` is not installed.
    """
    text = _filled("paper.html", p=paper, pictures=_ranks(paper))
    return _written(folder / "paper.html", paper, text)


def write_paper_docs(paper: PaperSummary, page: Path, command: str) -> None:
    """Write the Markdown page of the paper's tables, and its figures beside it.

    Arguments and errors are those of ``write_docs``.
    """
    pictures = _beside(page, _ranks(paper))
    replace_file(page, _filled("paper.md", p=paper, pictures=pictures, command=command))


def _written(page: Path, told: BaseModel, text: str) -> Path:
    """Write a page and its JSON beside it; return where the page is."""
    replace_file(page.with_suffix(".json"), told.model_dump_json(indent=1) + "\n")
    replace_file(page, text)
    return page


def _beside(page: Path, drawings: Mapping[str, str]) -> dict[str, str]:
    """Write figures beside a page; return the names of their files."""
    pictures = {}
    for name, drawing in drawings.items():
        picture = page.with_name(f"{page.stem}-{name}.svg")
        replace_file(picture, drawing)
        pictures[name] = picture.name
    return pictures


def _figures(summary: Summary) -> dict[str, str]:
    with _extra():
        from dflmoe.bench.figures import figures  # noqa: PLC0415 - extra
    return figures(summary)


def _ranks(paper: PaperSummary) -> dict[str, str]:
    with _extra():
        from dflmoe.bench.figures import rank_against_bytes  # noqa: PLC0415 - extra
    return {one.name: rank_against_bytes(one, paper.ours) for one in paper.standings}


def _filled(template: str, **values: object) -> str:
    """Return a filled template; pictures are SVG for HTML, and file names for Markdown."""
    with _extra():
        from dflmoe.report.pages import environment  # noqa: PLC0415 - extra
    templates = environment("dflmoe.bench", escape=template.endswith(".html"))
    templates.filters |= {"size": size, "unit_name": unit_name}
    return templates.get_template(template).render(
        number=number, score_names=SCORE_NAMES, words=WORDS, **values
    )


@contextmanager
def _extra() -> Iterator[None]:
    """Say what to install, if an import fails."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"the bench's page needs {error.name}; install it with: pip install 'dflmoe[bench]'"
        ) from error
