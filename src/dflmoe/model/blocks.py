"""From a module to what a file must say to make it anew, and back."""

from collections.abc import Mapping

import torch
from torch import nn

from dflmoe.baselines.logistic import Logistic
from dflmoe.core.served import (
    AffineMap,
    AsItIs,
    Borrowed,
    Mixing,
    Served,
    Standardising,
    whole_of,
    with_params,
)
from dflmoe.core.site import Network
from dflmoe.model.told import Blocks, Told
from dflmoe.networks import from_recipe
from dflmoe.types import Params

BLANK: Mapping[str, Params] = {"body": {}, "head": {}}
"""The parts of a network whose weights are still to be loaded."""


def blocks_of(served: Served, network: Network, own: Network) -> Blocks:
    """Return what a model is made from.

    Args:
        served: The model.
        network: Whose heads are lent.
        own: That the site keeps to itself; the same where it has one.
    """
    alone = None if isinstance(served.alone, Logistic) else own.recipe
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(served.scaling, Standardising):
        shapes["scaling"] = tuple(served.scaling.centre.shape)
    mixing = served.mixing
    if mixing is None:
        return Blocks(network=network.recipe, own=alone, shapes=shapes)
    for name, head in zip(mixing.peers, mixing.borrowed, strict=True):
        if isinstance(head, Borrowed) and isinstance(head.across, AffineMap):
            shapes[f"map/{name}"] = tuple(head.across.weight.shape)
    shapes |= {f"fitted/{n}": tuple(p.shape) for n, p in mixing.fitted.items()}
    return Blocks(
        network=network.recipe,
        own=alone,
        taught=served.taught is not None,
        home=tuple(mixing.home),
        peers=tuple(mixing.peers),
        pool=mixing.pool,
        cap=mixing.cap,
        shapes=shapes,
    )


def served_of(told: Told, tensors: Params) -> Served:
    """Return a model made anew.

    Args:
        told: What its file says.
        tensors: Its weights.

    Raises:
        NetworkError: A network is not known here.
        RuntimeError: The weights are of another model.
    """
    blocks = told.blocks
    network = from_recipe(blocks.network)
    mixing = None
    if blocks.home:
        mixing = Mixing(
            with_params(network.body, {}),
            with_params(network.head, {}),
            {name: _borrowed(network, blocks, name) for name in blocks.peers},
            home=blocks.home,
            pool=blocks.pool,
            cap=blocks.cap,
            fitted=_blank(blocks.shapes),
        )
    alone: nn.Module = Logistic(told.shape, len(told.classes))
    if blocks.own is not None:
        alone = whole_of(from_recipe(blocks.own), BLANK)
    scaling: nn.Module = AsItIs()
    if "scaling" in blocks.shapes:
        scaling = Standardising(*torch.zeros(3, *blocks.shapes["scaling"]))
    made = Served(
        told.site,
        scaling,
        alone,
        mixing=mixing,
        taught=whole_of(network, BLANK) if blocks.taught else None,
        serves=told.serves,
    )
    made.load_state_dict(tensors)
    return made.requires_grad_(False).eval()


def _borrowed(network: Network, blocks: Blocks, name: str) -> Borrowed:
    across: nn.Module = nn.Identity()
    if f"map/{name}" in blocks.shapes:
        across = AffineMap(torch.zeros(blocks.shapes[f"map/{name}"]))
    return Borrowed(across, with_params(network.head, {}))


def _blank(shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Return buffers to be filled; which experts are available is yes or no."""
    fitted = {n.removeprefix("fitted/"): s for n, s in shapes.items() if n.startswith("fitted/")}
    return {
        name: torch.zeros(shape, dtype=torch.bool if name == "available" else torch.float32)
        for name, shape in fitted.items()
    }
