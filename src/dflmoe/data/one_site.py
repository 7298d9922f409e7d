"""The rows of the one site that a node serves, as its federation's charter describes them."""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.arrays import read_npz
from dflmoe.data.formats import form_of
from dflmoe.data.medmnist import PUBLISHED, medmnist_of
from dflmoe.data.schema import Schema
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import (
    ColumnError,
    DataFileError,
    LabelError,
    MissingExtraError,
    SchemaError,
    SiteError,
)
from dflmoe.toml import toml_of

ARRAYS = frozenset({"x", "y", "patient"})


def read_site(
    source: Source,
    name: str,
    *,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    columns: str | None,
) -> SiteRows:
    """Read the labelled rows of one site.

    Args:
        source: A table with the agreed columns; an ``.npz`` with ``x`` (``[row, *shape]``, scaled
            as agreed), ``y`` (0 to C-1) and, if known, ``patient``, or of MedMNIST; or files of
            images, volumes or recordings.
        name: The site.
        classes: Names of the classes.
        shape: Of one row.
        columns: The agreed schema of a table, as TOML.

    Raises:
        DataFileError: The file is missing, unreadable, or holds rows of another shape.
        PickleError: An array holds pickled objects.
        ColumnError: A column is missing, or holds something else than agreed.
        LabelError: A label is missing, or is none of the classes.
        SchemaError: The charter's columns are none, or malformed.
        SiteError: The table holds rows of several sites, and none of this one.
    """
    form, path = form_of(source), source.where
    if form == "arrays":
        return _arrays(path, name, classes, shape)
    if form != "table":
        return _of_files(source, name, classes, shape)
    tables = with_extra("tables")
    frame = tables.frame_of(source)
    study = tables.read_with_schema(path, agreed(columns, path), at=name, frame=frame)
    if study.classes != classes:
        raise SchemaError("the charter's columns name other classes than the charter itself")
    here: list[SiteRows] = [site for site in study.sites if site.name == name]
    if not here:
        raise SiteError(
            f"data file {path} holds rows of {', '.join(s.name for s in study.sites)}, "
            f"and none of {name}"
        )
    if here[0].x.shape[1:] != shape:
        raise SchemaError(
            f"the charter's columns make rows of {here[0].x.shape[1:]}, and it says {shape}"
        )
    return here[0]


def read_unlabelled(
    path: Path, *, shape: tuple[int, ...], columns: str | None
) -> NDArray[np.float32]:
    """Read rows to predict; labels, if there are any, are not looked at.

    Raises:
        DataFileError: The file is missing, unreadable, or holds rows of another shape.
        ColumnError: A column is missing, or holds something else than agreed.
        SchemaError: The charter's columns are none, or malformed.
    """
    if path.suffix.lower() == ".npz":
        return _shaped(path, _known(path, {"x"}), shape)
    x: NDArray[np.float32] = with_extra("tables").read_features(path, agreed(columns, path))
    if x.shape[1:] != shape:
        raise SchemaError(f"the charter's columns make rows of {x.shape[1:]}, and it says {shape}")
    return x


def agreed(columns: str | None, path: Path) -> Schema:
    """Return the schema that a charter carries.

    Raises:
        SchemaError: It carries none, or a malformed one.
    """
    if columns is None:
        raise SchemaError(
            f"the charter names no columns, so nobody knows what those of {path} mean; "
            f"give an .npz file, or found the federation with columns"
        )
    try:
        return Schema.model_validate(toml_of(columns))
    except ValueError as error:
        raise SchemaError(f"the charter's columns are malformed: {error}") from error


def with_extra(module: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of this package that needs pandas.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module(f"dflmoe.data.{module}")
    except ImportError as error:
        raise MissingExtraError(
            f"reading data needs {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error


def _of_files(
    source: Source, name: str, classes: tuple[str, ...], shape: tuple[int, ...]
) -> SiteRows:
    read = with_extra("reading").rows_of(source, classes=classes)
    if read.reads.shape != shape:
        raise DataFileError(
            f"rows of {source.path} are of shape {read.reads.shape} and the charter says {shape}; "
            f"bring them to it with size and channels in [data]"
        )
    sites: dict[str, SiteRows] = {site.name: site for site in read.sites(name)}
    if name not in sites:
        raise SiteError(f"{source.path} holds rows of {', '.join(sites)}, and none of {name}")
    return sites[name]


def _arrays(path: Path, name: str, classes: tuple[str, ...], shape: tuple[int, ...]) -> SiteRows:
    arrays = _known(path, ARRAYS)
    x = _shaped(path, arrays, shape)
    if "y" not in arrays:
        raise ColumnError(f"data file {path} has no array 'y'; it needs x and y")
    y = arrays["y"]
    whole = y.ndim == 1 and len(y) == len(x) and np.issubdtype(y.dtype, np.integer)
    if not whole or (len(y) and (y.min() < 0 or y.max() >= len(classes))):
        raise LabelError(
            f"data file {path}: y must hold one whole number a row, 0 to {len(classes) - 1}"
        )
    patient = arrays.get("patient", np.arange(len(y)))
    if len(patient) != len(y):
        raise DataFileError(f"data file {path} names {len(patient)} patients for {len(y)} rows")
    people = np.unique(patient, return_inverse=True)[1].astype(np.int64)
    named = "patient" in arrays
    return SiteRows(name, x, y.astype(np.int64), people, names_patients=named)


def _known(path: Path, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file; those of MedMNIST as ``x`` and ``y``."""
    arrays = read_npz(path, {*wanted, *PUBLISHED})
    published = medmnist_of(path, arrays)
    return arrays if published is None else {"x": published.x, "y": published.y}


def _shaped(
    path: Path, arrays: dict[str, NDArray[Any]], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if "x" not in arrays:
        raise ColumnError(f"data file {path} has no array 'x'")
    x = arrays["x"]
    if x.shape[1:] != shape or not np.issubdtype(x.dtype, np.number):
        raise DataFileError(
            f"data file {path} holds rows of {x.dtype} {x.shape[1:]}, and the charter says {shape}"
        )
    if not np.isfinite(x).all():
        raise DataFileError(f"data file {path}: x holds NaN or infinite numbers")
    numbers: NDArray[np.float32] = x.astype(np.float32)
    return numbers
