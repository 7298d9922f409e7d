"""Arrays: an ``.npz`` file with ``x``, ``y`` and ``site``; nothing pickled is ever loaded."""

import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.medmnist import PUBLISHED, WARNING, MedMnist, medmnist_of
from dflmoe.data.study import SiteRows, Study
from dflmoe.errors import ColumnError, DataFileError, LabelError, PickleError


def read_arrays(path: Path, *, at: str | None = None) -> Study:
    """Read ``x`` (``[row, feature]`` or images), ``y`` and ``site``, and ``patient`` if there.

    Images are ``[row, height, width]`` or ``[row, height, width, channel]``; bytes are scaled to
    0..1. ``site_names`` and ``class_names`` are used if they are there. A file of MedMNIST is one
    site.

    Args:
        path: The file.
        at: The site that all rows are of, where the file names none.

    Raises:
        DataFileError: The file is missing, is not an ``.npz``, or an array has a wrong shape.
        PickleError: An array holds pickled objects.
        ColumnError: An array is missing.
        LabelError: ``y`` is not made of classes.
    """
    if not path.is_file():
        raise DataFileError(f"data file {path} is not there; check the path")
    if not zipfile.is_zipfile(path):
        raise DataFileError(
            f"data file {path} is not a readable .npz file; save it with numpy.savez"
        )
    arrays = read_npz(path, KNOWN | PUBLISHED)
    published = medmnist_of(path, arrays)
    if published is not None:
        return _published(path, published, at or path.stem)
    if at is not None and "site" not in arrays and "y" in arrays:
        arrays["site"] = np.full(len(arrays["y"]), at)
    for name in ("x", "y", "site"):
        if name not in arrays:
            raise ColumnError(f"data file {path} has no array {name!r}; it needs x, y and site")
    rows = len(arrays["y"])
    for name in ("x", "site", "patient"):
        if name in arrays and len(arrays[name]) != rows:
            raise DataFileError(
                f"data file {path}: {name} has {len(arrays[name])} rows and y has {rows}"
            )
    return _study(path, arrays)


def joined(paths: Mapping[str, Path]) -> Study:
    """Return one study of several files, one of each site.

    Raises:
        DataFileError: A file is no ``.npz``, or its rows are of another shape.
        PickleError: An array holds pickled objects.
        ColumnError: An array is missing.
        LabelError: ``y`` is not made of classes.
    """
    studies = {name: read_arrays(path, at=name) for name, path in paths.items()}
    first = next(iter(studies.values()))
    for name, one in studies.items():
        if one.shape != first.shape:
            raise DataFileError(
                f"data file {paths[name]}: rows are of shape {one.shape} and those of the other "
                f"sites of {first.shape}; bring them to one shape"
            )
    for name, one in studies.items():
        if one.own_scale is not None and not one.own_scale.all():
            raise DataFileError(
                f"data file {paths[name]}: numbers of a table are missing, and what is missing "
                f"differs from file to file; give tables as CSV or Parquet"
            )
    found = {name for one in studies.values() for name in one.classes}
    whole = all(name.isdecimal() for name in found)
    classes = tuple(sorted(found, key=int if whole else str))
    sites = tuple(
        replace(site, y=np.array([classes.index(one.classes[k]) for k in site.y], dtype=np.int64))
        for one in studies.values()
        for site in one.sites
    )
    warnings = dict.fromkeys(warning for one in studies.values() for warning in one.warnings)
    named = all(one.has_patients for one in studies.values())
    task = f"{len(classes)} classes"
    return replace(
        first, classes=classes, task=task, sites=sites, has_patients=named, warnings=(*warnings,)
    )


def _published(path: Path, rows: MedMnist, site: str) -> Study:
    return Study(
        title=path.name,
        task=f"{len(rows.names)} classes",
        classes=rows.names,
        sites=(SiteRows(site, rows.x, rows.y, np.arange(len(rows.y))),),
        kind="image",
        has_patients=False,
        warnings=(WARNING,),
    )


KNOWN = frozenset({"x", "y", "site", "patient", "site_names", "class_names"})


DAMAGED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What a damaged ``.npz`` file makes the libraries raise that read it."""


def read_npz(path: Path, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file that is there; nothing pickled is ever loaded.

    Args:
        path: The file.
        wanted: Arrays to read if they are there; all if not given.

    Raises:
        DataFileError: It is not a readable ``.npz``.
        PickleError: An array holds pickled objects.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = [name for name in file.files if wanted is None or name in wanted]
            return {name: _array(file, name, path) for name in names}
    except DAMAGED as error:
        reason = str(error) or "it ends too early"
        raise DataFileError(f"data file {path} is not a readable .npz file: {reason}") from error


def _array(file: "np.lib.npyio.NpzFile", name: str, path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = file[name]
    except ValueError as error:
        if not str(error).startswith("Object arrays"):
            raise
        raise PickleError(
            f"array {name!r} of {path} holds pickled objects, which are never loaded; "
            f"save plain numbers or text"
        ) from error
    return values


def _study(path: Path, arrays: dict[str, NDArray[np.generic]]) -> Study:
    y, classes = _classes(path, arrays)
    x = arrays["x"]
    if not np.issubdtype(x.dtype, np.number) or x.ndim < 2 or x.ndim > 4:  # noqa: PLR2004
        raise DataFileError(
            f"data file {path}: x must be numbers of shape [row, feature], [row, height, width] or "
            f"[row, height, width, channel], not {x.dtype} {list(x.shape)}"
        )
    table = x.ndim == 2  # noqa: PLR2004 - rows and features
    numbers = x.astype(np.float32) if table else pictures(path, x)
    site = arrays["site"].astype(str)
    if "site_names" in arrays and np.issubdtype(arrays["site"].dtype, np.integer):
        site = arrays["site_names"].astype(str)[arrays["site"].astype(np.int64)]
    patient = np.unique(arrays.get("patient", np.arange(len(y))), return_inverse=True)[1]
    names = list(dict.fromkeys(site.tolist()))
    missing = np.isnan(numbers)
    if table and missing.any():
        flags = missing[:, missing.any(0)].astype(np.float32)
        own_scale = np.r_[np.ones(numbers.shape[1], bool), np.zeros(flags.shape[1], bool)]
        numbers = np.concatenate([numbers, flags], axis=1)
    else:
        own_scale = np.ones(numbers.shape[1], bool)
    return Study(
        title=path.name,
        task=f"{len(classes)} classes",
        classes=classes,
        sites=tuple(
            SiteRows(
                name,
                numbers[site == name],
                y[site == name],
                np.unique(patient[site == name], return_inverse=True)[1].astype(np.int64),
            )
            for name in names
        ),
        kind="table" if table else "image",
        own_scale=own_scale if table else None,
        has_patients="patient" in arrays,
    )


def pictures(path: Path, x: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return images as ``[row, channel, height, width]`` in -1..1.

    Args:
        path: Their file.
        x: Images ``[row, height, width]`` or ``[row, height, width, channel]``, bytes or in 0..1.

    Raises:
        DataFileError: They hold numbers that are not finite.
    """
    numbers = x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    numbers = numbers[:, None] if numbers.ndim == 3 else np.moveaxis(numbers, 3, 1)  # noqa: PLR2004
    if not np.isfinite(numbers).all():
        raise DataFileError(f"data file {path}: images hold NaN or infinite numbers")
    return np.ascontiguousarray(2 * numbers - 1)


def _classes(
    path: Path, arrays: dict[str, NDArray[np.generic]]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    y = arrays["y"]
    if y.ndim == 2 and y.shape[1] == 1:  # noqa: PLR2004 - a column of labels
        y = y[:, 0]
    if y.ndim != 1:
        raise LabelError(f"data file {path}: y must have one class a row, not shape {y.shape}")
    if np.issubdtype(y.dtype, np.floating) and (np.isnan(y) | (y % 1 != 0)).any():
        raise LabelError(f"data file {path}: y holds NaN or fractions; it must be made of classes")
    found, codes = np.unique(y, return_inverse=True)
    if not 2 <= len(found) <= 100:  # noqa: PLR2004
        raise LabelError(
            f"data file {path}: y has {len(found)} different values; 2 to 100 are fine"
        )
    names = tuple(map(str, found))
    if "class_names" in arrays and np.issubdtype(y.dtype, np.integer):
        given = arrays["class_names"].astype(str)
        if int(found.max()) < len(given):
            names = tuple(str(given[int(k)]) for k in found)
    return codes.astype(np.int64), names
