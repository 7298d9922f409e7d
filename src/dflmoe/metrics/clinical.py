"""What a clinician asks of probabilities: an operating point, and whether they can be believed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def threshold_for_sensitivity(scores: Floats, positive: NDArray[np.bool_], wanted: float) -> float:
    """Return the highest threshold at which at least ``wanted`` of the positives are found.

    Args:
        scores: Of rows that the threshold will not be tested on.
        positive: Whether a row is of the class looked for.
        wanted: Sensitivity, above 0 and at most 1.
    """
    found = np.sort(scores[positive])[::-1]
    return float(found[int(np.ceil(wanted * len(found))) - 1])


def threshold_for_specificity(scores: Floats, positive: NDArray[np.bool_], wanted: float) -> float:
    """Return the lowest threshold at which at least ``wanted`` of the others are not called.

    Args:
        scores: Of rows that the threshold will not be tested on.
        positive: Whether a row is of the class looked for.
        wanted: Specificity, above 0 and at most 1.
    """
    others = np.sort(scores[~positive])
    highest = others[int(np.ceil(wanted * len(others))) - 1]
    return float(np.nextafter(highest, np.inf))


class Reliability(NamedTuple):
    """Said and seen frequencies in bins of the probability said."""

    said: list[float]
    seen: list[float]
    rows: list[int]


def reliability(probs: Floats, positive: NDArray[np.bool_], bins: int = 10) -> Reliability:
    """Return a reliability curve over bins of equal numbers of rows; small bins are merged."""
    order = np.argsort(probs, kind="stable")
    parts = np.array_split(order, min(bins, max(1, len(order) // 10)))
    return Reliability(
        [float(probs[part].mean()) for part in parts],
        [float(positive[part].mean()) for part in parts],
        [len(part) for part in parts],
    )


def calibration_error(probs: Floats, positive: NDArray[np.bool_], bins: int = 10) -> float:
    """Return the gap between said and seen, averaged over rows (binned as ``reliability``)."""
    said, seen, rows = reliability(probs, positive, bins)
    gaps = np.abs(np.array(said) - np.array(seen))
    return float(np.average(gaps, weights=rows))


def brier(probs: Floats, y: NDArray[np.int64]) -> float:
    """Return the mean squared distance of the probabilities from what came true, 0 to 2."""
    came = np.eye(probs.shape[1])[y]
    return float(((probs - came) ** 2).sum(1).mean())
