"""MedMNIST: ``.npz`` files of small images in three published parts.

Nobody knows the patients, so that each row is taken for one; rows of one patient may be divided.
The parts are joined, and splits made anew: results are not those of the published test part.

References:
    Yang et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image
    classification, 2023.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dflmoe.errors import ColumnError, DataFileError, LabelError

PARTS = ("train", "val", "test")
PUBLISHED = frozenset(f"{part}_{what}" for part in PARTS for what in ("images", "labels"))
"""Arrays of such a file."""

COLOURS = 3
"""Length of the last axis of images in colour; volumes are larger."""

WARNING = (
    "MedMNIST names no patients, so each image is taken for one, and its published parts are "
    "joined and divided anew."
)


class MedMnist(NamedTuple):
    """The rows of all parts.

    Attributes:
        x: ``[row, channel, height, width]`` in -1..1; the slices of volumes are channels.
        y: Classes, 0 to C-1.
        names: Of the classes; the file has their numbers only.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    names: tuple[str, ...]


def medmnist_of(path: Path, arrays: Mapping[str, NDArray[Any]]) -> MedMnist | None:
    """Return the rows of arrays that are laid out as MedMNIST; none if they are not.

    Args:
        path: Where they are from.
        arrays: By name.

    Raises:
        ColumnError: A part is missing.
        DataFileError: Images are no bytes, or not as many as labels.
        LabelError: There are several labels a row, or none of two classes.
    """
    if "x" in arrays or not PUBLISHED & arrays.keys():
        return None
    for name in sorted(PUBLISHED - arrays.keys()):
        raise ColumnError(f"data file {path} has no array {name!r}, as MedMNIST has; copy it again")
    images = [arrays[f"{part}_images"] for part in PARTS]
    labels = [arrays[f"{part}_labels"] for part in PARTS]
    for part, some, shown in zip(PARTS, images, labels, strict=True):
        if (
            some.dtype != np.uint8
            or some.ndim not in {3, 4}
            or some.shape[1:] != images[0].shape[1:]
        ):
            raise DataFileError(
                f"data file {path}: {part}_images are {some.dtype} {list(some.shape)}, and bytes "
                f"[row, height, width] or with a further axis are needed; copy it again"
            )
        if len(shown) != len(some):
            raise DataFileError(
                f"data file {path} has {len(some)} {part}_images and {len(shown)} labels of them; "
                f"copy it again"
            )
    y = _classes(path, labels)
    return MedMnist(_scaled(np.concatenate(images)), y, tuple(map(str, range(int(y.max()) + 1))))


def _classes(path: Path, labels: list[NDArray[Any]]) -> NDArray[np.int64]:
    columns = {1 if some.ndim == 1 else int(np.prod(some.shape[1:])) for some in labels}
    if columns != {1}:
        raise LabelError(
            f"data file {path} has {max(columns)} labels a row (as ChestMNIST has), and one class "
            f"a row is needed; choose another file"
        )
    y = np.concatenate([some.reshape(-1) for some in labels])
    if not np.issubdtype(y.dtype, np.integer) or not len(y) or y.min() < 0 or y.max() < 1:
        raise LabelError(
            f"data file {path}: labels must be whole numbers from 0, of two classes or more; copy "
            f"it again"
        )
    return y.astype(np.int64)


def _scaled(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return bytes ``[row, height, width]``, with colours or of volumes, in -1..1."""
    if images.ndim == 3:  # noqa: PLR2004 - row, height and width
        images = images[:, None]
    elif images.shape[-1] == COLOURS:
        images = np.moveaxis(images, -1, 1)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
