"""Look at all rows of a table, or of arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dflmoe.data.arrays import read_arrays, read_npz
from dflmoe.data.findings import found
from dflmoe.data.looked import Looked, as_one, measured, several
from dflmoe.data.one_site import read_site
from dflmoe.data.schema import Schema
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.data.tables import Roles, frame_of, read_table, read_with_schema
from dflmoe.errors import ColumnError, DataError, DataFileError, SchemaError

SITE = "site"
"""What a column of sites is called where nobody says; a table of one site needs none."""


def look_at_table(source: Source, name: str) -> Looked:
    """Return what a table or the answer of a database holds.

    Raises:
        DataFileError: It cannot be read.
        SchemaError: The schema cannot be read.
        MissingExtraError: A database needs a library that is not installed.
    """
    schema = Schema.load(source.schema_file) if source.schema_file is not None else None
    frame = frame_of(source)
    where = Path("the query") if source.database else source.where
    if schema is None:
        roles = Roles(source.site or SITE, source.label, source.patient, source.drop)
    else:
        roles = Roles(schema.site, schema.label, schema.patient)
    looked = Looked("table", frame=_shown(frame, roles, schema), schema=schema)
    try:
        study = (
            read_table(where, roles, at=name, frame=frame)
            if schema is None
            else read_with_schema(where, schema, at=name, frame=frame)
        )
    except (DataError, SchemaError) as error:
        wrong = found("columns", str(error), worse="failed", fix="do as it says")
        return Looked("table", frame=looked.frame, schema=schema, troubles=(wrong,))
    sites = _own(study.sites, name)
    people = _people(frame, roles, [site.name for site in sites])
    return Looked(
        "table",
        rows=as_one(sites, name),
        names=_names(sites, tell=len(study.sites) > 1),
        classes=study.classes,
        people=people,
        shape=study.shape if schema is not None else None,
        frame=looked.frame,
        schema=schema,
        troubles=several([site.name for site in study.sites], name),
    )


def look_at_arrays(source: Source, name: str) -> Looked:
    """Return what an ``.npz`` holds: of several sites if it says so, of one otherwise.

    Raises:
        DataError: It cannot be read, or holds something else than rows and their classes.
    """
    arrays = read_npz(source.where, {"x", "y", "site", "patient"})
    if "site" in arrays or "x" not in arrays:
        study = read_arrays(source.where)
        every, classes = study.sites, study.classes
    else:
        every, classes = _one_site(source, name, arrays)
    sites = _own(every, name)
    rows = as_one(sites, name)
    people: list[str] = []
    if "patient" in arrays:
        known = arrays["patient"] if len(every) == 1 else rows.patient
        people = known.astype(str).tolist()
    looked = Looked(
        "table",
        rows,
        _names(sites, tell=len(every) > 1),
        classes,
        people,
        shape=rows.shape,
        troubles=several([site.name for site in every], name),
    )
    return looked if rows.x.ndim == 2 else _in_small(looked, rows)  # noqa: PLR2004 - a feature


def _own(sites: Sequence[SiteRows], name: str) -> Sequence[SiteRows]:
    """Return the site of a name if it is there, and all of them otherwise."""
    return [site for site in sites if site.name == name] or sites


def _one_site(
    source: Source, name: str, arrays: Mapping[str, NDArray[Any]]
) -> tuple[tuple[SiteRows, ...], tuple[str, ...]]:
    """Return the rows of arrays as a node reads them, and the names of their classes."""
    if "y" not in arrays:
        raise ColumnError(f"data file {source.where} has no array 'y'; it needs x and y")
    x, y = arrays["x"], arrays["y"]
    if not 2 <= x.ndim <= 4 or not len(x):  # noqa: PLR2004 - a feature to height and width
        raise DataFileError(
            f"data file {source.where}: x must be [row, feature], [row, channel, time] or "
            f"[row, channel, height, width], not {list(x.shape)}"
        )
    whole = y.size > 0 and np.issubdtype(y.dtype, np.integer)
    codes = range(max(2, int(y.max()) + 1 if whole else 0))
    classes = source.classes or tuple(map(str, codes))
    return (read_site(source, name, classes=classes, shape=x.shape[1:], columns=None),), classes


def _in_small(looked: Looked, rows: SiteRows) -> Looked:
    """Return images or recordings in small."""
    seen = [measured(x, x) for x in rows.x]
    small = replace(rows, x=np.stack([one.small for one in seen]))
    return replace(
        looked,
        kind="series" if rows.x.ndim == 3 else "image",  # noqa: PLR2004 - row, channel, time
        rows=small,
        measured=seen,
        sizes={rows.shape: len(rows.x)},
        row=lambda number: rows.x[number],
    )


def _shown(frame: pd.DataFrame, roles: Roles, schema: Schema | None) -> pd.DataFrame:
    """Return the columns that have a role; what else a table holds is nobody's business."""
    named = [roles.site, roles.label, *([roles.patient] if roles.patient is not None else [])]
    features = [c for c in frame.columns if c not in {*named, *roles.drop}]
    features = features if schema is None else list(schema.columns)
    return frame[[c for c in (*named, *features) if c in frame.columns]]


def _people(frame: pd.DataFrame, roles: Roles, sites: Sequence[str]) -> Sequence[str]:
    """Return the patient of each row by name, in the order of the sites."""
    if roles.patient is None:
        return []
    named = frame[roles.patient].astype(str)
    if roles.site not in frame.columns:
        return named.tolist()
    of = frame[roles.site].astype(str)
    return [person for site in sites for person in named[of == site]]


def _names(sites: Sequence[SiteRows], *, tell: bool) -> Sequence[str]:
    """Return what rows are called: by their place among those of their site."""
    return [
        f"row {k + 1}" + (f" of {site.name}" if tell else "")
        for site in sites
        for k in range(len(site.y))
    ]
