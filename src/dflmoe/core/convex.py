"""Linear heads on features that stay as they are: solved, not descended.

A linear head with an L2 penalty is a convex problem (softmax regression), so Newton's method finds
its optimum in a few steps for all fits at once: no learning rate, and no doubt whether a baseline
has converged. Only the weight decay is left to choose out of fold.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FREE = 1e-4
"""Penalty of the biases: enough to keep a class that a fit never saw from running away."""


def newton(
    x: Float[Tensor, "model row feature"],
    y: Int[Tensor, "model row"],
    weight: Float[Tensor, "model row"],
    penalty: Float[Tensor, " model"],
    towards: Float[Tensor, "model class feature"],
    *,
    steps: int = 25,
    tolerance: float = 1e-6,
) -> tuple[Float[Tensor, "model class feature"], Float[Tensor, "model class"]]:
    """Return weights and biases that minimise cross-entropy plus penalty.

    Minimises ``sum_i weight_i CE_i + penalty / 2 |W - towards|^2`` for every model.

    Args:
        x: Features.
        y: Classes.
        weight: Of each row; sums to one.
        penalty: Weight decay, above 0.
        towards: Where the weights are pulled to, and where they start.
        steps: Newton steps at most.
        tolerance: Decrease of the objective below which a model is done.

    References:
        Boyd and Vandenberghe, Convex Optimization, 2004, section 9.5 (damped Newton).
    """
    models, _, features = x.shape
    classes = towards.shape[1]
    inputs = torch.cat([x, torch.ones_like(x[..., :1])], dim=2)
    centre = F.pad(towards, (0, 1))
    pull = penalty[:, None].expand(models, features)
    pull = torch.cat([pull, torch.full((models, 1), FREE)], dim=1)[:, None, :]
    target = F.one_hot(y, classes).to(x.dtype)

    def objective(params: Tensor) -> Float[Tensor, " model"]:
        log_probs = F.log_softmax(inputs @ params.mT, dim=-1)
        loss = -(log_probs * target).sum(-1)
        return (loss * weight).sum(1) + (pull * (params - centre) ** 2).sum((1, 2)) / 2

    params = centre.clone()
    value = objective(params)
    done = torch.zeros(models, dtype=torch.bool)
    for _ in range(steps):
        probs = F.softmax(inputs @ params.mT, dim=-1)
        slope = ((probs - target) * weight[..., None]).mT @ inputs + pull * (params - centre)
        hessian = _curvature(inputs, probs, weight) + torch.diag_embed(
            pull.expand_as(params).flatten(1)
        )
        ahead = torch.linalg.solve(hessian, slope.flatten(1)).view_as(params)
        length = torch.where(done, 0.0, 1.0)
        for _ in range(10):
            trial = objective(params - length[:, None, None] * ahead)
            worse = ~(trial <= value)
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        else:
            length = torch.where(worse, 0.0, length)
            trial = torch.where(worse, value, trial)
        params = params - length[:, None, None] * ahead
        done = done | (value - trial < tolerance)
        value = trial
        if done.all():
            break
    return params[..., :-1], params[..., -1]


def _curvature(
    inputs: Float[Tensor, "model row feature"],
    probs: Float[Tensor, "model row class"],
    weight: Float[Tensor, "model row"],
) -> Float[Tensor, "model param param"]:
    """Return the Hessian of the weighted cross-entropy in the order class, feature."""
    classes, features = probs.shape[2], inputs.shape[2]
    blocks = inputs.new_zeros(len(inputs), classes, features, classes, features)
    for a in range(classes):
        for b in range(a + 1):
            p = probs[..., a] * (float(a == b) - probs[..., b]) * weight
            blocks[:, a, :, b, :] = (inputs * p[..., None]).mT @ inputs
            blocks[:, b, :, a, :] = blocks[:, a, :, b, :]
    return blocks.flatten(3, 4).flatten(1, 2)
