"""BreaKHis: pictures of breast tumours under the microscope."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.layouts.files import SIDE, folder_of, pixels, scaled
from dflmoe.data.rows import FACTORS, Rows, block_mean, coded
from dflmoe.errors import DataFileError, OptionError

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
    found = _slides(root)
    y = np.array([name["what"] == "M" for _, name in found], dtype=np.int64)
    if y.all() or not y.any():
        raise DataFileError(
            f"BreaKHis holds {'malignant' if y.all() else 'benign'} pictures only; unpack the "
            f"archive as it is, whole"
        )
    x = scaled(pixels([file for file, _ in found], side or SIDE))
    return Rows("breakhis", "image", x, y, _patients(found), "patient", ("benign", "malignant"))


def breakhis_sr(root: Path | None, side: int | None) -> Rows:
    """Return BreaKHis to be made sharp again, from a half, a quarter and an eighth of its side.

    Raises:
        DataFileError: There is no picture, or one cannot be read.
        OptionError: The side is no multiple of eight.
        MissingExtraError: Pillow is not installed.
    """
    found, side = _slides(root), side or SIDE
    if side % max(FACTORS):
        raise OptionError(
            f"side {side} does not fit breakhis_sr, whose pictures are reduced {max(FACTORS)} "
            f"times; ask for a multiple of that"
        )
    y = np.moveaxis(pixels([file for file, _ in found], side), 3, 1).astype(np.float32)
    y /= np.float32(255)
    coarse = {factor: block_mean(y, factor) for factor in FACTORS}
    return Rows(
        "breakhis_sr",
        "super_resolution",
        coarse[FACTORS[0]],
        y,
        _patients(found),
        "patient",
        (),
        coarse=coarse,
    )


def _slides(root: Path | None) -> list[tuple[Path, re.Match[str]]]:
    """Return the pictures and what their names say."""
    folder = folder_of(root, "breakhis", "BreaKHis_v1/histology_slides/breast")
    named = [(file, SLIDE.fullmatch(file.name)) for file in sorted(folder.rglob("*.png"))]
    found = [(file, name) for file, name in named if name is not None]
    if not found:
        raise DataFileError(
            f"{folder} holds no picture that is named as BreaKHis names them "
            f"(SOB_B_A-14-22549AB-40-001.png); unpack the archive as it is"
        )
    return found


def _patients(found: list[tuple[Path, re.Match[str]]]) -> NDArray[np.int64]:
    return coded(np.array([name["patient"] for _, name in found]))
