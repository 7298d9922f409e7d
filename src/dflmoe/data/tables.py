"""Tables: a CSV or Parquet file with one row a case and a column that names the site."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dflmoe.data.schema import Column, Schema
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows, Study
from dflmoe.errors import (
    ColumnError,
    DataFileError,
    LabelError,
    MissingExtraError,
    SchemaError,
)

MAX_LEVELS = 30
"""A text column with more levels than this is taken for free text or an identifier."""

DATE = re.compile(r"\s*\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([ T].*)?")
"""How dates are written."""

MAX_CLASSES = 20
"""A numeric label with more values than this is taken for a measurement."""

AGE_BANDS = (0, 50, 65, 200)


@dataclass(frozen=True)
class Roles:
    """Which columns are no features: site, label, patient, and those left out."""

    site: str
    label: str
    patient: str | None = None
    drop: tuple[str, ...] = ()


def embedded_study() -> Study:
    """Return the four hospitals of UCI Heart Disease (920 patients, CC BY 4.0)."""
    folder = resources.files("dflmoe.data") / "embedded"
    with resources.as_file(folder) as path:
        schema = Schema.load(path / "heart_disease.toml")
        return read_with_schema(path / "heart_disease.csv", schema)


def read_frame(path: Path, *, as_text: bool = False) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Args:
        path: The file.
        as_text: Leave what stands in a CSV file as it is; ``007`` is no number then.

    Raises:
        DataFileError: The file is missing, unreadable, empty, or of another kind.
        ColumnError: Two columns have one name.
    """
    if not path.is_file():
        raise DataFileError(f"data file {path} is not there; check the path")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
            names = list(map(str, frame.columns))
        else:
            frame = pd.read_csv(path, skipinitialspace=True, dtype=str if as_text else None)
            names = _header(path)
        frame = without_blanks(frame)
    except Exception as error:  # Arrow alone has ten kinds of error for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataFileError(f"data file {path} cannot be read as a table: {reason}") from error
    if frame.empty:
        raise DataFileError(f"data file {path} has no rows; export it again")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ColumnError(f"data file {path} has two columns {twice!r}; rename or remove one")
    return frame


def _header(path: Path) -> list[str]:
    """Return the names of the columns as they are in a CSV file; pandas renames the second."""
    first = pd.read_csv(path, skipinitialspace=True, header=None, nrows=1, dtype=str)
    return [str(name) for name in first.iloc[0] if not pd.isna(name)]


def without_blanks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which texts of nothing but blanks are missing, as they are in CSV."""
    for name in frame.columns:
        column = frame[name]
        if not pd.api.types.is_numeric_dtype(column) and column.notna().any():
            blank = column.astype(str).str.strip() == ""
            if blank.any():
                frame[name] = column.where(~blank)
    return frame


def asked(source: Source) -> pd.DataFrame:
    """Return what a database answers to a query that only reads.

    Raises:
        DataFileError: It cannot be reached, does not understand the query, or has no rows for it.
        ColumnError: Two columns of the answer have one name.
        MissingExtraError: SQLAlchemy, or what it needs for this database, is not installed.
    """
    try:
        from dflmoe.data.database import answered  # noqa: PLC0415 - extra
    except ImportError as error:
        raise MissingExtraError(
            f"a database needs {error.name}; install it with: pip install 'dflmoe[sql]'"
        ) from error
    return answered(source)


def frame_of(source: Source) -> pd.DataFrame:
    """Return the table that a source names.

    Raises:
        DataFileError: It cannot be read.
        MissingExtraError: A database needs a library that is not installed.
    """
    return without_blanks(asked(source)) if source.database else read_frame(source.where)


def read_features(path: Path, schema: Schema) -> NDArray[np.float32]:
    """Read the agreed columns of a table, whatever else it holds, ``[row, feature]``.

    Raises:
        DataFileError: The file cannot be read.
        ColumnError: A column of the schema is missing, or holds something else than it says.
    """
    return features_of(read_frame(path), path, schema)


def features_of(frame: pd.DataFrame, path: Path, schema: Schema) -> NDArray[np.float32]:
    """Return the agreed columns of a table that has been read, ``[row, feature]``.

    Raises:
        ColumnError: A column of the schema is missing, or holds something else than it says.
    """
    _require(frame, path, list(schema.columns))
    parts = [_by_schema(frame[name], name, path, c) for name, c in schema.columns.items()]
    return np.concatenate(parts, axis=1)


def read_with_schema(
    path: Path, schema: Schema, *, at: str | None = None, frame: pd.DataFrame | None = None
) -> Study:
    """Read a table whose columns the federation has agreed on.

    Args:
        path: The file.
        schema: The columns.
        at: The site that all rows are of, where the table has no site column.
        frame: What is in the file, if it has been read.

    Raises:
        DataFileError: The file cannot be read.
        ColumnError: A column of the schema is missing, or holds something else than it says.
        LabelError: The label is missing somewhere or is not one of the classes.
        SchemaError: The schema names a column for a role that it does not describe.
    """
    frame = read_frame(path) if frame is None else frame
    roles = Roles(schema.site, schema.label, schema.patient)
    if at is not None and roles.site not in frame.columns:
        frame = frame.assign(**{roles.site: at})
    patients = [roles.patient] if roles.patient is not None else []
    _require(frame, path, [roles.site, roles.label, *patients])
    for role in (schema.sex, schema.age):
        if role is not None and role not in schema.columns:
            raise SchemaError(f"the schema names {role!r} for a role but not among its columns")
    x = features_of(frame, path, schema)
    y, classes = _labels(frame, path, roles, schema.classes)
    return Study(
        title=schema.title,
        task=schema.task,
        classes=classes,
        sites=_sites(frame, path, roles, x=x, y=y, groups=_groups(frame, schema)),
        kind="table",
        has_patients=roles.patient is not None,
        columns=schema,
    )


def read_table(
    path: Path, roles: Roles, *, at: str | None = None, frame: pd.DataFrame | None = None
) -> Study:
    """Read a table that nobody has described: numbers are numbers, text is categories.

    Numbers will be standardised by each site on its own training rows.

    Args:
        path: The file.
        roles: Columns that are no features.
        at: The site that all rows are of, where the table has no site column.
        frame: What is in the file, if it has been read.

    Raises:
        DataFileError: The file cannot be read.
        ColumnError: A column is unknown or cannot be turned into numbers.
        LabelError: The label is missing somewhere, continuous, or the same everywhere.
    """
    frame = read_frame(path) if frame is None else frame
    if at is not None and roles.site not in frame.columns:
        frame = frame.assign(**{roles.site: at})
    named = [roles.site, roles.label, *roles.drop]
    named += [roles.patient] if roles.patient is not None else []
    _require(frame, path, named)
    features = [c for c in frame.columns if c not in named]
    if not features:
        raise ColumnError(f"data file {path} has no columns left to learn from")
    parts, own_scale, columns = [], [], {}
    for name in features:
        encoded, column = _by_looks(frame[name], str(name), path)
        parts.append(encoded)
        columns[str(name)] = column
        own_scale += [column.levels is None and k == 0 for k in range(encoded.shape[1])]
    y, classes = _labels(frame, path, roles, None)
    task = f"{roles.label} from {len(features)} columns"
    return Study(
        title=path.name,
        task=task,
        classes=classes,
        sites=_sites(frame, path, roles, x=np.concatenate(parts, axis=1), y=y, groups={}),
        kind="table",
        own_scale=np.array(own_scale),
        columns=Schema(
            title=path.name,
            task=task,
            site=roles.site,
            label=roles.label,
            classes=classes,
            columns=columns,
            patient=roles.patient,
        ),
        has_patients=roles.patient is not None,
        warnings=(
            "No schema was given: every site scales numbers by its own training rows, so nobody "
            "vouches that a feature means the same everywhere.",
        ),
    )


def _require(frame: pd.DataFrame, path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            have = ", ".join(map(str, frame.columns[:12])) + (
                ", ..." if len(frame.columns) > 12 else ""  # noqa: PLR2004 - a readable list
            )
            raise ColumnError(f"data file {path} has no column {name!r}; it has {have}")


def _by_schema(values: pd.Series, name: str, path: Path, column: Column) -> NDArray[np.float32]:
    """Return a column's features as its schema says: value or levels, and a flag if missing."""
    absent = values.isna().to_numpy()
    if absent.any() and not column.missing:
        raise ColumnError(
            f"column {name!r} of {path} has {absent.sum()} empty cells, and the schema allows none"
        )
    if column.levels is not None:
        parts = [(values == level).to_numpy() for level in column.levels]
        strange = ~np.any(parts, axis=0) & ~absent
        if strange.any():
            raise ColumnError(
                f"column {name!r} of {path} holds {values[strange].iloc[0]!r}, "
                f"which is not among the schema's levels"
            )
        features = _levels(parts, absent)
    else:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
        if (np.isnan(numbers) & ~absent).any() or np.isinf(numbers).any():
            raise ColumnError(f"column {name!r} of {path} holds something that is not a number")
        centre, scale = column.centre or 0.0, column.scale or 1.0  # both are there: the schema says
        features = [np.clip((numbers - centre) / scale, -6, 6)]
    flags = [absent] if column.missing else []
    return np.stack([*features, *flags], axis=1).astype(np.float32)


def _by_looks(values: pd.Series, name: str, path: Path) -> tuple[NDArray[np.float32], Column]:
    """Return a column's features, numbers as they stand, and what it is."""
    absent = values.isna().to_numpy()
    if absent.all():
        raise ColumnError(f"column {name!r} of {path} is empty; leave it out with --drop {name!r}")
    flags = [absent] if absent.any() else []
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(numbers).any():
            raise ColumnError(f"column {name!r} of {path} holds infinite numbers; mend them")
        column = Column(centre=0, scale=1, missing=bool(flags))
        return np.stack([numbers, *flags], axis=1).astype(np.float32), column
    levels = sorted(map(str, values.dropna().unique()))
    dates = all(DATE.fullmatch(level) for level in levels)
    if dates or pd.api.types.is_datetime64_any_dtype(values) or len(levels) > MAX_LEVELS:
        raise ColumnError(
            f"column {name!r} of {path} holds dates, free text or identifiers ({len(levels)} "
            f"different values), which cannot be turned into numbers; leave it out with "
            f"--drop {name!r}"
        )
    text = values.astype(str).to_numpy()
    parts = [(text == level) & ~absent for level in levels]
    features = _levels(parts, absent)
    column = Column(levels=tuple(levels), missing=bool(flags))
    return np.stack([*features, *flags], axis=1).astype(np.float32), column


def _levels(parts: list[NDArray[np.bool_]], absent: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return one feature for each level; of two, one feature: -1, 1, and 0 where missing."""
    if len(parts) > 2:  # noqa: PLR2004 - one feature tells two levels apart
        return [part.astype(np.float64) for part in parts]
    return [np.where(absent, 0.0, 2.0 * parts[-1] - 1)]


def _labels(
    frame: pd.DataFrame, path: Path, roles: Roles, classes: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return classes 0 to C-1 and their names."""
    label = frame[roles.label]
    if label.isna().any():
        raise LabelError(
            f"label {roles.label!r} of {path} is empty in {int(label.isna().sum())} rows; "
            f"remove those rows or fill them"
        )
    found = sorted(label.unique())
    if len(found) < 2:  # noqa: PLR2004 - nothing to tell apart
        raise LabelError(f"label {roles.label!r} of {path} is {found[0]!r} in every row")
    fractions = pd.api.types.is_float_dtype(label) and bool((label % 1 != 0).any())
    if fractions or len(found) > MAX_CLASSES:
        raise LabelError(
            f"label {roles.label!r} of {path} has {len(found)} different values and looks like a "
            f"measurement; the pilot needs two or a few classes"
        )
    if classes is None:
        codes = {value: k for k, value in enumerate(found)}
        names = tuple(str(v) for v in found)
    else:
        codes = {k: k for k in range(len(classes))}
        names = classes
        if not set(found) <= set(codes):
            raise LabelError(
                f"label {roles.label!r} of {path} holds {found}, and the schema names "
                f"{len(classes)} classes, coded 0 to {len(classes) - 1}"
            )
    return label.map(codes).to_numpy(dtype=np.int64), names


def _groups(frame: pd.DataFrame, schema: Schema) -> dict[str, NDArray[np.str_]]:
    """Return the subgroups that safety is looked at by: sex and age band."""
    groups: dict[str, NDArray[np.str_]] = {}
    if schema.sex is not None:
        column = schema.columns[schema.sex]
        levels = column.levels or ()
        names = dict(zip(levels, column.names or tuple(map(str, levels)), strict=True))
        groups["sex"] = frame[schema.sex].map(names).fillna("unknown").to_numpy(dtype=np.str_)
    if schema.age is not None:
        labels = [f"under {AGE_BANDS[1]}", f"{AGE_BANDS[1]} to {AGE_BANDS[2] - 1}"]
        labels += [f"{AGE_BANDS[2]} and over"]
        bands = pd.cut(frame[schema.age], AGE_BANDS, right=False, labels=labels)
        groups["age"] = bands.astype(object).fillna("unknown").to_numpy(dtype=np.str_)
    return groups


def _sites(
    frame: pd.DataFrame,
    path: Path,
    roles: Roles,
    *,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    groups: dict[str, NDArray[np.str_]],
) -> tuple[SiteRows, ...]:
    """Divide the rows among their sites, in the order in which sites appear."""
    site = frame[roles.site]
    if site.isna().any():
        raise ColumnError(
            f"site column {roles.site!r} of {path} is empty in {int(site.isna().sum())} rows; "
            f"fill them or remove those rows"
        )
    name = site.astype(str).to_numpy()
    patient = np.arange(len(frame))
    if roles.patient is not None:
        if frame[roles.patient].isna().any():
            raise ColumnError(f"patient column {roles.patient!r} of {path} has empty cells")
        patient = pd.factorize(frame[roles.patient])[0]
    return tuple(
        SiteRows(
            name=str(one),
            x=x[name == one],
            y=y[name == one],
            patient=np.unique(patient[name == one], return_inverse=True)[1].astype(np.int64),
            subgroups={key: values[name == one] for key, values in groups.items()},
            names_patients=roles.patient is not None,
        )
        for one in pd.unique(name)
    )
