"""How good a site's model is: measured on rows that it did not learn from, with intervals."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.algorithm import Outcome
from dflmoe.core.served import heat
from dflmoe.core.site import SiteData
from dflmoe.metrics.clinical import (
    brier,
    calibration_error,
    threshold_for_sensitivity,
    threshold_for_specificity,
)
from dflmoe.metrics.resampling import auc_samples, interval, patient_weights
from dflmoe.model.told import Judged, Measured, Operating

Floats = NDArray[np.float64]

WANTED = 0.9
"""Sensitivity, and specificity, of the operating points."""

RESAMPLES = 1000


def temperature_of(outcome: Outcome, data: SiteData, split: int = 0) -> float:
    """Return the temperature of what serves, fitted on training rows out of fold.

    Args:
        outcome: Of a round.
        data: The site's rows.
        split: Which split.
    """
    trains = data.crossfit.fold[split] >= 0
    return heat(outcome.served[split], data.y, trains.float())


def judged(
    outcome: Outcome, data: SiteData, temperature: float, *, seed: int, split: int = 0
) -> Judged:
    """Return how good what serves is: on rows set aside, or out of fold where there are none.

    Args:
        outcome: Of a round.
        data: The site's rows.
        temperature: As ``temperature_of`` returns it.
        seed: Of the resamples of patients.
        split: Which split.
    """
    trains = (data.crossfit.fold[split] >= 0).numpy()
    aside = ~trains if (~trains).any() else trains
    y, patient = data.y.numpy(), data.group.numpy()
    probs = _probs(outcome.served[split] / temperature)
    plain, alone = _probs(outcome.served[split]), _probs(outcome.own[split])
    weights = patient_weights(y[aside], patient[aside], RESAMPLES, np.random.default_rng(seed))
    two = probs.shape[1] == 2  # noqa: PLR2004 - one class is looked for
    points: list[Operating] = []
    if two and len(np.unique(y[trains])) > 1:
        found, came = probs[trains, 1], y[trains] == 1
        tested, true = probs[aside, 1], y[aside] == 1
        for name, threshold in (
            (f"{WANTED:.0%} sensitivity", threshold_for_sensitivity(found, came, WANTED)),
            (f"{WANTED:.0%} specificity", threshold_for_specificity(found, came, WANTED)),
        ):
            points.append(_operating(name, threshold, tested, true, weights))
    return Judged(
        on="rows that were set aside" if (~trains).any() else "rows left out in turn",
        rows=int(aside.sum()),
        patients=len(np.unique(patient[aside])),
        metric="AUC" if two else "mean AUC of each class against the rest",
        alone=_auc(alone[aside], y[aside], weights),
        served=_auc(probs[aside], y[aside], weights),
        brier=brier(probs[aside], y[aside]),
        calibration_error=calibration_error(probs[aside, 1], y[aside] == 1) if two else None,
        uncalibrated_error=calibration_error(plain[aside, 1], y[aside] == 1) if two else None,
        points=tuple(points),
        gain=_gain(probs[aside], alone[aside], y[aside], weights),
        fewest=int(np.bincount(y[aside], minlength=probs.shape[1]).min()),
    )


def _probs(log_probs: Tensor) -> Floats:
    found: Floats = torch.softmax(log_probs.double(), dim=-1).numpy()
    return found


def _auc(probs: Floats, y: NDArray[np.int64], weights: Floats) -> Measured:
    if len(np.unique(y)) < 2:  # noqa: PLR2004 - nothing to tell apart
        return Measured(value=None)
    return _measured(auc_samples(probs[None], y, weights))


def _gain(served: Floats, alone: Floats, y: NDArray[np.int64], weights: Floats) -> Measured | None:
    """Return what serving gains over alone, in the same resamples of patients."""
    if len(np.unique(y)) < 2:  # noqa: PLR2004 - nothing to tell apart
        return None
    return _measured(auc_samples(served[None], y, weights) - auc_samples(alone[None], y, weights))


def _measured(samples: Floats) -> Measured:
    found = interval(samples)
    value, low, high = (
        None if np.isnan(v) else float(v) for v in (found.value, found.low, found.high)
    )
    return Measured(value=value, low=low, high=high)


def _operating(
    name: str, threshold: float, probs: Floats, positive: NDArray[np.bool_], weights: Floats
) -> Operating:
    """Return what a threshold does to some rows."""
    called = probs >= threshold

    def rate(right: NDArray[np.bool_], of: NDArray[np.bool_]) -> Measured:
        if not of.any():
            return Measured(value=None)
        total = weights @ of
        with np.errstate(invalid="ignore"):
            return _measured((weights @ (right & of)) / np.where(total > 0, total, np.nan))

    return Operating(
        name=name,
        threshold=threshold,
        sensitivity=rate(called, positive),
        specificity=rate(~called, ~positive),
    )
