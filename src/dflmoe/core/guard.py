"""The guard: never knowingly worse than alone.

It compares the out-of-fold log-loss of two predictors on the same rows, ``d = new - old``, patient
by patient, with a one-sided bound of Student's t. Its error rates on few rows are measured in
``benchmarks/guard.py``: with 20 rows it can only see large differences, and says so.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor

from dflmoe.core.algorithm import out_of_fold_losses
from dflmoe.core.dials import Dials
from dflmoe.core.mixture import Pool
from dflmoe.core.site import SiteData
from dflmoe.core.task import Task, log_halves


class Serving(NamedTuple):
    """What a site would use.

    Attributes:
        said: Its predictions.
        used: Whether borrowed heads have a part in it.
        whole: Whether it is the mixture itself, and not the mean of it and of the own model.
    """

    said: Float[Tensor, "split row class ..."]
    used: Bool[Tensor, " split"]
    whole: Bool[Tensor, " split"]


class Bounds(NamedTuple):
    """A mean difference and its one-sided bounds."""

    mean: Float[Tensor, " split"]
    lower: Float[Tensor, " split"]
    upper: Float[Tensor, " split"]


def by_patient(
    values: Float[Tensor, "split row"], group: Int[Tensor, " row"]
) -> Float[Tensor, "split patient"]:
    """Return the sum over the rows of each patient.

    Args:
        values: Of each row.
        group: Patient of each row.
    """
    _, patient = torch.unique(group, return_inverse=True)
    zeros = torch.zeros(len(values), int(patient.max()) + 1, dtype=values.dtype)
    return zeros.scatter_add(1, patient[None, :].expand_as(values), values)


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
    rows = by_patient(counts.to(d.dtype), group)
    means = by_patient(torch.where(counts, d, 0), group) / rows.clamp(min=1)
    heard = rows > 0
    n = heard.sum(1)
    mean = means.sum(1) / n.clamp(min=1)
    spread = torch.where(heard, (means - mean[:, None]).square(), 0).sum(1)
    error = (spread / (n - 1).clamp(min=1) / n.clamp(min=1)).sqrt()
    degrees = (n - 1).clamp(min=1).cpu().numpy()
    quantile = torch.tensor(stdtrit(degrees, np.asarray(confidence)), dtype=d.dtype)
    reach = torch.where(n > 1, quantile * error, torch.inf)
    return Bounds(mean, mean - reach, mean + reach)


HEDGED_AT, SERVES_AT = 0.8, 0.9
"""One-sided confidence of benefit at which the hedge serves, and the mixture itself."""

HARMS_AT, CLASS_PATIENTS = 0.95, 10
"""One-sided confidence of harm to any class, all that are judged taken together (Bonferroni), and
how many patients must have a class for it to be judged."""


def mixture_is_used(bounds: Bounds, *, vouched: bool) -> Bool[Tensor, " split"]:
    """Decide whether the mixture serves, or the site's own model.

    Args:
        bounds: Of out-of-fold log-loss, mixture minus own.
        vouched: Whether the federation vouches for a common feature space. If so, the mixture is
            used unless there is evidence of harm; if not, only on evidence of benefit.
    """
    return bounds.lower <= 0 if vouched else bounds.upper < 0


def harms_a_class(worse: Float[Tensor, "split row"], data: SiteData) -> Bool[Tensor, " split"]:
    """Return whether a class of enough patients is shown to be harmed, by training rows alone.

    Args:
        worse: By how much the loss of each row is worse, out of fold.
        data: The site's rows; masks and images have no class of a row.
    """
    if data.y.dim() > 1:
        return torch.zeros(len(worse), dtype=torch.bool)
    trains = data.crossfit.fold >= 0
    classes = [trains & (data.y == one) for one in data.y.unique()]
    patients = [(by_patient(rows.float(), data.group) > 0).sum(1) for rows in classes]
    judged = torch.stack(patients) >= CLASS_PATIENTS
    level = 1 - (1 - HARMS_AT) / judged.sum(0).clamp(min=1)
    bounds = [difference(worse, rows, data.group, confidence=level) for rows in classes]
    return (judged & (torch.stack([b.lower for b in bounds]) > 0)).any(0)


def what_serves(
    own: Float[Tensor, "split row class ..."],
    mixture: Float[Tensor, "split row class ..."],
    data: SiteData,
    dials: Dials,
) -> Serving:
    """Return what the site would use.

    A hedge asks for evidence of benefit in the loss, which sees much in few rows. It also asks that
    the score that people judge by is not below the own model's, as a loss can fall by mere caution,
    and that no class is shown to be harmed, as a loss can fall by what helps a frequent one.

    Args:
        own: Of the own model.
        mixture: Of own and borrowed heads.
        data: The site's rows.
        dials: Whether there is a guard, whether it hedges, and how sure it must be.
    """
    if not dials.guard:
        every = torch.ones(len(own), dtype=torch.bool)
        return Serving(mixture, every, every)
    own_losses = out_of_fold_losses(own, data)

    def worse(said: Tensor) -> Float[Tensor, "split row"]:
        return out_of_fold_losses(said, data) - own_losses

    def bounds(d: Float[Tensor, "split row"], confidence: float) -> Bounds:
        return difference(d, data.crossfit.fold >= 0, data.group, confidence=confidence)

    def where(used: Bool[Tensor, " split"], said: Tensor, other: Tensor) -> Tensor:
        return torch.where(used.view(-1, *[1] * (own.dim() - 1)), said, other)

    if not dials.hedge:
        used = mixture_is_used(bounds(worse(mixture), dials.confidence), vouched=dials.vouched)
        return Serving(where(used, mixture, own), used, used)

    def score(said: Tensor) -> Float[Tensor, " split"]:
        return data.task.score(said, data.y.expand(len(said), *data.y.shape), data.crossfit.fold)

    own_score = score(own)

    def helps(said: Tensor, confidence: float) -> Bool[Tensor, " split"]:
        d = worse(said)
        benefit = mixture_is_used(bounds(d, confidence), vouched=False)
        return benefit & (score(said) >= own_score) & ~harms_a_class(d, data)

    mean = hedged(own, mixture, data.task, dials.pool)
    serves, hedges = helps(mixture, SERVES_AT), helps(mean, HEDGED_AT)
    said = where(serves, mixture, where(hedges, mean, own))
    return Serving(said, serves | hedges, serves)


def hedged(
    own: Float[Tensor, "split row class ..."],
    mixture: Float[Tensor, "split row class ..."],
    task: Task,
    pool: Pool,
) -> Float[Tensor, "split row class ..."]:
    """Return the mean of the own model and the mixture."""
    pair = torch.stack([own, mixture], dim=2)
    return task.pooled(pair, log_halves(pair), pool)
