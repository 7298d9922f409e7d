"""Rows that a person should look at: constant, unlike the others, copied, or labelled oddly."""

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.duplicates import near_duplicates
from dflmoe.data.findings import across, copies, duplicates, found, many
from dflmoe.data.hints import contradicted
from dflmoe.data.looked import Looked
from dflmoe.data.study import SiteRows
from dflmoe.data.tallies import Part, Table, of_ranges, of_rows, unlike
from dflmoe.errors import MissingExtraError

MOST_PICTURES = 20_000
"""Near copies are looked for among so many rows at most."""

SHOWN = 12
"""Rows that are shown as pictures at most."""


def strange(looked: Looked, part: Part) -> None:
    """Say which images or recordings are constant, or hold other values than most."""
    if not looked.measured:
        return
    flat = [k for k, one in enumerate(looked.measured) if one.flat]
    part.findings.append(
        found(
            "constant",
            f"{many(len(flat), 'row')} with one value only, as they are learnt from",
            worse=("failed" if len(flat) == len(looked.measured) else "warning") if flat else "ok",
            fix="export them again, or mend range and transforms in [data]",
        )
    )
    if flat:
        title = "Rows that hold one value only"
        part.tables["constant"] = of_rows(title, looked, flat, {})
    percentiles = np.stack([one.percentiles for one in looked.measured])
    part.tables["values"] = of_ranges(percentiles)
    odd = _odd(percentiles, looked)
    part.findings.append(
        found(
            "values",
            f"{many(len(odd), 'row')} with values far from those of most rows and of their class",
            worse="warning" if odd else "ok",
            fix="look at them: another device, other units, or a picture of something else",
        )
    )
    if odd:
        beside = [" to ".join(f"{v:.4g}" for v in percentiles[k][[0, -1]]) for k in odd]
        part.tables["unlike"] = of_rows("Rows unlike the others", looked, odd, {"values": beside})
        part.look_at["Unlike the others"] = odd[:SHOWN]


def _odd(percentiles: NDArray[np.float64], looked: Looked) -> list[int]:
    """Return the rows whose values are far from those of all rows, and of their class."""
    odd = unlike(percentiles)
    if looked.rows is not None and looked.classes:
        y = looked.rows.y
        alike = [np.flatnonzero(y == k) for k in np.unique(y)]
        odd = np.intersect1d(odd, np.concatenate([of[unlike(percentiles[of])] for of in alike]))
    numbers: list[int] = odd.tolist()
    return numbers


def copied(looked: Looked, rows: SiteRows, part: Part) -> None:
    """Say which rows are the same as another, value by value."""
    keys = looked.keys or [x.tobytes() for x in rows.seen]
    part.findings.append(duplicates(rows, keys))
    group = copies(keys)
    alike = np.flatnonzero(np.bincount(group)[group] > 1)
    if len(alike):
        part.tables["copies"] = _grouped("Copies", looked, group, alike)


def near(looked: Looked, rows: SiteRows, part: Part) -> None:
    """Say which images are nearly the same as one of another patient."""
    asked = np.array([k for k, one in enumerate(looked.measured) if not one.flat], dtype=np.int64)
    if looked.kind != "image" or not len(asked):
        return
    if len(asked) > MOST_PICTURES:
        asked = np.sort(np.random.default_rng(0).choice(asked, MOST_PICTURES, replace=False))
    try:
        group, far = _near(looked, rows, asked)
    except MissingExtraError as error:
        part.findings.append(
            found("near copies", "not looked for", worse="warning", fix=str(error))
        )
        return
    whom = "one of another patient" if looked.people else "another"
    part.findings.append(
        found(
            "near copies",
            f"{far.sum()} of {many(len(asked), 'image')} are nearly the same as {whom}",
            worse="warning" if far.any() else "ok",
            fix="look whether they are of one patient; if so, name the patient, so that one is not "
            "learnt from while the other is tested on",
        )
    )
    if far.any():
        part.tables["near"] = _grouped("Nearly copies", looked, group, asked[far])
        part.look_at["Nearly copies"] = _together(group, asked[far])[:SHOWN]


def _near(
    looked: Looked, rows: SiteRows, asked: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the group of each row, and which are near an unlike one of another patient.

    Raises:
        MissingExtraError: The library for it is not installed.
    """
    pictures = np.stack([looked.measured[k].picture for k in asked])
    group = near_duplicates(pictures)
    same = copies([looked.measured[k].key for k in asked])
    unequal = np.unique(np.stack([group, same]), axis=1)[0]
    every = np.full(len(rows.y), -1, dtype=np.int64)
    every[asked] = group
    return every, across(group, rows.patient[asked]) & (np.bincount(unequal)[group] > 1)


def hinted(looked: Looked, rows: SiteRows, part: Part) -> None:
    """Say which labels a simple model contradicts; a hint, and no more."""
    if not looked.classes:
        return
    hints = contradicted(rows)
    if not hints.skilled:
        text = (
            f"a simple model tells the classes apart too badly to say anything "
            f"(balanced accuracy {hints.skill:.0%})"
        )
        part.findings.append(found("label hints", text))
        return
    drawn = f" of {hints.asked} drawn" if hints.asked < len(rows.y) else ""
    part.findings.append(
        found(
            "label hints",
            f"a simple model (balanced accuracy {hints.skill:.0%}) contradicts the labels of "
            f"{many(len(hints.rows), 'row')}{drawn}",
            worse="warning" if len(hints.rows) else "ok",
            fix="look at these: it is a hint where labels may be wrong, and often the model is",
        )
    )
    if len(hints.rows):
        said = {"the model says": [looked.classes[k] for k in hints.said]}
        title = "Labels to look at: a hint, no verdict"
        numbers = hints.rows.tolist()
        table = of_rows(title, looked, numbers, said)
        part.tables["labels"] = table
        part.look_at["Labels to look at"] = numbers[:SHOWN]


def _together(group: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[int]:
    """Return rows with those of one group beside each other."""
    order: list[int] = numbers[np.argsort(group[numbers], kind="stable")].tolist()
    return order


def _grouped(
    title: str,
    looked: Looked,
    group: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> Table:
    """Return rows by group, which are numbered from 1."""
    order = _together(group, numbers)
    count = (np.unique(group[order], return_inverse=True)[1] + 1).tolist()
    return of_rows(title, looked, order, {"group": count})
