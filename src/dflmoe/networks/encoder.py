"""A site's own encoder as its body: it stays as it is, and a linear map brings it to any width."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.core.site import Network
from dflmoe.core.stacking import Given
from dflmoe.errors import NetworkError
from dflmoe.networks.affine import folded, without_statistics
from dflmoe.networks.blocks import MeanPool
from dflmoe.networks.catalogue import build, whole
from dflmoe.networks.public import loaded
from dflmoe.networks.recipe import recipe
from dflmoe.networks.split import fits


class Encoder(nn.Module):
    """A frozen encoder, the mean of its features over all places, and a linear map that learns.

    Args:
        given: The encoder, ``[row, ...] -> [row, feature, ...]``.
        features: That it makes.
        width: Of what comes out.
    """

    def __init__(self, given: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.given = Frozen(given)
        self.pool = MeanPool()
        self.map = nn.Linear(features, width)

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row width"]:
        """Return as many features as heads take."""
        features = self.given(x)
        out: Tensor = self.map(self.pool(features) if features.dim() > 2 else features)  # noqa: PLR2004
        return out


class Frozen(Given):
    """A module that is used as it was trained: nothing in it learns, and nothing acts by chance."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay as it is."""
        super().train(mode)
        self.module.eval()
        return self

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row feature ..."]:
        """Return its features; no gradient goes through."""
        with torch.no_grad():
            out: Tensor = self.module(x)
        return out


def encoder(
    weights: Mapping[str, Tensor],
    network: str,
    shape: tuple[int, ...],
    width: int,
    *,
    at: str | None = None,
) -> nn.Module:
    """Return a private body of a width: a site's own encoder, frozen, and a linear map that learns.

    It goes with any head on so many features, where bodies are private: features of one site need
    not mean what another's do, and what relates them is the exchange's affair (``anchored``).

    Args:
        weights: Of the encoder, by name; those of a head are left. Statistics of BatchNorm are
            folded into its weights.
        network: Of the catalogue, whose body is the encoder, or ``package.module:factory``; such a
            network is the encoder as a whole, or its body if ``at`` is given.
        shape: Of one row.
        width: Features that the head takes.
        at: First layer of the network that is not the encoder's.

    Raises:
        NetworkError: There is no such network, the weights do not fit it, or it does not take such
            rows.
        MissingExtraError: It is MONAI's, which is not installed.
    """
    body = blank(network, shape, width, at=at)
    given = body.given.module
    body.given = Frozen(loaded(given, folded(given, weights)))
    return body


def blank(network: str, shape: tuple[int, ...], width: int, *, at: str | None = None) -> Encoder:
    """Return the same before its weights are loaded; arguments and errors are those above."""
    if ":" in network and at is None:
        module = without_statistics(whole(network, shape))
    else:
        module = build(network, shape, 2, at=at).body
    for name, _ in module.named_buffers():
        raise NetworkError(
            f"network {network!r} keeps {name!r}, which is no weight and would not be there when a "
            f"site goes on; use an encoder without buffers"
        )
    return Encoder(module, _features(module, network, shape), width)


def encoded_by(
    network: Network, body: nn.Module, name: str, shape: tuple[int, ...], at: str | None
) -> Network:
    """Return a network with a site's own encoder for its body.

    Args:
        network: Whose head is lent.
        body: As ``encoder`` returns it, as wide as that head.
        name: Of the encoder.
        shape: Of one row.
        at: First layer of the encoder's network that is not the encoder's.

    Raises:
        NetworkError: The head reads feature maps, where an encoder gives one vector a row.
    """
    made = recipe("encoded", inner=network.recipe, encoder=name, shape=shape, at=at)
    own = replace(network, body=body, common=False, recipe=made)
    fits(own, shape, (network.classes,))
    return own


def _features(module: nn.Module, network: str, shape: tuple[int, ...]) -> int:
    """Return how many features an encoder makes of a row.

    Raises:
        NetworkError: It takes no such rows.
    """
    try:
        with torch.no_grad():
            made = module.eval()(torch.zeros(2, *shape))
        return int(made.shape[1])
    except Exception as error:
        raise NetworkError(
            f"network {network!r} does not make features of rows of shape {shape} "
            f"({str(error).partition(chr(10))[0]}); name another, or bring the rows to its shape"
        ) from error
