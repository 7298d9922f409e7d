"""BatchNorm that has stopped learning: each channel times a number, plus another, and no buffers.

A trained network's BatchNorm uses running statistics of the rows that it has seen. As they no
longer change, they and the layer's own weights come to two numbers a channel, which are weights
like any others.
"""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dflmoe.errors import NetworkError
from dflmoe.types import Params

MEAN, VARIANCE, COUNT = "running_mean", "running_var", "num_batches_tracked"


class Affine(nn.Module):
    """Each channel times a weight, plus a bias.

    Args:
        channels: Of the input, its axis 1.
        eps: That the BatchNorm in whose place it stands added to variances.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Change nothing of an input."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "row channel *place"]
    ) -> Float[Tensor, "row channel *place"]:
        """Return it scaled and moved."""
        each = (1, -1, *[1] * (x.dim() - 2))
        return x * self.weight.view(each) + self.bias.view(each)


def without_statistics(module: nn.Module) -> nn.Module:
    """Return a copy of a network with an ``Affine`` in the place of each BatchNorm.

    Weights and statistics that the network has go into it, so that it computes what the network
    does in ``eval`` mode.

    Raises:
        NetworkError: A BatchNorm keeps no statistics, so it computes with those of its input.
    """
    module = copy.deepcopy(module)
    for name, layer in [("", module), *module.named_modules()]:
        for own, child in layer.named_children():
            if isinstance(child, _BatchNorm):
                place = f"{name}.{own}" if name else own
                setattr(layer, own, _affine(child, place))
    return _affine(module, "") if isinstance(module, _BatchNorm) else module


def _affine(norm: _BatchNorm, name: str) -> Affine:
    if norm.running_mean is None:
        raise NetworkError(
            f"layer {name!r} is a BatchNorm that keeps no statistics, so a row's features depend "
            f"on the rows beside it; use GroupNorm or LayerNorm"
        )
    made = Affine(norm.num_features, norm.eps)
    made.load_state_dict(_folded(norm.state_dict(), norm.eps))
    return made


def folded(module: nn.Module, weights: Mapping[str, Tensor]) -> Params:
    """Return weights of a network with BatchNorm as those of one without its statistics.

    Args:
        module: A network with ``Affine`` layers.
        weights: By name; whatever is not of such a layer stays as it is.
    """
    found = dict(weights)
    for name, layer in module.named_modules():
        start = f"{name}." if name else ""
        if isinstance(layer, Affine) and f"{start}{VARIANCE}" in found:
            parts = ("weight", "bias", MEAN, VARIANCE)
            own = {p: found.pop(start + p) for p in parts if start + p in found}
            found.pop(start + COUNT, None)
            found |= {start + part: p for part, p in _folded(own, layer.eps).items()}
    return found


def _folded(own: Mapping[str, Tensor], eps: float) -> Params:
    """Return weight and bias of an ``Affine`` from what a BatchNorm has."""
    mean, variance = own[MEAN].double(), own[VARIANCE].double()
    weight = own.get("weight", torch.ones_like(mean)).double() / (variance + eps).sqrt()
    bias = own.get("bias", torch.zeros_like(mean)).double() - weight * mean
    return {"weight": weight.to(own[MEAN].dtype), "bias": bias.to(own[MEAN].dtype)}
