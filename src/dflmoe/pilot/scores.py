"""Every arm's score at every site, over resamples of patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.data.study import SiteRows, Study
from dflmoe.metrics.resampling import Interval, auc_samples, patient_weights
from dflmoe.pilot.arms import ARMS, Repeat
from dflmoe.pilot.plan import Options
from dflmoe.report.schema import Value
from dflmoe.types import SiteId, generator

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One site's scores of every arm over patient resamples; the first is the real one."""

    site: SiteRows
    weights: Floats
    arms: dict[str, Floats]
    within: dict[str, Floats]
    net_correct: Floats | None


def score(study: Study, options: Options, repeats: Sequence[Repeat]) -> list[Scored]:
    """Score every arm at every site."""
    return [_score_site(study, site, options, repeats) for site in study.sites]


def _score_site(
    study: Study, site: SiteRows, options: Options, repeats: Sequence[Repeat]
) -> Scored:
    rng = generator(options.seed, "patients", site.name)
    seed = int(torch.randint(2**31, (), generator=rng))
    weights = patient_weights(site.y, site.patient, options.resamples, np.random.default_rng(seed))
    split = np.stack([r.split[site.name] for r in repeats])
    arms, within = {}, {}
    for arm in ARMS:
        if all(site.name in r.tested.get(arm, {}) for r in repeats):
            probs = np.stack([r.tested[arm][site.name].probs for r in repeats])
            arms[arm] = auc_samples(probs, site.y, weights)
            within[arm] = auc_samples(probs, site.y, weights, split)
    net = None
    if len(study.classes) == 2:  # noqa: PLR2004 - an operating point
        right = [_right(site, r, "federated") - _right(site, r, "alone") for r in repeats]
        net = 100 * (weights @ np.mean(right, axis=0)) / weights.sum(1)
    return Scored(site, weights, arms, within, net)


def _right(site: SiteRows, repeat: Repeat, arm: str) -> Floats:
    """Return 1 for each row that the operating point decides rightly, else 0."""
    flagged = repeat.tested[arm][site.name].flagged
    right: Floats = (flagged == (site.y == 1)).astype(np.float64)
    return right


def means(found: Sequence[dict[SiteId, float]]) -> dict[SiteId, float]:
    """Return the mean of each over repeats."""
    return {name: float(np.mean([s.get(name, 0.0) for s in found])) for name in found[0]}


def value(i: Interval) -> Value:
    """Return an interval as the report holds it."""
    low, high = (None if math.isnan(v) else v for v in (i.low, i.high))
    return Value(value=i.value, low=low, high=high)
