"""A public body: weights that anybody may have, frozen or held near to what they were."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dflmoe.core.site import Network
from dflmoe.core.stacking import Given
from dflmoe.errors import NetworkError
from dflmoe.networks.affine import folded
from dflmoe.networks.catalogue import body_prefix, build
from dflmoe.networks.fitting import fitting, prefix_of
from dflmoe.types import Params


def public_body(
    network: Network, weights: Mapping[str, Tensor], learns: Sequence[str] = ()
) -> Network:
    """Return a network whose body begins with public weights.

    Frozen, it is one feature space for all sites, and a borrowed head means there what it meant
    where it was trained. Layers that learn are trained as a change to the public weights, so weight
    decay pulls them back to those and not to zero (Li et al., Explicit Inductive Bias for Transfer
    Learning with Convolutional Networks, ICML 2018), under every method alike.

    Args:
        network: Whose body it is.
        weights: A tensor for each of the body's parameters, by name; others, such as those of a
            head, are left where they are.
        learns: Layers of the body that go on learning, by the start of their name.

    Raises:
        NetworkError: A tensor is missing, of another shape or not finite, or there is no such
            layer.
    """
    body = loaded(network.body, weights)
    names = [name for name, _ in body.named_parameters()]
    for layer in learns:
        if not any(_within(name, layer) for name in names):
            raise NetworkError(
                f"the body has no layer {layer!r} that could learn; it has {', '.join(names)}"
            )
    learnt = {name for name in names if any(_within(name, layer) for layer in learns)}
    return replace(network, body=_Public(body, learnt), common=not learnt)


def weights_for(
    weights: Mapping[str, Tensor],
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    at: str | None = None,
) -> tuple[Params, tuple[str, ...]]:
    """Return the weights of a network's body, by the names that they have there.

    Names may be those of the whole network. Statistics of BatchNorm are folded into the layers that
    stand in its place (``networks.affine``).

    Args:
        weights: By name.
        name: The network; this and what follows as in ``build``.
        shape: Of one row.
        outputs: Classes.
        at: First layer of the head.

    Returns:
        The weights, and the names of those that are of other layers.

    Raises:
        NetworkError: There is no such network, its body has no weights, or these do not fit it.
    """
    body = build(name, shape, outputs, at=at).body
    wanted = [own for own, _ in body.named_parameters()]
    if not wanted:
        raise NetworkError(f"the body of network {name!r} has no weights that could be given to it")
    given = dict(weights)
    prefix = body_prefix(name, shape, outputs, at=at)
    if not any(own in given for own in wanted):
        given = {own.removeprefix(prefix): p for own, p in given.items()}
    given = folded(body, given)
    fit = fitting(body, {own: tuple(p.shape) for own, p in given.items()})
    if fit.faults:
        start = prefix_of(fit.missing, list(given))
        fix = f"try --prefix {start}" if start else "name the network that they are of"
        raise NetworkError(f"the weights do not fit the body of {name}: {fit.faults}; {fix}")
    return {own: given[own] for own in wanted}, fit.beside


class _Public(Given):
    """A body with public weights; those that learn are what has been added to them."""

    def __init__(self, body: nn.Module, learnt: set[str]) -> None:
        super().__init__()
        self.body = body.requires_grad_(False)
        for name in sorted(learnt):
            owner, _, own_name = name.rpartition(".")
            layer = body.get_submodule(owner)
            parametrize.register_parametrization(layer, own_name, _Moved(getattr(layer, own_name)))
            layer.parametrizations[own_name].original.requires_grad_(True)  # type: ignore[index, union-attr]  # set by the line before

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def plain(self) -> nn.Module:
        return self.body


class _Moved(nn.Module):
    """Public weights and what was added to them."""

    def __init__(self, public: Tensor) -> None:
        super().__init__()
        self.public = nn.Parameter(public.detach().clone(), requires_grad=False)

    def forward(self, moved: Tensor) -> Tensor:
        return self.public + moved

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight - self.public


def _within(name: str, layer: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def loaded(body: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a body with these weights.

    Raises:
        NetworkError: They do not fit.
    """
    faults = fitting(body, {name: tuple(p.shape) for name, p in weights.items()}).faults
    if faults:
        raise NetworkError(
            f"the weights do not fit the network's body: {faults}; "
            f"compare them with: dflmoe body show FILE --network NAME"
        )
    copied = copy.deepcopy(body)
    for name, p in copied.named_parameters():
        if not torch.isfinite(weights[name]).all():
            raise NetworkError(
                f"{name!r} of the weights holds numbers that are not finite; "
                "take the file from its source again"
            )
        with torch.no_grad():
            p.copy_(weights[name])
    return copied
