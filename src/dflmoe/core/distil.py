"""Distilling: public rows, with the peers' opinion of them, beside a site's own rows."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dflmoe.core.site import EVERY, CrossFit, SiteData
from dflmoe.core.task import Task


def is_distribution(opinion: Float[Tensor, "split anchor class ..."]) -> bool:
    """Return whether an opinion gives probabilities of the classes of every anchor."""
    total = opinion.sum(2)
    return bool((opinion >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-3))


def opinion_of(raw: Float[Tensor, "model anchor class ..."], task: Task) -> Tensor:
    """Return what the outputs of a head say: probabilities of classes, or images as they are."""
    said = task.said(raw, 2)
    likely = said.exp()
    return likely if is_distribution(likely) else said


def with_opinion(
    data: SiteData, opinion: Float[Tensor, "anchor class ..."], classes: int, weight: float
) -> SiteData:
    """Return a site's rows and, as if it were rows of its own, the anchors with an opinion of them.

    Args:
        data: The site's rows, in one split.
        opinion: Probabilities of the anchors' classes, or their images.
        classes: Number of classes, or channels.
        weight: Of all anchors together, against all training rows.
    """
    anchors, folds = data.anchors, data.crossfit
    if anchors is None or folds.splits != 1:
        raise ValueError("to distil, a site needs anchors and has one split")
    count = len(anchors)
    each = weight * float((folds.fold >= 0).sum()) / count
    own = torch.ones(folds.fold.shape) if data.times is None else data.times.float()
    y = data.y
    if not y.is_floating_point():
        y = F.one_hot(y, classes).movedim(-1, 1).float()
    return replace(
        data,
        x=torch.cat([data.x, anchors[None]], dim=1),
        y=torch.cat([y, opinion]),
        crossfit=CrossFit(torch.cat([folds.fold, torch.full((1, count), EVERY)], dim=1)),
        group=torch.cat([data.group, data.group.max() + 1 + torch.arange(count)]),
        times=torch.cat([own, torch.full((1, count), each)], dim=1),
        alone=None,
    )
