"""Rows that are read as they are needed: what travels through the method is their numbers.

A site whose rows do not fit into memory is given ``x`` as the numbers of its rows, and a body that
reads them first. Everything else of the method neither knows nor cares.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dflmoe.core.site import Network
from dflmoe.core.stacking import OneByOne, bodies_in

AT_ONCE = 64
"""Rows that are read and computed at once where nothing is learnt."""

Make = Callable[[Int[Tensor, " some"]], Float[Tensor, "some ..."]]
"""What is made of some rows, by their numbers."""


@runtime_checkable
class Rows(Protocol):
    """Rows by their numbers; several threads may ask at once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    def __call__(self, numbers: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
        """Return some rows."""
        ...

    def keep(
        self, made_by: str, shape: tuple[int, ...], numbers: Int[Tensor, " row"], make: Make
    ) -> Float[Tensor, "row ..."]:
        """Return what is made of rows, made once only where there is room to keep it.

        Args:
            made_by: What makes it, the same only for the very same.
            shape: Of what is made of one row.
            numbers: The rows.
            make: Makes it, of ``AT_ONCE`` rows at most.
        """
        ...


class Streaming(OneByOne):
    """A body that is given the numbers of rows, and reads them."""

    def __init__(self, body: nn.Module, rows: Rows, *, keeps: bool) -> None:
        """Wrap a body.

        Args:
            body: What makes features of rows, ``[row, ...] -> [row, feature, ...]``.
            rows: Where they are read.
            keeps: Whether its weights stay as they are, so that no row is read twice.
        """
        super().__init__()
        self.body, self.rows, self._keeps = body, rows, keeps

    def __deepcopy__(self, memo: dict[int, object]) -> "Streaming":
        """Return one with weights of its own, which reads the same rows."""
        return Streaming(copy.deepcopy(self.body, memo), self.rows, keeps=self._keeps)

    def reading(self, rows: Rows) -> "Streaming":
        """Return the same body for other rows."""
        return Streaming(self.body, rows, keeps=self._keeps)

    def forward(self, number: Float[Tensor, " row"]) -> Float[Tensor, "row feature ..."]:
        """Return the features of rows, given as their numbers."""
        numbers = number.detach().round().to(torch.int64).cpu()

        def make(some: Tensor) -> Tensor:
            return self._made(self.rows(some).to(number.device))

        if self._keeps:
            with torch.no_grad():
                shape = self._made(torch.zeros(1, *self.rows.shape, device=number.device)).shape
                known = self.rows.keep(self._made_by(), tuple(shape[1:]), numbers, make)
                return known.to(number.device)
        if torch.is_grad_enabled():
            return make(numbers)
        return torch.cat([make(some) for some in numbers.split(AT_ONCE)])

    def _made(self, rows: Tensor) -> Tensor:
        out: Tensor = self.body(rows)
        return out

    def _made_by(self) -> str:
        """Return what tells these weights from all others."""
        digest = hashlib.sha256(f"{self.body}|{bodies_in()}".encode())
        for name, p in self.body.named_parameters():
            digest.update(name.encode())
            digest.update(p.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Beside:
    """Rows that are read, and more of them in memory, which have numbers below zero (``Rows``)."""

    def __init__(self, rows: Rows, more: Float[Tensor, "more ..."]) -> None:
        self.rows, self.more, self.shape = rows, more, rows.shape

    def __call__(self, numbers: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
        """See ``Rows``."""
        found = torch.empty(len(numbers), *self.shape, device="cpu")
        held = numbers < 0
        found[held] = self.more[-1 - numbers[held]]
        found[~held] = self.rows(numbers[~held])
        return found

    def keep(
        self, made_by: str, shape: tuple[int, ...], numbers: Int[Tensor, " row"], make: Make
    ) -> Float[Tensor, "row ..."]:
        """See ``Rows``; what is made of rows in memory is not kept."""
        found = torch.empty(len(numbers), *shape, device="cpu")
        held = numbers < 0
        for some in held.nonzero()[:, 0].split(AT_ONCE) if held.any() else ():
            found[some] = make(numbers[some]).to(found)
        found[~held] = self.rows.keep(made_by, shape, numbers[~held], make).to(found)
        return found


def with_more(
    network: Network, more: Float[Tensor, "more ..."]
) -> tuple[Network, Float[Tensor, "more ..."]]:
    """Return a network that can be given some more rows, and what to give it for them.

    Args:
        network: Of a site.
        more: Rows in memory.

    Returns:
        The network and the rows as they are; or, where the network reads rows by their numbers,
        one that knows more, and their numbers.
    """
    body = network.body
    if not isinstance(body, Streaming):
        return network, more
    rows, known = body.rows, more[:0]
    if isinstance(rows, Beside):
        known, rows = rows.more, rows.rows
    both = Beside(rows, torch.cat([known, more]))
    numbers = -1.0 - torch.arange(len(known), len(both.more))
    return replace(network, body=body.reading(both)), numbers


def streaming(network: Network, rows: Rows | None) -> Network:
    """Return a network whose body reads its rows; the same where there is nothing to be read."""
    if rows is None:
        return network
    return replace(network, body=Streaming(network.body, rows, keeps=network.common))
