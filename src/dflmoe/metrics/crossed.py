"""Intervals over patients and seeds at once.

A seed deals rows to sites and divides them anew, so the same patient is tested under several seeds,
and a seed tests many patients: two crossed sources of chance. Both are resampled, independently,
and a score gets the product of their weights: the pigeonhole bootstrap, which is somewhat wide
rather than too narrow (Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 2007). All
methods see the same resamples, so differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = Mapping[int, tuple[float, int]]
"""Sum of a score over the rows of each patient, and their number."""


@dataclass(frozen=True)
class Resamples:
    """How often each patient and each seed counts in each resample; the first is the data itself.

    Attributes:
        column: Of each patient.
        patients: ``[resample, patient]``.
        seeds: ``[resample, seed]``.
    """

    column: Mapping[int, int]
    patients: Floats
    seeds: Floats


def resamples(
    patients: Sequence[int], seeds: int, count: int, rng: np.random.Generator
) -> Resamples:
    """Draw patients and seeds with replacement, ``count`` times.

    With one seed only patients are drawn.
    """

    def drawn(things: int) -> Floats:
        even = np.full(things, 1 / things)
        weights = rng.multinomial(things, even, size=count).astype(float)
        return np.concatenate([np.ones((1, things)), weights])

    column = {patient: k for k, patient in enumerate(sorted(set(patients)))}
    by_patient = drawn(len(column))
    return Resamples(column, by_patient, drawn(seeds) if seeds > 1 else np.ones((1 + count, 1)))


def site_samples(groups: Groups, draws: Resamples) -> Floats:
    """Return the mean score of a site in each resample; NaN where it has no patient left."""
    columns = [draws.column[patient] for patient in groups]
    sums, counts = np.array(list(groups.values()), dtype=float).T
    weights = draws.patients[:, columns]
    rows = weights @ counts
    means: Floats = np.divide(weights @ sums, rows, out=np.full(len(rows), np.nan), where=rows > 0)
    return means


def score_samples(by_seed: Sequence[Sequence[Groups]], draws: Resamples) -> Floats:
    """Return the score in each resample: the mean over seeds of the mean over sites.

    Args:
        by_seed: For each seed, the patients of each site.
        draws: The resamples.
    """
    scores = np.stack(
        [np.stack([site_samples(site, draws) for site in sites]) for sites in by_seed]
    )
    there = ~np.isnan(scores)
    sites = np.where(there, scores, 0).sum(1) / np.maximum(there.sum(1), 1)
    weight = draws.seeds.T * there.any(1)
    total = weight.sum(0)
    means: Floats = np.divide(
        (sites * weight).sum(0), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return means
