"""Which heads may take part in a mixture: none that demonstrably harms, and the most useful."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dflmoe.core.algorithm import out_of_fold_losses
from dflmoe.core.calibration import fit_shift, shifted
from dflmoe.core.dials import Dials
from dflmoe.core.guard import difference
from dflmoe.core.site import SiteData
from dflmoe.core.task import log_halves


def admitted(
    tokens: Tensor, data: SiteData, weight: Tensor, own: int, dials: Dials
) -> Bool[Tensor, "model expert"]:
    """Return the experts that may take part.

    With few rows no head is judged harmful, and all are in but for those beyond the most useful.
    """
    folds = data.crossfit
    kept = torch.ones(tokens.shape[0], tokens.shape[2], dtype=torch.bool)
    enough = ((folds.fold >= 0).sum(1) >= dials.quarantine_rows).repeat_interleave(folds.fits)
    judged = dials.guard and bool(enough.any())
    if not judged and dials.experts is None:
        return kept
    losses = in_halves(tokens, data, weight)
    if judged:
        fine = harmless(losses, data, confidence=dials.quarantine_confidence)
        kept = fine | ~enough[:, None]
    if dials.experts is not None:
        kept &= most_useful(losses, data, own, dials.experts)
    kept[:, :own] = True
    return kept


def in_halves(
    tokens: Float[Tensor, "model row expert class ..."],
    data: SiteData,
    weight: Float[Tensor, "model row"],
) -> Float[Tensor, "split row expert"]:
    """Return the out-of-fold loss of every row, each expert mixed with the own head in halves.

    Args:
        tokens: What every expert says, own head first.
        data: The site's rows.
        weight: Weight of each row in each fit.
    """
    folds, task = data.crossfit, data.task
    said = task.said(tokens, 3)
    pairs = [torch.stack([said[:, :, 0], said[:, :, e]], dim=2) for e in range(said.shape[2])]
    halves = torch.stack([task.pooled(p, log_halves(p), "linear") for p in pairs], dim=2)
    if task.calibrates:
        halves = shifted(fit_shift(halves, data.y, weight), halves)
    halves = folds.out_of_fold(halves)
    return torch.stack(
        [out_of_fold_losses(halves[:, :, e], data) for e in range(said.shape[2])], dim=2
    )


def harmless(
    losses: Float[Tensor, "split row expert"], data: SiteData, *, confidence: float
) -> Bool[Tensor, "model expert"]:
    """Return the experts that do not demonstrably harm the own head when mixed with it in halves.

    One poisoned head must cost only itself, so each is looked at alone, out of fold; the guard
    looks at the whole mixture later. An expert found harmful is set aside in all fits of a split.

    Args:
        losses: As ``in_halves`` returns them.
        data: The site's rows.
        confidence: One-sided confidence of the evidence.
    """
    folds = data.crossfit
    keep = [torch.ones(folds.splits, dtype=torch.bool)]
    for expert in range(1, losses.shape[2]):
        worse = losses[:, :, expert] - losses[:, :, 0]
        bounds = difference(worse, folds.fold >= 0, data.group, confidence=confidence)
        keep.append(bounds.lower <= 0)
    return torch.stack(keep, dim=1).repeat_interleave(folds.fits, dim=0)


def most_useful(
    losses: Float[Tensor, "split row expert"], data: SiteData, own: int, count: int
) -> Bool[Tensor, "model expert"]:
    """Return the site's own experts and the peers that do the own head most good in halves.

    Args:
        losses: As ``in_halves`` returns them.
        data: The site's rows.
        own: How many experts are the site's own; they come first.
        count: Peers to keep.
    """
    trains = (data.crossfit.fold >= 0)[:, :, None]
    mean = (losses * trains).sum(1) / trains.sum(1)
    place = mean[:, own:].argsort(1).argsort(1)
    keep = torch.cat([torch.ones(len(mean), own, dtype=torch.bool), place < count], dim=1)
    return keep.repeat_interleave(data.crossfit.fits, dim=0)
