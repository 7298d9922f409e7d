"""What a site descends in its local steps, where that is more than its own loss.

Methods that average weights differ in little: a term of the loss, a second model that stays at
home, another optimiser. Each is a field here, and none of them moves a bit where it is not given.
Tensors whose names start with ``own/`` stay at home; others travel as ``Averaging.shares`` has it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.core.training import Adam
from dflmoe.types import Params

Loss = Callable[[Params], Tensor]
"""The loss of every model on the rows of a step, weight decay included, summed over models."""

Dial = Float[Tensor, " model"]
"""The method's own number, of every model."""


class Optimiser(Protocol):
    """Moves the parameters that it was made with."""

    def step(self, loss: Float[Tensor, ""]) -> list[Tensor]:
        """Take one step down ``loss`` and return its gradients."""
        ...


def plain_loss(loss: Loss, now: Params, before: Params, dial: Dial) -> Tensor:  # noqa: ARG001
    """Return the site's own loss."""
    return loss(now)


def unchanged(model: Params) -> Params:
    """Return the model as it is."""
    return model


def nothing_else(model: Params, dial: Dial) -> Params:  # noqa: ARG001
    """Return the model as it is."""
    return model


def unprepared(loss: Loss, model: Params, rate: float) -> Params:  # noqa: ARG001
    """Return the model as it is."""
    return model


def adam(moving: Params, rate: float, dial: Dial) -> Optimiser:  # noqa: ARG001
    """Return the optimiser that everything is trained with."""
    return Adam(moving, rate)


@dataclass(frozen=True)
class Aim:
    """What is particular to a method.

    Attributes:
        dials: Candidates of the method's own number, chosen out of fold with the weight decay.
        begins: The tensors that a site begins with, from those of the common model and the dials.
        readies: Changes the model before a round's steps; it is given the loss of all rows, and
            the learning rate.
        loss: What the steps go down: given the site's loss, the tensors now, those from before the
            round's steps, and the dial of every model.
        optimiser: What takes the steps, given the tensors that move, the rate and the dials.
        learns: Changes the model after the steps, given the one before them and the mean of their
            gradients; ``None`` where those are not asked for.
        merges: What the site makes of its trained model and the server's answer, with its dials;
            ``None`` to take the answer as it is.
        serves: The model that a site uses, judges and keeps.
    """

    dials: tuple[float, ...] = (0.0,)
    begins: Callable[[Params, Dial], Params] = nothing_else
    readies: Callable[[Loss, Params, float], Params] = unprepared
    loss: Callable[[Loss, Params, Params, Dial], Tensor] = plain_loss
    optimiser: Callable[[Params, float, Dial], Optimiser] = adam
    learns: Callable[[Params, Params], Params] | None = None
    merges: Callable[[Params, Params, Dial], Params] | None = None
    serves: Callable[[Params], Params] = unchanged


def common(params: Params) -> Params:
    """Return body and head of the model that travels."""
    return {name: p for name, p in params.items() if name.startswith(("body/", "head/"))}


def moves(name: str) -> bool:
    """Return whether steps move a tensor: bodies and heads, and no notes beside them."""
    return name.removeprefix("own/").startswith(("body/", "head/"))


def half_square(now: Params, towards: Params, strength: Dial) -> Float[Tensor, ""]:
    """Return half the squared distance of all parameters, biases too, times a strength."""
    total = torch.zeros(())
    for name, p in now.items():
        total = total + strength @ (p - towards[name]).flatten(1).square().sum(1)
    return total / 2


def of_each(dial: Dial, like: Tensor) -> Tensor:
    """Return the number of every model in a shape that multiplies a stacked parameter."""
    return dial.view(-1, *[1] * (like.dim() - 1))
