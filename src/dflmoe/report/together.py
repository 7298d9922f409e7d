"""Write a consortium's report: a page that opens offline, its JSON, and if wished a PDF."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from dflmoe.errors import OutputError
from dflmoe.files import replace_file
from dflmoe.report.consortium import Consortium
from dflmoe.report.render import with_extra

PAGE, NUMBERS, PRINTED = "federation.html", "federation.json", "federation.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PRINT_S = 120

INPUTS: Mapping[str, str] = {
    "staff_hours": "Hours of staff a year",
    "staff_rate": "Money for an hour of staff",
    "machine": "Money for the machine a year",
    "busy_watts": "Watts more while computing",
    "idle_watts": "Watts all year",
    "overhead": "Watts drawn for a watt (PUE)",
    "energy_price": "Money for a kWh",
    "carbon": "kg CO₂ for a kWh",
    "energy_per_gb": "kWh for a gigabyte",
    "value_of_a_point": "Worth of a point a year",
}
"""What the reader of the page can change."""


def page_of(found: Consortium) -> str:
    """Return the page: one file, which asks nothing of anybody.

    Raises:
        MissingExtraError: The extra ``pilot`` is not installed.
    """
    measured = [
        share.model_dump(include={"site", "days", "seconds", "sent", "received", "rounds"})
        for share in found.shares
    ]
    script = (files("dflmoe.report") / "templates" / "consortium.js").read_text(encoding="utf-8")
    page: str = (
        with_extra("pages")
        .environment("dflmoe.report")
        .get_template("consortium.html")
        .render(
            c=found,
            figures=with_extra("drawn").pictures(found),
            inputs=INPUTS,
            measured=measured,
            script=script,
        )
    )
    return page


def write(found: Consortium, folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write the report; returns its files.

    Raises:
        OutputError: The folder cannot be written, or no PDF made.
        MissingExtraError: The extra ``pilot`` is not installed.
    """
    page = page_of(found)
    replace_file(folder / NUMBERS, found.model_dump_json(indent=1) + "\n")
    replace_file(folder / PAGE, page)
    written = [folder / PAGE, folder / NUMBERS]
    if pdf:
        printed(folder / PAGE, folder / PRINTED)
        written.append(folder / PRINTED)
    return written


def printed(page: Path, to: Path) -> None:
    """Print a page to a PDF.

    Raises:
        OutputError: There is no Chromium, or it makes none.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise OutputError(
            "a PDF is printed by Chromium, and there is none; install it, or print the page from "
            "any browser"
        )
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / to.name
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-sandbox",
            "--disable-background-networking",
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={half}",
            page.absolute().as_uri(),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=PRINT_S)  # noqa: S603 - the system's browser on our own page
            replace_file(to, half.read_bytes())
        except (OSError, subprocess.SubprocessError) as error:
            raise OutputError(
                f"{browser} made no PDF of {page}; print the page from any browser"
            ) from error
