"""Intervals over patients: resample people, never splits.

Splits overlap, so their scores are not independent and a standard error over them shrinks with
every repeat for no reason. Patients are independent: a resample draws patients within a site and
class, moves all rows and all repeats of a patient together, recomputes each arm's score in every
repeat, and averages over repeats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % percentile interval."""

    value: float
    low: float
    high: float


def interval(samples: Floats) -> Interval:
    """Return the interval of a statistic over resamples; the first sample is the real one."""
    if len(samples) == 1 or np.isnan(samples[1:]).all():
        return Interval(float(samples[0]), float("nan"), float("nan"))
    low, high = np.nanpercentile(samples[1:], [2.5, 97.5])
    return Interval(float(samples[0]), float(low), float(high))


def patient_weights(
    y: NDArray[np.int64], patient: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Floats:
    """Return how often each row counts in each resample, ``[1 + resamples, row]``.

    Patients are drawn with replacement among those of the same class (of the highest class, if
    their rows differ), so that no resample loses a class. The first row is the data itself.
    """
    people = int(patient.max()) + 1
    stratum = np.zeros(people, dtype=np.int64)
    np.maximum.at(stratum, patient, y)
    weights = np.ones((1 + resamples, people))
    for one in np.unique(stratum):
        members = np.flatnonzero(stratum == one)
        even = np.full(len(members), 1 / len(members))
        weights[1:, members] = rng.multinomial(len(members), even, size=resamples)
    return weights[:, patient]


def weighted_auc(
    scores: Floats, positive: NDArray[np.bool_], weights: Floats
) -> tuple[Floats, Floats]:
    """Return concordant and all pairs of a positive and another row, for each resample.

    Their ratio is the area under the ROC curve; ties count half. Counting pairs, rather than
    calling a library once a resample, makes thousands of resamples a few array operations.

    Args:
        scores: Of each row.
        positive: Whether a row is of the class looked for.
        weights: ``[resample, row]``.
    """
    order = np.argsort(scores, kind="stable")
    ranked, weights, positive = scores[order], weights[:, order], positive[order]
    below = np.cumsum(weights * ~positive, axis=1)
    below = np.concatenate([np.zeros((len(weights), 1)), below], axis=1)
    first = np.searchsorted(ranked, ranked[positive], side="left")
    last = np.searchsorted(ranked, ranked[positive], side="right")
    found = weights[:, positive]
    concordant = (found * (below[:, first] + below[:, last]) / 2).sum(1)
    return concordant, found.sum(1) * below[:, -1]


def auc_within(
    scores: Floats, positive: NDArray[np.bool_], weights: Floats, part: NDArray[np.int64]
) -> Floats:
    """Return the AUC of each resample, comparing only rows of the same part.

    Args:
        scores: Of each row.
        positive: Whether a row is of the class looked for.
        weights: ``[resample, row]``.
        part: Of each row; rows of different parts were scored by different models.

    Returns:
        ``[resample]``; NaN where no pair can be compared.
    """
    pairs = [
        weighted_auc(scores[part == k], positive[part == k], weights[:, part == k])
        for k in np.unique(part)
    ]
    concordant, total = (np.sum(v, axis=0) for v in zip(*pairs, strict=True))
    area: Floats = np.divide(concordant, total, out=np.full_like(total, np.nan), where=total > 0)
    return area


def auc_samples(
    probs: Floats,
    y: NDArray[np.int64],
    weights: Floats,
    split: NDArray[np.int64] | None = None,
) -> Floats:
    """Return the AUC of each resample; with more than two classes, the mean over one-vs-rest.

    Args:
        probs: ``[repeat, row, class]``.
        y: Classes.
        weights: ``[resample, row]``.
        split: ``[repeat, row]``: compare only rows of the same split, that is, rows scored by one
            and the same model. Without it all rows of a repeat are compared.

    Returns:
        ``[resample]``, the mean over repeats; NaN where no pair can be compared.
    """
    classes = np.unique(y)
    looked_for = classes[1:] if len(classes) == 2 else classes  # noqa: PLR2004 - one says both
    areas = []
    for label in looked_for:
        positive = y == label
        for repeat, scores in enumerate(probs[:, :, label]):
            parts = np.zeros_like(y) if split is None else split[repeat]
            areas.append(auc_within(scores, positive, weights, parts))
    samples: Floats = np.mean(areas, axis=0)
    return samples
