"""Work that the sites of one machine may have done together.

The steps of a small network cost what launching them costs, hardly what they compute. So whatever
core does in many steps with a leading axis of models it asks for as a ``Stackable``: one site has
it done at once, and where many sites play on one machine (``simulation.company``), those that ask
for the like are stacked along that axis and have it done as one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dflmoe.types import Params


@dataclass(frozen=True)
class Parts:
    """Whose are which of the stacked models.

    Attributes:
        sizes: Of each site, how many entries of the leading axis.
        chances: Of each site, the random stream that its draws come from.
    """

    sizes: Sequence[int]
    chances: Sequence[torch.Generator | None]

    def drawn(self, weight: Float[Tensor, "model pick"], size: int) -> Int[Tensor, "model {size}"]:
        """Draw rows of each model with replacement, each site's from its own stream.

        Args:
            weight: How likely a row is drawn.
            size: Rows to draw of each model.
        """
        each = len(weight) // sum(self.sizes)
        picks = [
            torch.multinomial(part.cpu(), size, replacement=True, generator=rng)
            for part, rng in zip(
                weight.split([n * each for n in self.sizes]), self.chances, strict=True
            )
        ]
        return (picks[0] if len(picks) == 1 else torch.cat(picks)).to(weight.device)


@runtime_checkable
class Stackable(Protocol):
    """A computation in which no entry of the leading axis knows of another.

    What compares equal may be stacked. Tensors of different sizes are filled up with zeros, which
    must mean nothing to it: rows of weight zero, experts that are not available.
    """

    def __hash__(self) -> int:
        """Return the same of what may be stacked."""
        ...

    def __call__(self, given: Params, parts: Parts) -> Params:
        """Return tensors with the leading axis of what was given."""
        ...


Ask = Callable[[Stackable, Params, torch.Generator | None], Params]

_here = threading.local()


def together(do: Stackable, given: Params, rng: torch.Generator | None = None) -> Params:
    """Have something done: with the like of others where this thread plays among many sites.

    Args:
        do: What.
        given: Tensors with one leading axis.
        rng: Chance.

    Returns:
        Its tensors. Beyond the site's own size an axis may have been filled up.
    """
    ask: Ask | None = getattr(_here, "ask", None)
    if ask is not None:
        return ask(do, given, rng)
    return do(given, Parts([len(next(iter(given.values())))], [rng]))


@contextmanager
def asking(ask: Ask) -> Iterator[None]:
    """Let what this thread has done go through ``ask``."""
    _here.ask = ask
    try:
        yield
    finally:
        del _here.ask
