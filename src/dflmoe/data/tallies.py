"""The tables of a check: counts, sizes, ranges and columns, and lists of rows to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.findings import Finding
from dflmoe.data.looked import PERCENTS, Looked
from dflmoe.data.splits import Splits
from dflmoe.data.study import SiteRows
from dflmoe.wire.manifest import Document

FAR = 6.0
"""Spreads from the middle beyond which a row is unlike the others."""

LEAST_SPREAD = 0.05
"""Of the usual range of a row: no spread is taken for less."""


Cell = str | int | float | None


class Table(Document):
    """A table of a check.

    Attributes:
        title: For people.
        columns: Their names.
        rows: Of each as many cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass
class Part:
    """What has been found so far.

    Attributes:
        findings: In order.
        tables: By what they tell of.
        look_at: Numbers of rows to be shown as pictures, by what they show.
    """

    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    look_at: dict[str, Sequence[int]] = field(default_factory=dict)


def of_classes(rows: SiteRows, classes: Sequence[str], splits: Splits | None) -> Table:
    """Return how many rows of each class there are, are learnt from, and are set aside."""
    columns = ["class", "rows", "patients"]
    parts: list[NDArray[np.bool_]] = [np.ones(len(rows.y), bool)]
    if splits is not None:
        columns += ["learnt from", "set aside"]
        parts += [(splits.crossfit.fold[0] >= 0).numpy(), splits.test[0].numpy()]
    lines: list[tuple[Cell, ...]] = []
    for k, name in enumerate(classes):
        counts = [int(((rows.y == k) & part).sum()) for part in parts]
        people = len(np.unique(rows.patient[rows.y == k]))
        lines.append((name, counts[0], people, *counts[1:]))
    return Table(title="Rows of each class", columns=tuple(columns), rows=tuple(lines))


def of_sizes(sizes: Mapping[tuple[int, ...], int]) -> Table:
    """Return how many rows there are of each size, before they are brought to one."""
    lines = [
        (" x ".join(map(str, shape[1:])), shape[0], count)
        for shape, count in sorted(sizes.items(), key=lambda one: -one[1])
    ]
    return Table(
        title="Sizes before they are brought to one",
        columns=("size", "channels", "rows"),
        rows=tuple(lines),
    )


def of_ranges(percentiles: NDArray[np.float64]) -> Table:
    """Return what values rows hold, in their own units: of each percentile the rows' range."""
    lines: list[tuple[Cell, ...]] = [
        (f"{percent} % of a row lies below", *(float(f"{v:.4g}") for v in values))
        for percent, values in zip(
            PERCENTS, np.percentile(percentiles, (0, 50, 100), axis=0).T, strict=True
        )
    ]
    return Table(
        title="Values of the rows, in their own units",
        columns=("of one row", "lowest", "usual", "highest"),
        rows=tuple(lines),
    )


def unlike(percentiles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows whose values lie far from those of most rows.

    Far is six times the median distance from the median (scaled as a standard deviation), of any
    percentile; the distance is taken for at least a twentieth of the usual range of one row, so
    that rows that agree to the digit do not make others strange.
    """
    middle = np.median(percentiles, axis=0)
    spread = 1.4826 * np.median(np.abs(percentiles - middle), axis=0)
    least = LEAST_SPREAD * max(middle[-1] - middle[0], 1e-12)
    return np.flatnonzero((np.abs(percentiles - middle) > FAR * np.maximum(spread, least)).any(1))


def of_rows(
    title: str,
    looked: Looked,
    numbers: Sequence[int],
    more: Mapping[str, Sequence[Cell]],
) -> Table:
    """Return rows by name, with their class and what else is known of them.

    Args:
        title: For people.
        looked: All rows.
        numbers: Those to list.
        more: Columns beside, one cell for each that is listed.
    """
    columns: dict[str, Sequence[Cell]] = {
        "row": [looked.names[k] for k in numbers],
    }
    if looked.rows is not None and looked.classes:
        columns["class"] = [looked.classes[int(looked.rows.y[k])] for k in numbers]
    if looked.show_patients and looked.people:
        columns["patient"] = [looked.people[k] for k in numbers]
    columns.update(more)
    return Table(
        title=title, columns=tuple(columns), rows=tuple(zip(*columns.values(), strict=True))
    )
