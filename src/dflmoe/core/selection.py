"""Which experts, and how much of each: chosen by what they do to the loss, one after the other.

Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004: begin with the expert that
is best alone, then add, with replacement, whichever lowers the loss of the mixture most; the weight
of an expert is how often it was taken. Nothing is fitted but these counts. A head that says nothing
new is not taken at all, where a gate that starts uniform must first unlearn it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dflmoe.core.mixture import Pool
from dflmoe.core.task import Task

TURNS = 15
"""Experts added at most; the mixture at its lowest loss is kept."""


def selected(
    tokens: Float[Tensor, "model row expert class ..."],
    y: Shaped[Tensor, "row ..."],
    weight: Float[Tensor, "model row"],
    available: Bool[Tensor, "model expert"],
    *,
    task: Task,
    pool: Pool,
) -> Float[Tensor, "model expert"]:
    """Return the weights of the experts that were selected; they sum to one.

    Args:
        tokens: What every expert says, of rows that it did not learn from.
        y: What came true.
        weight: Weight of each row; sums to one over the rows that a model learns from.
        available: Experts that may be selected, one of each model at least.
        task: What is predicted.
        pool: How predictions are pooled.
    """
    model, experts = torch.arange(len(tokens)), tokens.shape[2]
    target = y.expand(len(tokens), *y.shape)
    counts = torch.zeros(len(tokens), experts)
    mixture, lowest, best = tokens[:, :, 0], torch.full((len(tokens),), torch.inf), counts
    for turn in range(TURNS + 1):
        log_share = (
            torch.tensor([turn / (turn + 1), 1 / (turn + 1)]).log().expand(len(tokens), 1, 2)
        )
        losses = torch.full((len(tokens), experts), torch.inf)
        for expert in range(experts):
            pair = torch.stack([mixture, tokens[:, :, expert]], dim=2)
            loss = task.losses(task.pooled(pair, log_share, pool), target)
            losses[:, expert] = (loss * weight).sum(1)
        taken = losses.masked_fill(~available, torch.inf).argmin(1)
        pair = torch.stack([mixture, tokens[model, :, taken]], dim=2)
        mixture = task.pooled(pair, log_share, pool)
        counts = counts + F.one_hot(taken, experts)
        better = losses[model, taken] < lowest
        lowest = torch.where(better, losses[model, taken], lowest)
        best = torch.where(better[:, None], counts, best)
    return best / best.sum(1, keepdim=True)
