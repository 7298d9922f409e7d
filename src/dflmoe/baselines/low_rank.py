"""Matrices as two thin ones: what of an update travels where bytes are dear."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines.averaging import averaged
from dflmoe.core.site import Lent
from dflmoe.types import Params

ENERGY, LEFT, RIGHT = "energy", "/left", "/right"

VECTORS = 2
"""Axes of stacked vectors, which travel as they are."""


def compressed(update: Params, energy: float) -> Params:
    """Return tensors with every matrix as two thin ones, where that is less.

    Each model keeps the fewest singular values whose squares hold more than a share of all. Its
    thin matrices are filled up to those of the model that keeps most, so what travels is never
    counted too low.

    Args:
        update: Stacked tensors; a kernel counts as a matrix.
        energy: The share.
    """
    sent: Params = {}
    for name, p in update.items():
        matrix = p.flatten(2) if p.dim() > VECTORS else p
        thin = _thin(matrix, energy) if p.dim() > VECTORS else None
        sent |= {name: matrix} if thin is None else {name + LEFT: thin[0], name + RIGHT: thin[1]}
    return sent


def _thin(
    matrix: Float[Tensor, "model output input"], energy: float
) -> tuple[Tensor, Tensor] | None:
    """Return two matrices whose product is near one, or ``None`` if they are not smaller."""
    if not matrix.isfinite().all():
        raise FloatingPointError("an update holds numbers that are not finite")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    share = values.square().cumsum(1)
    share = (share / share[:, -1:]).nan_to_num(1.0)
    rank = 1 + (share[:, :-1] <= energy).sum(1)
    most, sides = int(rank.max()), matrix.shape[1:]
    if most * sum(sides) >= sides.numel():
        return None
    values = values * (torch.arange(values.shape[1]) < rank[:, None])
    return (left * values[:, None])[..., :most], right[:, :most]


def restored(sent: Params) -> Params:
    """Return what was compressed; kernels are matrices now."""
    update = {name: p for name, p in sent.items() if not name.endswith((LEFT, RIGHT))}
    for name in (n.removesuffix(LEFT) for n in sent if n.endswith(LEFT)):
        left, right = sent[name + LEFT], sent[name + RIGHT]
        product = left.new_zeros(left.shape[0], left.shape[1], right.shape[2])
        for k in range(left.shape[2]):  # one by one, so that filling up changes no bit
            product = product + left[:, :, k, None] * right[:, None, k]
        update[name] = product
    return update


def moved(before: Params, update: Lent) -> Lent:
    """Return weights that have been moved by an update, as if those had been sent."""
    changes = restored(update.tensors).items()
    return replace(update, tensors={n: before[n] + p.view_as(before[n]) for n, p in changes})


def mean(lents: Sequence[Lent]) -> Lent:
    """Return a server's answer: the mean update by rows, compressed as the sites' are."""
    update = averaged([replace(lent, tensors=restored(lent.tensors)) for lent in lents])
    energy = float(update.tensors.pop(ENERGY)[0])
    return replace(update, tensors=compressed(update.tensors, energy))
