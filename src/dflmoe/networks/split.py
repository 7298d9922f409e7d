"""Cut a network in two at a named layer: a body that stays at home and a head that travels."""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dflmoe.core.site import Network
from dflmoe.core.stacking import initial
from dflmoe.errors import NetworkError

AS_CHAIN = "write it as an nn.Sequential of named layers"

Layers = list[tuple[str, nn.Module]]


def split(
    module: nn.Module, at: str, *, shape: tuple[int, ...], outputs: int, common: bool = False
) -> Network:
    """Return a network whose head starts at the layer ``at``.

    The module is a chain of named layers: what its children do one after the other must be what it
    does itself, which is tried out. A dotted name splits within a layer that is a chain, too.
    Layers that work in place no longer do: a head must not change the features it is given.

    Args:
        module: The whole network, ``[row, ...] -> [row, output, ...]``.
        at: First layer of the head; all before it is the body.
        shape: Of one input, without the row axis.
        outputs: Classes, or channels of the picture that comes out.
        common: The body stays as the federation's seed made it, the same at every site.

    Raises:
        NetworkError: There is no such layer, nothing is left for the body, the module keeps
            buffers or cannot be drawn from a seed or is no chain, the input does not fit, or the
            output does not.
    """
    body, head = _divided(module, at)
    if all(isinstance(part, nn.Sequential | nn.Identity) for part in body.modules()):
        raise NetworkError(
            f"a split at layer {at!r} leaves no layer for the body; {where_to_split(module)}"
        )
    _check_sendable(module)
    _not_in_place(module)
    features, out = _tried(module, at, shape)
    if features.dim() < 2 or out.dim() < 2:  # noqa: PLR2004  # a row axis and a channel axis
        raise NetworkError(
            f"a split at layer {at!r} gives features of shape {_named(features.shape)} and outputs "
            f"of shape {_named(out.shape)}; both need a channel axis after the row axis"
        )
    network = Network(body, head, features.shape[1], outputs, common=common)
    fits(network, shape, (outputs, *out.shape[2:]))
    return network


def undivided(module: nn.Module, *, shape: tuple[int, ...], outputs: int) -> Network:
    """Return a network that is lent as a whole, behind a body that does nothing.

    Args:
        module: The whole network, ``[row, ...] -> [row, output]``.
        shape: Of one input, without the row axis.
        outputs: Classes.

    Raises:
        NetworkError: It keeps buffers or cannot be drawn from a seed, or does not fit.
    """
    _check_sendable(module)
    _not_in_place(module)
    network = Network(nn.Identity(), module, shape[0], outputs, common=True)
    fits(network, shape, (outputs,))
    return network


def _not_in_place(module: nn.Module) -> None:
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]  # a plain attribute, not a tensor


def split_points(module: nn.Module) -> list[str]:
    """Return the names of the layers at which a network can be split, in order."""
    return [name for name in _names(module) if _cut(module, name.split("."))[0]]


def where_to_split(module: nn.Module) -> str:
    """Return the end of a sentence about a split that cannot be: what to do instead."""
    points = ", ".join(split_points(module))
    return f"split at one of {points}" if points else AS_CHAIN


def prefix_before(module: nn.Module, at: str) -> str:
    """Return what a network puts before the names that the weights before a layer have in its body.

    A body of one layer, or of a part of one, names its weights from there on.

    Raises:
        NetworkError: There is no such layer.
    """
    body, _ = _divided(module, at)
    whole = {id(p): name for name, p in module.named_parameters()}
    return next((whole[id(p)].removesuffix(name) for name, p in body.named_parameters()), "")


def fits(network: Network, shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    """Check on two rows of zeros that a network takes a task's inputs and returns its outputs.

    Args:
        network: To be checked.
        shape: Of one input.
        output_shape: Of one output: ``(class,)`` to classify rows, ``(class, height, width)`` to
            classify pixels, ``(channel, scaled height, scaled width)`` to enlarge an image.

    Raises:
        NetworkError: It does not fit.
    """
    features = _run(network.body, torch.zeros(2, *shape), "body", shape)
    if features.shape[:2] != (2, network.width):
        raise NetworkError(
            f"the body returns features of shape {_named(features.shape)} where its head expects "
            f"[row, {network.width}, ...]; let axis 1 be the channel axis"
        )
    out = _run(network.head, features, "head", tuple(features.shape[1:]))
    if out.shape != (2, *output_shape):
        raise NetworkError(
            f"the head returns {_named(out.shape)} where the task expects "
            f"{_named((2, *output_shape))}; let the network's last layer return that"
        )


def _divided(module: nn.Module, at: str) -> tuple[nn.Module, nn.Module]:
    try:
        before, after = _cut(module, at.split("."))
    except KeyError as error:
        raise NetworkError(f"the network has no layer {at!r}; {where_to_split(module)}") from error
    return _joined(before), _joined(after)


def _cut(module: nn.Module, path: Sequence[str]) -> tuple[Layers, Layers]:
    """Return the layers before and from a path on; a layer that is cut appears in both."""
    layers = _layers(module)
    if path[0] not in dict(layers):
        raise KeyError(path[0])
    index = [name for name, _ in layers].index(path[0])
    if len(path) == 1:
        return layers[:index], layers[index:]
    name, inner = layers[index]
    before, after = _cut(inner, path[1:])
    kept: Layers = [(name, nn.Sequential(OrderedDict(before)))] if before else []
    cut: Layers = [(name, nn.Sequential(OrderedDict(after)))]
    return [*layers[:index], *kept], [*cut, *layers[index + 1 :]]


def _layers(module: nn.Module) -> Layers:
    """Return the children by name; unlike ``named_children``, a layer used twice counts twice."""
    return [(name, layer) for name, layer in module._modules.items() if layer is not None]


def _names(module: nn.Module) -> list[str]:
    names = []
    for name, layer in _layers(module):
        names.append(name)
        if type(layer) is nn.Sequential:
            names += [f"{name}.{inner}" for inner in _names(layer)]
    return names


def _joined(layers: Layers) -> nn.Module:
    return layers[0][1] if len(layers) == 1 else nn.Sequential(OrderedDict(layers))


def _check_sendable(module: nn.Module) -> None:
    """Check that there are weights only, and that a seed decides them all."""
    for name, _ in module.named_buffers():
        raise NetworkError(
            f"the network keeps {name!r}, a running statistic or another buffer, which describes "
            "patients and may not travel; for a body with given weights let the factory return "
            "dflmoe.networks.without_statistics(network), else use GroupNorm or LayerNorm"
        )
    blank = copy.deepcopy(module)
    with torch.no_grad():
        for p in blank.parameters():
            p.fill_(torch.nan)
    for name, drawn in initial(blank, 1, torch.Generator().manual_seed(0)).items():
        if drawn.isnan().any():
            raise NetworkError(
                f"the network's weights {name!r} are not drawn anew from a seed; "
                "give the layer that owns them a method reset_parameters"
            )


def _tried(module: nn.Module, at: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return features and outputs of two rows, the same in parts as in one."""
    rng = torch.Generator().manual_seed(0)
    whole = copy.deepcopy(module).eval()
    with torch.no_grad():
        for p in whole.parameters():  # layers that start at zero would hide what comes before
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    x = torch.randn(2, *shape, generator=rng)
    expected = _run(whole, x, "network", shape)
    body, head = _divided(whole, at)
    not_a_chain = (
        f"the network cannot be split at {at!r}, as it does not run its layers one after the "
        f"other; {AS_CHAIN}"
    )
    try:
        features = _run(body, x, "body", shape)
        out = _run(head, features, "head", tuple(features.shape[1:]))
    except NetworkError as error:
        raise NetworkError(not_a_chain) from error
    if out.shape != expected.shape or not torch.allclose(out, expected, equal_nan=True):
        raise NetworkError(not_a_chain)
    if {id(p) for p in body.parameters()} & {id(p) for p in head.parameters()}:
        raise NetworkError(
            f"weights are shared by the layers before and after {at!r}, "
            "and a body stays where a head goes; split elsewhere or unshare them"
        )
    return features, out


def _run(module: nn.Module, x: Tensor, what: str, shape: tuple[int, ...]) -> Tensor:
    try:
        with torch.no_grad():
            out = module(x)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise NetworkError(
            f"the {what} does not take inputs of shape {_named((2, *shape))} ({reason}); "
            "choose a network for such inputs or change the task's input"
        ) from error
    if not isinstance(out, Tensor):
        raise NetworkError(
            f"the {what} returns a {type(out).__name__} where one tensor is expected; "
            "let it return the tensor alone"
        )
    return out


def _named(shape: Sequence[int]) -> str:
    """Return a shape with its row axis by name: ``[row, 3, 28, 28]``."""
    return f"[{', '.join(['row', *map(str, shape[1:])])}]"
