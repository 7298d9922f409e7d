"""What the columns of a table hold: empty cells, ranges, and what looks like an identifier."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from dflmoe.data.findings import Finding, found
from dflmoe.data.looked import PERCENTS, Looked
from dflmoe.data.source import Source
from dflmoe.data.study import MIN_ROWS
from dflmoe.data.tallies import Cell, Part, Table

EMPTY = 0.5
"""Share of empty cells above which a column says little."""


def columns(looked: Looked, source: Source, part: Part) -> None:
    """Say which columns of a table have empty cells, and which may name patients."""
    frame = looked.frame
    if frame is None:
        return
    schema = looked.schema
    patient = source.patient if schema is None else schema.patient
    roles = {source.label, patient, source.site, "site"}
    named = identifiers(frame[[c for c in frame.columns if c not in roles]])
    named = [] if schema is not None else named
    hidden = set() if looked.show_patients else {*named, patient}
    table = of_columns(frame, {str(name) for name in hidden})
    part.tables["columns"] = table
    part.findings.append(missing(table))
    if named:
        part.findings.append(
            found(
                "identifiers",
                f"no two rows have the same in {', '.join(named)}",
                worse="warning",
                fix="an identifier is no feature: leave it out with drop in [data], or name it "
                "with --patient-column",
            )
        )


def missing(table: Table) -> Finding:
    """Return which columns have empty cells, and whether one says little for it."""
    shares = {str(row[0]): float(row[2] or 0) for row in table.rows}
    gaps = {name: share for name, share in shares.items() if share > 0}
    if not gaps:
        return found("missing", f"no cell of {len(shares)} columns is empty")
    most = max(gaps, key=lambda name: gaps[name])
    empty = [name for name, share in gaps.items() if share > EMPTY]
    return found(
        "missing",
        f"{len(gaps)} of {len(shares)} columns have empty cells, most of them {most!r} "
        f"({gaps[most]:.0%})",
        worse="warning" if empty else "ok",
        fix=f"fill {', '.join(empty)}, or leave it out with drop in [data]",
    )


def of_columns(frame: pd.DataFrame, hidden: Collection[str]) -> Table:
    """Return what the columns of a table hold.

    Args:
        frame: The table.
        hidden: Columns of which no value is told, as they name patients.
    """
    lines: list[tuple[Cell, ...]] = []
    for name in frame.columns:
        column = frame[name]
        missing, different = int(column.isna().sum()), int(column.nunique())
        ranges: list[float | None] = [None] * len(PERCENTS)
        number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if number and name not in hidden and different:
            there = column.dropna().to_numpy(dtype=np.float64)
            there = there[np.isfinite(there)]
            if len(there):
                ranges = [float(f"{v:.4g}") for v in np.percentile(there, PERCENTS)]
        lines.append((str(name), missing, round(missing / len(frame), 3), different, *ranges))
    percents = [f"{percent} % lie below" for percent in PERCENTS]
    return Table(
        title="Columns",
        columns=("column", "empty cells", "share", "different values", *percents),
        rows=tuple(lines),
    )


def identifiers(frame: pd.DataFrame) -> list[str]:
    """Return columns that look like identifiers: text or whole numbers, no two the same."""
    return [
        str(name)
        for name in frame.columns
        if len(frame) >= MIN_ROWS
        and frame[name].nunique() == len(frame)
        and not (pd.api.types.is_float_dtype(frame[name]) and bool((frame[name] % 1 != 0).any()))
    ]
