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

from dflmoe.core.algorithm import out_of_fold_losses
from dflmoe.core.dials import Dials
from dflmoe.core.site import SiteData
from dflmoe.core.task import log_halves


class Bounds(NamedTuple):
    """A mean difference, its one-sided bounds, and from how many patients."""

    mean: Float[Tensor, " split"]
    lower: Float[Tensor, " split"]
    upper: Float[Tensor, " split"]
    patients: Int[Tensor, " split"]


def difference(
    d: Float[Tensor, "split row"],
    counts: Bool[Tensor, "split row"],
    group: Int[Tensor, " row"],
    *,
    confidence: float | Float[Tensor, " split"],
) -> Bounds:
    """Return the mean of ``d`` over patients, with bounds that each hold at ``confidence``.

    Rows of one patient are averaged first, so that a patient with many rows counts once. With
    fewer than two patients the bounds are infinite.

    Args:
        d: Difference of each row.
        counts: Rows that take part.
        group: Patient of each row.
        confidence: One-sided, between 0.5 and 1; of each split, where they differ.
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
    level = torch.as_tensor(confidence).numpy()
    quantile = torch.tensor(student.ppf(level, (n - 1).clamp(min=1).numpy()), dtype=d.dtype)
    reach = torch.where(n > 1, quantile * error, torch.inf)
    return Bounds(mean, mean - reach, mean + reach, n)


HEDGED_AT, SERVES_AT = 0.8, 0.9
"""One-sided confidence of benefit at which the hedge serves, and the mixture itself."""

HARMS_AT, CLASS_PATIENTS = 0.95, 10
"""One-sided confidence of harm to any class, all that are judged taken together (Bonferroni), and
how many patients must have a class for it to be judged; masks and images have no class of a row."""


def mixture_is_used(bounds: Bounds, *, vouched: bool) -> Bool[Tensor, " split"]:
    """Decide whether the mixture serves, or the site's own model.

    Args:
        bounds: Of out-of-fold log-loss, mixture minus own.
        vouched: Whether the federation vouches for a common feature space. If so, the mixture is
            used unless there is evidence of harm; if not, only on evidence of benefit.
    """
    return bounds.lower <= 0 if vouched else bounds.upper < 0


def what_serves(
    own: Float[Tensor, "split row class ..."],
    mixture: Float[Tensor, "split row class ..."],
    data: SiteData,
    dials: Dials,
) -> tuple[Float[Tensor, "split row class ..."], Bool[Tensor, " split"]]:
    """Return what the site would use, and whether borrowed heads have a part in it.

    A hedge asks for evidence of benefit in the loss, which sees much in few rows. It also asks that
    the score that people judge by is not below the own model's, as a loss can fall by mere caution,
    and that no class is shown to be harmed, as a loss can fall by what helps a frequent one.

    Args:
        own: Of the own model.
        mixture: Of own and borrowed heads.
        data: The site's rows.
        dials: Whether there is a guard, whether it hedges, and how sure it must be.
    """
    own_losses = out_of_fold_losses(own, data)

    trains = data.crossfit.fold >= 0

    def against_own(
        said: Tensor, confidence: float | Tensor, rows: Bool[Tensor, "split row"] = trains
    ) -> Bounds:
        worse = out_of_fold_losses(said, data) - own_losses
        return difference(worse, rows, data.group, confidence=confidence)

    def harms_a_class(said: Tensor) -> Bool[Tensor, " split"]:
        if data.y.dim() > 1:
            return torch.zeros(len(said), dtype=torch.bool)
        classes = [trains & (data.y == one) for one in data.y.unique()]
        count = torch.stack([against_own(said, HARMS_AT, rows).patients for rows in classes])
        judged = count >= CLASS_PATIENTS
        level = 1 - (1 - HARMS_AT) / judged.sum(0).clamp(min=1)
        lower = torch.stack([against_own(said, level, rows).lower for rows in classes])
        return (judged & (lower > 0)).any(0)

    def score(said: Tensor) -> Float[Tensor, " split"]:
        y = data.y.expand(len(said), *data.y.shape)
        return data.task.score(said, y, data.crossfit.fold)

    def helps(said: Tensor, confidence: float) -> Bool[Tensor, " split"]:
        benefit = mixture_is_used(against_own(said, confidence), vouched=False)
        return benefit & (score(said) >= score(own)) & ~harms_a_class(said)

    def where(used: Bool[Tensor, " split"], said: Tensor, other: Tensor) -> Tensor:
        return torch.where(used.view(-1, *[1] * (own.dim() - 1)), said, other)

    if not dials.guard:
        return mixture, torch.ones(len(own), dtype=torch.bool)
    if not dials.hedge:
        used = mixture_is_used(against_own(mixture, dials.confidence), vouched=dials.vouched)
        return where(used, mixture, own), used
    pair = torch.stack([own, mixture], dim=2)
    mean = data.task.pooled(pair, log_halves(pair), dials.pool)
    serves = helps(mixture, SERVES_AT)
    hedges = helps(mean, HEDGED_AT)
    return where(serves, mixture, where(hedges, mean, own)), serves | hedges
