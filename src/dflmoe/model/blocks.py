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
    Whole,
    with_params,
)
from dflmoe.core.site import Network
from dflmoe.model.told import Blocks, Told
from dflmoe.networks import from_recipe
from dflmoe.types import Params


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
    mapped: list[str] = []
    for name, head in zip(mixing.peers, mixing.borrowed, strict=True):
        if isinstance(head, Borrowed) and isinstance(head.across, AffineMap):
            mapped.append(name)
            shapes[f"map/{name}"] = tuple(head.across.weight.shape)
    shapes |= {f"fitted/{n}": tuple(p.shape) for n, p in mixing.fitted.items()}
    return Blocks(
        network=network.recipe,
        own=alone,
        taught=served.taught is not None,
        home=tuple(mixing.home),
        peers=tuple(mixing.peers),
        mapped=tuple(mapped),
        pool=mixing.pool,
        cap=mixing.cap,
        kept=tuple(mixing.kept),
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
            fitted=_blank({name: blocks.shapes[f"fitted/{name}"] for name in blocks.kept}),
        )
    alone: nn.Module = Logistic(told.shape, len(told.classes))
    if blocks.own is not None:
        alone = _whole(from_recipe(blocks.own))
    scaling: nn.Module = AsItIs()
    if "scaling" in blocks.shapes:
        scaling = Standardising(*torch.zeros(3, *blocks.shapes["scaling"]))
    made = Served(
        told.site,
        scaling,
        alone,
        mixing=mixing,
        taught=_whole(network) if blocks.taught else None,
        serves=told.serves,
    )
    made.load_state_dict(tensors)
    return made.requires_grad_(False).eval()


def _whole(network: Network) -> Whole:
    return Whole(with_params(network.body, {}), with_params(network.head, {}))


def _borrowed(network: Network, blocks: Blocks, name: str) -> Borrowed:
    across: nn.Module = nn.Identity()
    if name in blocks.mapped:
        across = AffineMap(torch.zeros(blocks.shapes[f"map/{name}"]))
    return Borrowed(across, with_params(network.head, {}))


def _blank(shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Return buffers to be filled; which experts are available is yes or no."""
    return {
        name: torch.zeros(shape, dtype=torch.bool if name == "available" else torch.float32)
        for name, shape in shapes.items()
    }
