"""Which experts, and how much of each: chosen by what they do to the loss, one after the other.

Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004: begin with the expert that
is best alone, then add, with replacement, whichever lowers the loss of the mixture most; the weight
of an expert is how often it was taken. Nothing is fitted but these counts. A head that says nothing
new is not taken at all, where a gate that starts uniform must first unlearn it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dflmoe.core.mixture import Pool
from dflmoe.core.task import Task
from dflmoe.core.together import Parts, together
from dflmoe.types import Params

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
    target = y.expand(len(tokens), *y.shape)
    given = {"tokens": tokens, "target": target, "weight": weight, "available": available}
    return together(_Selection(task, pool), given)["share"][:, : tokens.shape[2]]


@dataclass(frozen=True)
class _Selection:
    """Select experts (``Stackable``)."""

    task: Task
    pool: Pool

    def __call__(self, given: Params, parts: Parts) -> Params:  # noqa: ARG002 - draws nothing
        """See ``Stackable``."""
        tokens, target, weight = given["tokens"], given["target"], given["weight"]
        model, experts = torch.arange(len(tokens)), tokens.shape[2]
        counts = torch.zeros(len(tokens), experts)
        mixture, lowest, best = tokens[:, :, 0], torch.full((len(tokens),), torch.inf), counts
        for turn in range(TURNS + 1):
            log_share = (
                torch.tensor([turn / (turn + 1), 1 / (turn + 1)]).log().expand(len(tokens), 1, 2)
            )
            losses = torch.full((len(tokens), experts), torch.inf)
            for expert in range(experts):
                pair = torch.stack([mixture, tokens[:, :, expert]], dim=2)
                loss = self.task.losses(self.task.pooled(pair, log_share, self.pool), target)
                losses[:, expert] = (loss * weight).sum(1)
            taken = losses.masked_fill(~given["available"], torch.inf).argmin(1)
            pair = torch.stack([mixture, tokens[model, :, taken]], dim=2)
            mixture = self.task.pooled(pair, log_share, self.pool)
            counts = counts + F.one_hot(taken, experts)
            better = losses[model, taken] < lowest
            lowest = torch.where(better, losses[model, taken], lowest)
            best = torch.where(better[:, None], counts, best)
        return {"share": best / best.sum(1, keepdim=True)}
