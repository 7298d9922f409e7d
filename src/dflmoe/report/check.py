"""Write ``check.html``: what a check of data found, with pictures of rows; it stays at the site."""

import base64
import io
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dflmoe.data.check import Checked
from dflmoe.data.looked import Looked
from dflmoe.errors import DataFileError
from dflmoe.files import replace_file
from dflmoe.report.figures import BLUE, svg
from dflmoe.report.pages import environment

SIDE = 112
"""Pixels of the longer side of a picture."""

LINES, POINTS = 4, 400
"""Channels of a recording that are drawn at most, and places of each."""

PAGE, DECLARED = "check.html", "declared.json"


class Shown(NamedTuple):
    """A row as a picture.

    Attributes:
        picture: Markup that needs nothing from elsewhere.
        name: Of the row.
        label: What it shows, as the site says.
    """

    picture: Markup
    name: str
    label: str


def write(checked: Checked, folder: Path) -> Path:
    """Write the page, and beside it what the site may tell others; return the page.

    Raises:
        OutputError: The folder cannot be written.
    """
    page = folder / PAGE
    replace_file(page, render(checked))
    if checked.check.declared is not None:
        replace_file(folder / DECLARED, checked.check.declared.model_dump_json(indent=1) + "\n")
    return page


def render(checked: Checked) -> str:
    """Return the page: one file, no script, no request to anywhere."""
    sheets = {
        title: [_shown(checked.looked, k) for k in numbers]
        for title, numbers in checked.look_at.items()
        if checked.looked.row is not None
    }
    template = environment("dflmoe.report").get_template("check.html")
    return template.render(c=checked.check, kind=checked.looked.kind, sheets=sheets)


def _shown(looked: Looked, number: int) -> Shown:
    label = ""
    if looked.classes and looked.rows is not None:
        label = looked.classes[int(looked.rows.y[number])]
    return Shown(_picture(looked, number), looked.names[number], label)


def _picture(looked: Looked, number: int) -> Markup:
    """Return a row as markup; words where its file has gone meanwhile."""
    if looked.row is None:
        return Markup("")
    try:
        row = looked.row(number)
    except DataFileError:
        return Markup("cannot be read any more")
    if row.ndim == 2:  # noqa: PLR2004 - channel and time
        return Markup(svg(partial(_lines, row), (2.2, 1.1)))  # noqa: S704 - drawn here
    encoded = base64.b64encode(_png(row)).decode()
    return Markup('<img alt="" src="data:image/png;base64,{}">').format(encoded)


def _png(row: NDArray[np.float32]) -> bytes:
    """Return a row ``[channel, height, width]`` as a small picture: colour, or its middle slice."""
    colours = row if len(row) == 3 else row[len(row) // 2][None]  # noqa: PLR2004 - red, green, blue
    low, high = float(colours.min()), float(colours.max())
    scaled = np.rint(255 * (colours - low) / max(high - low, 1e-12)).astype(np.uint8)
    pixels = np.moveaxis(scaled, 0, 2)
    image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0])
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    return out.getvalue()


def _lines(row: NDArray[np.float32], figure: Figure) -> None:
    """Draw a recording: its first channels under each other."""
    axes = figure.add_subplot()
    for k, values in enumerate(row[:LINES, :: max(1, row.shape[1] // POINTS)]):
        spread = max(float(np.ptp(values)), 1e-12)
        axes.plot((values - values.min()) / spread - 1.2 * k, color=BLUE, lw=0.7)
    axes.set_axis_off()
