"""Write ``report.html`` and ``report.json``; both or neither replace what was there."""

import os
import tempfile
from pathlib import Path

from dflmoe.errors import MissingExtraError, OutputError
from dflmoe.report.schema import ARM_NAMES, Report
from dflmoe.report.verdict import SENTENCES


def render(report: Report) -> str:
    """Return the page: one file, no script, no request to anywhere.

    Raises:
        MissingExtraError: The extra ``pilot`` is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - extra

        from dflmoe.report.figures import figures  # noqa: PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError(
            f"the report needs {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error
    loader = PackageLoader("dflmoe.report")
    page = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return page.get_template("report.html").render(
        r=report, arm_names=ARM_NAMES, sentences=SENTENCES, figures=figures(report)
    )


def write(report: Report, page: Path) -> None:
    """Write the page, and the JSON beside it under the same name.

    Raises:
        OutputError: The folder cannot be made or written; what was there stays as it was.
    """
    html = render(report)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _replace(page.with_suffix(".json"), report.model_dump_json(indent=1) + "\n")
        _replace(page, html)
    except OSError as error:
        raise OutputError(
            f"the report cannot be written to {page.parent}: {error.strerror or error}; "
            f"choose another folder"
        ) from error


def writable(folder: Path) -> None:
    """Check that a folder can be made and written, before hours are spent.

    Raises:
        OutputError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"output folder {folder} cannot be written: {error.strerror or error}; "
            f"choose another one"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Write a file so that there is never half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
