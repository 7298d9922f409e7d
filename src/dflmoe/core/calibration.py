"""A lender's prevalence is not the borrower's: shift a prediction to the own rows.

A shift for every class is fitted on the site's own training rows and shrunk towards none. It never
changes how a mixture ranks rows; it changes what the mixture says of them, and so what the guard
makes of it. (Saerens et al., Adjusting the Outputs of a Classifier to New a Priori Probabilities,
Neural Computation 2002; here the shift is fitted to labels instead of by expectation maximisation.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dflmoe.core.together import Parts, together
from dflmoe.core.training import Adam, leaves
from dflmoe.types import Params


def unshifted(models: int, experts: int, classes: int) -> Params:
    """Return a shift that changes nothing."""
    return {"shift": torch.zeros(models, experts, classes)}


def shifted(
    params: Params, log_probs: Float[Tensor, "model row expert class"]
) -> Float[Tensor, "model row expert class"]:
    """Return log probabilities after the shift."""
    return F.log_softmax(log_probs + params["shift"][:, None], dim=-1)


def shift_pull(params: Params, sd: float = 1.0) -> Float[Tensor, " model"]:
    """Return the pull back to no shift: minus the log density of a normal prior.

    Args:
        params: Stacked parameters, the shift among them.
        sd: How far a shift may be expected to go, in logits.
    """
    return params["shift"].square().sum((1, 2)) / (2 * sd**2)


def fit_shift(
    log_probs: Float[Tensor, "model row expert class"],
    y: Int[Tensor, " row"],
    weight: Float[Tensor, "model row"],
    *,
    steps: int = 40,
) -> Params:
    """Fit the shift of every expert on its own.

    Args:
        log_probs: What the experts say.
        y: Classes.
        weight: Weight of each row; sums to one over the rows that a model learns from.
        steps: Optimiser steps.
    """
    target = y[None, :, None].expand(log_probs.shape[:3])
    given = {"log_probs": log_probs, "target": target, "weight": weight}
    return {"shift": together(_Shifting(steps), given)["shift"][:, : log_probs.shape[2]]}


@dataclass(frozen=True)
class _Shifting:
    """Fit shifts (``Stackable``)."""

    steps: int

    def __call__(self, given: Params, parts: Parts) -> Params:  # noqa: ARG002 - draws nothing
        """See ``Stackable``."""
        log_probs, target, weight = given["log_probs"], given["target"], given["weight"]
        params = leaves(unshifted(len(log_probs), *log_probs.shape[2:]))
        count = (weight > 0).sum(1)
        optimiser = Adam(params, 0.1)
        for _ in range(self.steps):
            said = shifted(params, log_probs).flatten(0, 2)
            loss = F.nll_loss(said, target.flatten(), reduction="none").view(target.shape)
            fit = (loss * weight[..., None]).sum()
            optimiser.step(fit + (shift_pull(params) / count).sum())
        return {name: p.detach() for name, p in params.items()}
