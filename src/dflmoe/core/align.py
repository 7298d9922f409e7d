"""Feature spaces brought together by anchors: the transform of a borrowed head in closed form.

Anchors are public rows without labels that every site holds. Each lends its features of them beside
its head; the receiver maps its own features of the same rows onto them, and no label is asked. What
is learnt this way cannot make a random head fit, as a transform learnt from labels can.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dflmoe.types import Params

AlignKind = Literal["paper", "shared", "anchored"]

PENALTIES = tuple(10.0**k for k in range(-4, 2))
"""Candidates of the ridge, in units of the mean variance of a feature."""

GRID = 4
"""Feature maps are averaged to this many places a side before they are lent or compared."""


def anchor_features(
    features: Float[Tensor, "model anchor feature ..."],
) -> Float[Tensor, "model place feature"]:
    """Return features of anchors as they are lent: coarse feature maps, one row a place."""
    if features.dim() == 3:  # noqa: PLR2004 - no places
        return features
    flat = features.flatten(0, 1)
    pool = F.adaptive_avg_pool1d if flat.dim() == 3 else F.adaptive_avg_pool2d  # noqa: PLR2004
    coarse: Tensor = pool(flat, GRID).flatten(2).unflatten(0, features.shape[:2])
    return coarse.movedim(2, 3).flatten(1, 2)


def anchored_map(
    own: Float[Tensor, "model place feature"],
    theirs: Float[Tensor, "model place peer_feature"],
) -> Params:
    """Return the affine map from own features to a peer's, fitted on anchors by ridge regression.

    The penalty is the one that predicts left-out anchors best, in closed form (Golub et al.,
    Generalized Cross-Validation, Technometrics 1979).

    Returns:
        ``weight`` of shape ``[model, peer_feature, feature]``, and ``bias``.
    """
    own, theirs = own.double(), theirs.double()
    middle, target = own.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    x, y = own - middle, theirs - target
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    rows, on_u = x.shape[1], u.mT @ y
    unit = s.square().sum(1, keepdim=True) / x.shape[2]
    best, weight = torch.full((len(x),), torch.inf, dtype=x.dtype), torch.zeros(())
    for penalty in PENALTIES:
        kept = s.square() / (s.square() + penalty * unit)
        left = (y - u @ (kept[..., None] * on_u)).square().mean((1, 2))
        # one degree of freedom is the mean; what is fitted exactly says nothing of new rows
        free = (1 - (1 + kept.sum(1)) / rows).clamp(min=1e-6)
        score = left / free.square()
        inverse = torch.where(s > 0, kept / s.clamp(min=1e-12), 0)
        found = (vh.mT @ (inverse[..., None] * on_u)).mT
        better = score < best
        weight = torch.where(better[:, None, None], found, weight)
        best = torch.where(better, score, best)
    bias = target[:, 0] - torch.einsum("mof,mf->mo", weight, middle[:, 0])
    return {"weight": weight.float(), "bias": bias.float()}


def aligned(
    to: Params, features: Float[Tensor, "model row feature ..."]
) -> Float[Tensor, "model row peer_feature ..."]:
    """Return features as a peer's head expects them, at every place alike."""
    moved = torch.einsum("mof,mnf...->mno...", to["weight"], features)
    bias: Tensor = to["bias"][:, None, :, *[None] * (features.dim() - 3)]
    return moved + bias
