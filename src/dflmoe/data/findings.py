"""What can be said of a site's rows without asking anybody: enough, divided well, copied, alike.

The doctor and the check of data say the same, from here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.splits import Splits
from dflmoe.data.study import SiteRows
from dflmoe.errors import SiteError
from dflmoe.wire.manifest import Document, band

Verdict = Literal["ok", "warning", "failed"]


class Finding(Document):
    """What a check found.

    Attributes:
        check: What was looked at.
        verdict: Whether a node can run like that, and well.
        found: In a sentence.
        fix: What to do; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    found: str
    fix: str = ""


def found(check: str, text: str, *, worse: Verdict = "ok", fix: str = "") -> Finding:
    """Return a finding; what is fine needs no fix."""
    return Finding(check=check, verdict=worse, found=text, fix="" if worse == "ok" else fix)


def many(count: int, what: str) -> str:
    """Return a number of things in words that agree with it."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def enough(
    rows: SiteRows, classes: Sequence[str], *, test_folds: int, min_rows: int = 0
) -> Finding:
    """Return whether there are enough rows to learn from, to test on, and to lend a head of.

    Args:
        rows: Of the site.
        classes: Their names.
        test_folds: One of so many parts is set aside.
        min_rows: Fewer rows learnt from lend nothing.
    """
    try:
        rows.checked(tuple(classes))
    except SiteError as error:
        return found("rows", str(error), worse="failed", fix="do as it says")
    counts = np.bincount(rows.y, minlength=len(classes))
    each = ", ".join(f"{n} {c}" for c, n in zip(classes, counts, strict=True))
    people = len(np.unique(rows.patient))
    whole = f"{many(len(rows.y), 'row')} (told as {band(len(rows.y))})"
    text = f"{whole} of {many(people, 'patient')}: {each}"
    if len(rows.y) * (1 - 1 / test_folds) < min_rows:
        return found(
            "rows",
            f"{text}; the charter lets no head of fewer than {min_rows} be lent",
            worse="warning",
            fix="add rows; until then this site borrows and lends nothing",
        )
    return found("rows", text)


def divided(rows: SiteRows, classes: Sequence[str], splits: Splits) -> Finding:
    """Return whether every class is both learnt and tested, in the one split of a node."""
    learnt, tested = (splits.crossfit.fold[0] >= 0).numpy(), splits.test[0].numpy()
    text = f"{learnt.sum()} rows are learnt from and {tested.sum()} set aside, by patient"
    lacking = [
        f"no {name} {where}"
        for where, part in (("is learnt from", learnt), ("is set aside", tested))
        for name, n in zip(classes, np.bincount(rows.y[part], minlength=len(classes)), strict=True)
        if n == 0 and (rows.y == classes.index(name)).any()
    ]
    if not lacking:
        return found("split", text)
    one = len(np.unique(rows.y[learnt])) < 2 or not tested.any()  # noqa: PLR2004 - two classes
    return found(
        "split",
        f"{text}; {', '.join(lacking)}",
        worse="failed" if one else "warning",
        fix="add patients of that class, or change test_folds in [data]",
    )


def patients(rows: SiteRows, splits: Splits | None, *, named: bool) -> Finding:
    """Return whether patients are known, and none is both learnt from and tested on.

    Args:
        rows: Of the site.
        splits: The one split of a node; none where rows cannot be divided.
        named: Whether anything names the patients.
    """
    if not named:
        return found(
            "patients",
            "nothing names the patients, so each row is taken for one",
            worse="warning",
            fix="name their column with --patient-column or patient in [data]; two rows of one "
            "patient, one learnt from and one tested on, look like skill",
        )
    sizes = np.unique(rows.patient, return_counts=True)[1]
    text = f"{many(len(sizes), 'patient')}, {(sizes > 1).sum()} of them with several rows"
    if splits is None:
        return found("patients", text)
    learnt, tested = (splits.crossfit.fold[0] >= 0).numpy(), splits.test[0].numpy()
    both = np.intersect1d(rows.patient[learnt], rows.patient[tested])
    if len(both):
        return found(
            "patients",
            f"{text}; {len(both)} are both learnt from and tested on",
            worse="failed",
            fix="this must not be: report it, and do not trust the results",
        )
    return found("patients", f"{text}; none is both learnt from and set aside")


def copies(keys: Sequence[bytes]) -> NDArray[np.int64]:
    """Return the group of each row: rows of the same values share one."""
    return np.unique(np.array(keys, dtype=object), return_inverse=True)[1].astype(np.int64)


def across(group: NDArray[np.int64], patient: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are in a group with a row of another patient."""
    pairs = np.unique(np.stack([group, patient]), axis=1)
    people = np.bincount(pairs[0])
    return np.asarray(people[group] > 1)


def duplicates(rows: SiteRows, keys: Sequence[bytes] | None = None) -> Finding:
    """Return how many rows are the same, value by value, as a row of another patient.

    Args:
        rows: Of the site.
        keys: Of each, the same for the same values; made from what is there if not given.
    """
    group = copies([x.tobytes() for x in rows.seen] if keys is None else keys)
    twins = across(group, rows.patient)
    text = f"{twins.sum()} rows are the same as a row of another patient"
    pairs = np.unique(np.stack([group, rows.y]), axis=1)
    torn = int((np.bincount(pairs[0])[group] > 1).sum())
    if torn:
        text += f"; {torn} rows are the same as a row of another class"
    within = len(group) - np.unique(np.stack([group, rows.patient]), axis=1).shape[1]
    if within:
        text += f"; {within} repeat a row of their patient"
    return found(
        "duplicates",
        text,
        worse="warning" if twins.any() or torn else "ok",
        fix="remove copies, or name their patient once; a copy can be trained and tested on",
    )


def features(rows: SiteRows) -> Finding:
    """Return how much of what a row holds tells rows apart."""
    flat = rows.seen.reshape(len(rows.x), -1)
    constant = int((flat == flat[:1]).all(0).sum())
    if constant == flat.shape[1]:
        return found("features", "all rows are the same", worse="failed", fix="export again")
    missing, numbers = float(np.isnan(flat).mean()), many(flat.shape[1], "number")
    return found("features", f"{numbers} a row, {constant} of them constant, {missing:.0%} missing")
