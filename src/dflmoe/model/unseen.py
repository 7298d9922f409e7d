"""New rows as a model takes them, from whatever they are kept in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.arrays import read_npz
from dflmoe.data.formats import form_of
from dflmoe.data.one_site import with_extra
from dflmoe.data.source import Source
from dflmoe.errors import ColumnError, DataFileError, ModelError
from dflmoe.model.told import Told

CHUNK = 64
"""Rows of files that are decoded at once."""


@dataclass
class Unseen:
    """Rows to be predicted, some at a time.

    Attributes:
        names: Columns that tell rows apart in what is written, one value a row.
        left_out: Files that could not be read, with the reason; complete once all were read.
    """

    names: dict[str, Sequence[object]]
    parts: Iterator[tuple[list[int], NDArray[np.float32]]]
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows there are to be read."""
        return len(next(iter(self.names.values())))

    def __iter__(self) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield the places of some rows, and the rows."""
        return self.parts


def unseen(
    told: Told, path: Path, *, keep: Sequence[str] = (), skip_unreadable: bool = False
) -> Unseen:
    """Return the rows of a file or folder; labels, if there are any, are not looked at.

    Args:
        told: What the model says that rows are.
        path: A table, an ``.npz``, or a file or folder of what the model was trained on.
        keep: Columns of a table to tell its rows apart by; their number if none are given.
        skip_unreadable: Leave out files that cannot be read.

    Raises:
        DataFileError: A file cannot be read, or holds rows of another shape.
        ColumnError: A column is missing, or holds something else than agreed.
        ModelError: The model says nothing of the columns of tables.
        MissingExtraError: A library for the format is not installed.
    """
    source = Source.model_validate(
        {**told.reading, "path": path, "skip_unreadable": skip_unreadable}
    )
    form = form_of(source if path.is_dir() else source.model_copy(update={"form": None}))
    if form == "arrays":
        return _arrays(told, path)
    if form == "table":
        return _table(told, path, keep)
    return _files(told, source)


def _arrays(told: Told, path: Path) -> Unseen:
    found = read_npz(path, {"x"})
    if "x" not in found:
        raise ColumnError(f"data file {path} has no array 'x'; it needs the rows to predict")
    x = found["x"]
    if tuple(x.shape[1:]) != told.shape or not np.issubdtype(x.dtype, np.number) or not len(x):
        raise DataFileError(
            f"data file {path} holds x of {x.dtype} {list(x.shape)}, and the model takes "
            f"[row, {', '.join(map(str, told.shape))}]; give it such rows"
        )
    rows = x.astype(np.float32)
    if not np.isfinite(rows[~np.isnan(rows)]).all() or (
        told.kind != "table" and np.isnan(rows).any()
    ):
        raise DataFileError(f"data file {path}: x holds NaN or infinite numbers; mend them")
    return Unseen({"row": range(len(x))}, iter([(list(range(len(x))), rows)]))


def _table(told: Told, path: Path, keep: Sequence[str]) -> Unseen:
    if told.columns is None:
        raise ModelError(
            f"the model of {told.site} takes {told.kind} rows of shape {told.shape} and knows no "
            f"columns, so {path} means nothing to it; give an .npz with x, or the files themselves"
        )
    tables = with_extra("tables")
    frame = tables.read_frame(path)
    for column in keep:
        if column not in frame.columns:
            raise ColumnError(f"data file {path} has no column {column!r} to keep; check --keep")
    x: NDArray[np.float32] = tables.features_of(frame, path, told.columns)
    names: Mapping[str, Sequence[object]] = {name: frame[name].tolist() for name in keep}
    return Unseen({"row": range(len(x)), **names}, iter([(list(range(len(x))), x)]))


def _files(told: Told, source: Source) -> Unseen:
    listing = with_extra("listing").listed(source, labelled=False)
    reads = with_extra("reads").Reads(listing, source)
    if reads.shape != told.shape:
        raise DataFileError(
            f"rows of {source.path} are of shape {reads.shape} and the model takes {told.shape}; "
            f"give files of the kind that it was trained on"
        )
    left_out: dict[str, str] = dict(listing.left_out)

    def parts() -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        for start in range(0, len(reads), CHUNK):
            at, rows = [], []
            for number in range(start, min(start + CHUNK, len(reads))):
                try:
                    rows.append(reads.row(number))
                    at.append(number)
                except DataFileError as error:
                    if not source.skip_unreadable:
                        raise
                    left_out[listing.named(number)] = str(error)
            if rows:
                yield at, np.stack(rows)

    names = [listing.named(number) for number in range(len(reads))]
    return Unseen({"file": names}, parts(), left_out)
