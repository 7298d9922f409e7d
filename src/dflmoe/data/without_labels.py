"""The rows of a source without their labels, which are not looked at and need not be there."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.data.arrays import pictures, read_npz
from dflmoe.data.formats import form_of
from dflmoe.data.one_site import with_extra
from dflmoe.data.source import Source
from dflmoe.errors import ColumnError, DataFileError


@dataclass(frozen=True)
class Unlabelled:
    """Images or series.

    Attributes:
        read: Some of them by their numbers, ``[row, *shape]``.
        rows: How many there are.
        shape: Of each.
        left_out: How many files or rows could not be read and were left out.
    """

    read: Callable[[Tensor], Tensor]
    rows: int
    shape: tuple[int, ...]
    left_out: int = 0


def without_labels(
    source: Source, *, step: Callable[[int, int], None] = lambda *_: None
) -> Unlabelled:
    """Return the rows of a source; those that do not fit into memory are read as they are needed.

    Args:
        source: Files of images, volumes or recordings; or an ``.npz`` with ``x``: as a node's
            (``[row, channel, ...]``, scaled as agreed), or, if it names sites, as a pilot's.
        step: Told how far it is.

    Raises:
        DataFileError: A file cannot be read, is not like the others, or holds a table.
        PickleError: An array holds pickled objects.
        ColumnError: An ``.npz`` has no ``x``.
        SettingsError: A transform cannot be used.
        MissingExtraError: The library for the format is not installed.
    """
    form = form_of(source)
    if form == "table":
        raise DataFileError(
            f"{source.path} is a table, and only images and series teach a body without labels; "
            f"give those"
        )
    if form == "arrays":
        return _held(_arrays(source))
    listing = with_extra("listing").listed(source, labelled=False, step=step)
    reads, values = with_extra("reads").Reads(listing, source).looked_at(step)
    left_out = len(reads.listing.left_out)
    if reads.streams:
        return Unlabelled(reads, len(reads), reads.shape, left_out)
    return _held(values, left_out)


def _held(x: NDArray[np.float32], left_out: int = 0) -> Unlabelled:
    whole = torch.from_numpy(x)
    return Unlabelled(lambda numbers: whole[numbers], len(x), x.shape[1:], left_out)


def _arrays(source: Source) -> NDArray[np.float32]:
    """Return the rows of an ``.npz``.

    Raises:
        DataFileError: It is none, or its ``x`` holds no images or series.
        ColumnError: It has no ``x``.
    """
    path = source.where
    arrays = read_npz(path, {"x", "site"})
    if "x" not in arrays:
        raise ColumnError(f"data file {path} has no array 'x'")
    x = arrays["x"]
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x) or x.ndim not in {3, 4}:
        raise DataFileError(
            f"data file {path}: x is {x.dtype} of shape {list(x.shape)}; without labels a body "
            f"learns from images [row, channel, height, width] or series [row, channel, time]"
        )
    if "site" in arrays:
        return pictures(path, x)
    if not np.isfinite(x).all():
        raise DataFileError(f"data file {path}: x holds NaN or infinite numbers")
    numbers: NDArray[np.float32] = np.ascontiguousarray(x, dtype=np.float32)
    return numbers
