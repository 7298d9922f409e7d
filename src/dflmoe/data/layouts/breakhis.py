"""BreaKHis: pictures of breast tumours under the microscope."""

import re
from pathlib import Path

import numpy as np

from dflmoe.data.layouts.files import SIDE, folder_of, pixels, scaled
from dflmoe.data.rows import Rows, coded
from dflmoe.errors import DataFileError

SLIDE = re.compile(r"SOB_(?P<what>[BM])_[A-Z]+-(?P<patient>\d+-[^-]+)-\d+-\d+\.png")
"""How BreaKHis names a picture: what it shows, whose slide, magnification and number."""


def breakhis(root: Path | None, side: int | None) -> Rows:
    """Return BreaKHis: benign or malignant, at four magnifications, by patient.

    Raises:
        DataFileError: There is no picture, or none of a class, or one cannot be read.
        MissingExtraError: Pillow is not installed.

    References:
        Spanhol et al., A Dataset for Breast Cancer Histopathological Image Classification, 2016.
    """
    folder = folder_of(root, "breakhis", "BreaKHis_v1/histology_slides/breast")
    named = [(file, SLIDE.fullmatch(file.name)) for file in sorted(folder.rglob("*.png"))]
    found = [(file, name) for file, name in named if name is not None]
    if not found:
        raise DataFileError(
            f"{folder} holds no picture that is named as BreaKHis names them "
            f"(SOB_B_A-14-22549AB-40-001.png); unpack the archive as it is"
        )
    y = np.array([name["what"] == "M" for _, name in found], dtype=np.int64)
    if y.all() or not y.any():
        raise DataFileError(
            f"{folder} holds {'malignant' if y.all() else 'benign'} pictures only; unpack the "
            f"archive as it is, whole"
        )
    group = coded(np.array([name["patient"] for _, name in found]))
    x = scaled(pixels([file for file, _ in found], side or SIDE))
    return Rows("breakhis", "image", x, y, group, "patient", ("benign", "malignant"))
