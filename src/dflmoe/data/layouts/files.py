"""What all layouts share: where a set lies, which files are pictures, and what becomes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.formats.decoding import decoding
from dflmoe.errors import DataFileError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 64
"""Pixels of a picture unless others are asked for."""

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def folder_of(root: Path | None, name: str, inside: str = ".") -> Path:
    """Return the folder of a set.

    Raises:
        DataFileError: It is not there.
    """
    where = f"set DFLMOE_DATA to the folder that holds {name}/"
    if root is None:
        raise DataFileError(f"data set {name!r} is read from a folder and none is given; {where}")
    folder = root / name / inside
    if not folder.is_dir():
        raise DataFileError(f"data set folder {folder} is not there; {where}, unpacked as it is")
    return folder


def pictures_in(folder: Path) -> list[Path]:
    """Return all pictures below a folder in the order of their names; hidden ones are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )


def pixels(files: Sequence[Path], side: int, mode: str = "RGB") -> NDArray[np.uint8]:
    """Return pictures as ``[row, side, side, channel]``: the centred square, averaged down.

    Raises:
        DataFileError: One cannot be read.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise MissingExtraError(
            f"this data set needs {error.name}; install it with: pip install 'dflmoe[bench]'"
        ) from error
    rows = []
    for file in files:
        with decoding(file, "a picture"), Image.open(file) as picture:
            rows.append(np.asarray(_square(picture.convert(mode), side), dtype=np.uint8))
    return np.stack(rows).reshape(len(rows), side, side, -1)


def _square(picture: "Image", side: int) -> "Image":
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    box = (left, top, left + short, top + short)
    return picture.resize((side, side), resample=4, box=box)  # 4: the mean of each box


def scaled(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``[row, channel, height, width]`` in -1..1."""
    x = np.moveaxis(pictures, 3, 1).astype(np.float32)
    return x / np.float32(127.5) - np.float32(1)
