"""One module, many sets of parameters: the batched call behind every training function."""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dflmoe.types import Params

_TURNS = threading.Lock()
"""Initialisers draw from the one stream of the process; threads take turns at it."""

Stacked = Callable[[Params, Tensor], Tensor]
"""Logits ``[model, row, class]`` from stacked parameters and inputs ``[model, row, ...]``."""


class OneByOne(nn.Module):
    """A module that is run for one set of parameters after the other: it does more than compute."""


def stacked_call(
    module: nn.Module, params: Params, x: Float[Tensor, "model row ..."]
) -> Float[Tensor, "model row ..."]:
    """Run ``module`` once for each set of parameters, each on its own rows.

    Dense modules run in batched calls: plain chains of linear layers as matrix products, which is
    bit for bit what ``vmap`` would make of them, and others by ``vmap``. On a CPU convolutions run
    in a loop, images with their channels last: batched over parameters they become grouped
    convolutions, which are slower there.

    Args:
        module: The architecture; its own parameters are not used.
        params: Its parameters, each with a leading model axis; empty if it has none.
        x: Inputs of each model.
    """
    if not params:
        flat: Tensor = module(x.flatten(0, 1))
        return flat.view(*x.shape[:2], *flat.shape[1:])
    if x.dim() == 3 and (layers := dense_layers(module, params)) is not None:  # noqa: PLR2004
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                x = torch.bmm(x, params[f"{name}weight"].mT)
                if layer.bias is not None:
                    x = x + params[f"{name}bias"][:, None]
            else:
                x = layer(x)
        return x
    if isinstance(module, OneByOne) or (
        not x.is_cuda
        and any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())
    ):
        each = {name: p.unbind() for name, p in params.items()}
        said = [
            functional_call(
                module,
                {name: _channels_last(p[m]) for name, p in each.items()},
                (_channels_last(rows),),
            )
            for m, rows in enumerate(x.unbind())
        ]
        return torch.stack(said)

    call = vmap(lambda one, rows: functional_call(module, one, (rows,)), randomness="different")
    batched: Tensor = call(params, x)
    return batched


def _channels_last(tensor: Tensor) -> Tensor:
    """Return images or kernels with their channels last in memory; all else as it is.

    ``to`` does so even where there is one channel, which ``contiguous`` takes for last already.
    """
    images = tensor.dim() == 4  # noqa: PLR2004 - rows, channels, height, width
    return tensor.to(memory_format=torch.channels_last) if images else tensor


def call_each(
    module: nn.Module,
    params: Sequence[Params],
    xs: Sequence[Float[Tensor, "model row ..."]],
) -> list[Float[Tensor, "model row ..."]]:
    """Run ``module`` with several stacks of parameters: small chains of linear layers as one.

    Args:
        module: The architecture.
        params: Stacks of its parameters.
        xs: Inputs of each stack, all of one shape or not.
    """
    small = len({x.shape for x in xs}) == 1 and sum(x.numel() for x in xs) <= AT_ONCE
    if small and xs[0].dim() == 3 and dense_layers(module, params[0]) is not None:  # noqa: PLR2004
        stacks = {name: torch.cat([one[name] for one in params]) for name in params[0]}
        return list(stacked_call(module, stacks, torch.cat(list(xs))).split(len(xs[0])))
    return [stacked_call(module, one, x) for one, x in zip(params, xs, strict=True)]


AT_ONCE = 2**22
"""Numbers that several stacks are given at once, at most; beyond, launching them costs little."""

ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Identity)
"""Layers that treat every number by itself."""


def dense_layers(module: nn.Module, params: Params) -> list[tuple[str, nn.Module]] | None:
    """Return the layers of a plain chain of linear layers and what stands between them.

    Args:
        module: The architecture.
        params: Its parameters; what is not among them does not learn.

    Returns:
        Layers with the prefix of their parameters' names, or ``None`` if it is anything else.
    """
    layers = [("", module)]
    if type(module) is nn.Sequential:
        layers = [(f"{name}.", layer) for name, layer in module.named_children()]
    for name, layer in layers:
        if layer._forward_hooks or layer._forward_pre_hooks:
            return None
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
            if any(f"{name}{p}" not in params for p, _ in layer.named_parameters()):
                return None
        elif type(layer) not in ELEMENTWISE:
            return None
    return layers


_here = threading.local()


def compute_bodies_in(dtype: torch.dtype | None) -> None:
    """Let this thread compute bodies in a shorter format, forward and backward.

    Args:
        dtype: For example ``torch.bfloat16``; ``None`` for that of the parameters.
    """
    _here.bodies = dtype


def bodies_in() -> torch.dtype | None:
    """Return what this thread computes bodies in, if not in the format of the parameters."""
    return getattr(_here, "bodies", None)


def features_of(
    body: nn.Module, params: Params, x: Float[Tensor, "model row ..."]
) -> Float[Tensor, "model row feature ..."]:
    """Return what bodies make of rows, in the format of the rows.

    Products and convolutions within may be in a shorter format (``compute_bodies_in``). All that
    comes after, and what parameters are kept and moved in, never is: heads travel and are solved,
    losses are compared by their fourth digit, and Adam adds small steps.

    Args:
        body: The architecture.
        params: Its parameters, as for ``stacked_call``.
        x: Inputs of each model.
    """
    dtype = bodies_in()
    if dtype is None:
        return stacked_call(body, params, x)
    with torch.autocast(x.device.type, dtype):
        said = stacked_call(body, params, x)
    return said.to(x.dtype)


@dataclass(frozen=True)
class Stack:
    """``stacked_call`` of one module, as a ``Stacked`` that equals that of the same module."""

    module: nn.Module

    def __call__(
        self, params: Params, x: Float[Tensor, "model row ..."]
    ) -> Float[Tensor, "model row ..."]:
        """Run it."""
        return stacked_call(self.module, params, x)


@dataclass(frozen=True)
class BodyAndHead:
    """Body and head in one, whose parameters carry their part in their name."""

    body: nn.Module
    head: nn.Module

    def __call__(
        self, params: Params, x: Float[Tensor, "model row ..."]
    ) -> Float[Tensor, "model row class ..."]:
        """Return what the head puts out."""
        features = features_of(self.body, part_of(params, "body"), x)
        return stacked_call(self.head, part_of(params, "head"), features)


class Given(nn.Module):
    """A module that begins with the weights that it has, wherever others are drawn anew.

    What a subclass does not let learn (``requires_grad``) is part of the architecture.
    """

    def plain(self) -> nn.Module:
        """Return the module without what gives it its weights."""
        return self


def initial(module: nn.Module, models: int, rng: torch.Generator) -> Params:
    """Return one draw of the module's own initialisers, repeated for every model.

    Weights that are given (``Given``) are taken as they are, and those that do not learn left out.

    Args:
        module: The architecture; it must not keep buffers.
        models: Length of the model axis. The fits of a site start alike: they differ in rows only.
        rng: Chance.

    Raises:
        ValueError: The module keeps buffers (running statistics), which describe patients and may
            not travel.
    """
    if any(True for _ in module.buffers()):
        raise ValueError("a module with buffers (BatchNorm?) cannot be lent; use GroupNorm")
    module = copy.deepcopy(module).cpu()  # chance is drawn there, wherever it is used
    with _TURNS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng, device="cpu")))
        given = {
            part for one in module.modules() if isinstance(one, Given) for part in one.modules()
        }
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset) and part not in given:
                reset()
    return {
        name: p.detach().to(torch.get_default_device(), copy=True).expand(models, *p.shape)
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def learns(module: nn.Module) -> bool:
    """Return whether any weight of a module is trained."""
    return any(p.requires_grad for p in module.parameters())


def part_of(params: Params, part: str) -> Params:
    """Return the parameters whose names start with ``part/``, without it."""
    return {n.removeprefix(f"{part}/"): p for n, p in params.items() if n.startswith(f"{part}/")}


def mean_of(heads: Sequence[Mapping[str, Tensor]]) -> Params:
    """Return the mean of heads of one shape."""
    return {name: torch.stack([head[name] for head in heads]).mean(0) for name in heads[0]}
