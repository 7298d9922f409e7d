"""The feature space transform: from a site's features to what a borrowed head expects.

``f_k = W_k W_com I`` with one common map and one map for each invited expert (dFLMoE, section 3.2).
Maps act on the feature axis, so on feature maps they are 1x1 convolutions.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.types import Params


def identity_maps(widths: Mapping[str, int], models: int, width: int) -> Params:
    """Return transforms that change nothing: where every map starts.

    Args:
        widths: Input width of each expert's head; where it differs from ``width``, the map starts
            as the identity, cut or padded with zeros.
        models: Length of the model axis.
        width: Number of own features.
    """
    maps = {"common": torch.eye(width).repeat(models, 1, 1)}
    for name, expert_width in widths.items():
        maps[f"to/{name}"] = torch.eye(expert_width, width).repeat(models, 1, 1)
    return maps


def transformed(
    maps: Params, experts: Sequence[str], features: Float[Tensor, "model row feature ..."]
) -> list[Float[Tensor, "model row expert_feature ..."]]:
    """Return ``W_k W_com I`` for each expert."""
    common = _mapped(maps["common"], features)
    return [_mapped(maps[f"to/{k}"], common) for k in experts]


def _mapped(
    to: Float[Tensor, "model out in"], features: Float[Tensor, "model row in ..."]
) -> Float[Tensor, "model row out ..."]:
    """Return features through a map, whose gradient then lies in memory as the map does."""
    if features.dim() == 3:  # noqa: PLR2004 - no places
        return torch.bmm(to, features.mT).mT
    return torch.einsum("moi,mni...->mno...", to, features)
