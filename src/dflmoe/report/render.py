"""Write ``report.html`` and ``report.json``; both or neither replace what was there."""

from importlib import import_module
from pathlib import Path
from typing import Any

from dflmoe.errors import MissingExtraError
from dflmoe.files import replace_file
from dflmoe.report.schema import ARM_NAMES, Report
from dflmoe.report.verdict import SENTENCES


def render(report: Report) -> str:
    """Return the page: one file, no script, no request to anywhere.

    Raises:
        MissingExtraError: The extra ``pilot`` is not installed.
    """
    figures = with_extra("figures").figures
    page: str = (
        with_extra("pages")
        .environment("dflmoe.report")
        .get_template("report.html")
        .render(r=report, arm_names=ARM_NAMES, sentences=SENTENCES, figures=figures(report))
    )
    return page


def with_extra(module: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of this package that draws, or fills in templates.

    Raises:
        MissingExtraError: The extra ``pilot`` is not installed.
    """
    try:
        return import_module(f"dflmoe.report.{module}")
    except ImportError as error:
        raise MissingExtraError(
            f"the report needs {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error


def write(report: Report, page: Path) -> None:
    """Write the page, and the JSON beside it under the same name.

    Raises:
        OutputError: The folder cannot be made or written; what was there stays as it was.
    """
    html = render(report)
    replace_file(page.with_suffix(".json"), report.model_dump_json(indent=1) + "\n")
    replace_file(page, html)
