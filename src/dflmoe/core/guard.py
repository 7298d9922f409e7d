"""The guard: never knowingly worse than alone.

It compares the out-of-fold log-loss of two predictors on the same rows, ``d = new - old``, patient
by patient, with a one-sided bound of Student's t. Its error rates on few rows are measured in
``benchmarks/guard.py``: with 20 rows it can only see large differences, and says so.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student
from torch import Tensor


class Bounds(NamedTuple):
    """A mean difference and its one-sided bounds."""

    mean: Float[Tensor, " split"]
    lower: Float[Tensor, " split"]
    upper: Float[Tensor, " split"]


def difference(
    d: Float[Tensor, "split row"],
    counts: Bool[Tensor, "split row"],
    group: Int[Tensor, " row"],
    *,
    confidence: float,
) -> Bounds:
    """Return the mean of ``d`` over patients, with bounds that each hold at ``confidence``.

    Rows of one patient are averaged first, so that a patient with many rows counts once. With
    fewer than two patients the bounds are infinite.

    Args:
        d: Difference of each row.
        counts: Rows that take part.
        group: Patient of each row.
        confidence: One-sided, between 0.5 and 1.
    """
    _, patient = torch.unique(group, return_inverse=True)
    patients = int(patient.max()) + 1
    zeros = torch.zeros(len(d), patients, dtype=d.dtype)
    index = patient[None, :].expand_as(d)
    rows = zeros.scatter_add(1, index, counts.to(d.dtype))
    means = zeros.scatter_add(1, index, torch.where(counts, d, 0)) / rows.clamp(min=1)
    heard = rows > 0
    n = heard.sum(1)
    mean = means.sum(1) / n.clamp(min=1)
    spread = torch.where(heard, (means - mean[:, None]).square(), 0).sum(1)
    error = (spread / (n - 1).clamp(min=1) / n.clamp(min=1)).sqrt()
    quantile = torch.tensor(student.ppf(confidence, (n - 1).clamp(min=1).numpy()), dtype=d.dtype)
    reach = torch.where(n > 1, quantile * error, torch.inf)
    return Bounds(mean, mean - reach, mean + reach)


HEDGED_AT, SERVES_AT = 0.8, 0.9
"""One-sided confidence of benefit at which the hedge serves, and the mixture itself."""


def mixture_is_used(bounds: Bounds, *, vouched: bool) -> Bool[Tensor, " split"]:
    """Decide whether the mixture serves, or the site's own model.

    Args:
        bounds: Of out-of-fold log-loss, mixture minus own.
        vouched: Whether the federation vouches for a common feature space. If so, the mixture is
            used unless there is evidence of harm; if not, only on evidence of benefit.
    """
    return bounds.lower <= 0 if vouched else bounds.upper < 0
