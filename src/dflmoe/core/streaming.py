"""Rows that are read as they are needed: what travels through the method is their numbers.

A site whose rows do not fit into memory is given ``x`` as the numbers of its rows, and a body that
reads them first. Everything else of the method neither knows nor cares.
"""

import copy
import hashlib
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dflmoe.core.site import Network
from dflmoe.core.stacking import OneByOne, bodies_in

AT_ONCE = 64
"""Rows that are read and computed at once where nothing is learnt."""


@runtime_checkable
class Rows(Protocol):
    """Rows by their numbers; several threads may ask at once."""

    def __call__(self, numbers: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
        """Return some rows."""
        ...

    def keep(
        self, made_by: str, shape: tuple[int, ...]
    ) -> tuple[Float[Tensor, "every ..."], Bool[Tensor, " every"]] | None:
        """Return room for what is made of every row, and which of it is there already.

        Args:
            made_by: What makes it, the same only for the very same.
            shape: Of what is made of one row.

        Returns:
            The same memory each time; none where there is not enough.
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
        self.body, self._rows, self._keeps = body, rows, keeps

    def __deepcopy__(self, memo: dict[int, object]) -> "Streaming":
        """Return one with weights of its own, which reads the same rows."""
        return Streaming(copy.deepcopy(self.body, memo), self._rows, keeps=self._keeps)

    def forward(self, number: Float[Tensor, " row"]) -> Float[Tensor, "row feature ..."]:
        """Return the features of rows, given as their numbers."""
        numbers = number.detach().round().to(torch.int64).cpu()
        if torch.is_grad_enabled() and not self._keeps:
            return self._made(numbers, number)
        if not self._keeps:
            return torch.cat([self._made(some, number) for some in numbers.split(AT_ONCE)])
        with torch.no_grad():
            return self._known(numbers, number)

    def _made(self, numbers: Int[Tensor, " row"], like: Tensor) -> Tensor:
        out: Tensor = self.body(self._rows(numbers).to(like.device))
        return out

    def _known(self, numbers: Int[Tensor, " row"], like: Tensor) -> Tensor:
        """Return features that are kept, once they have been made."""
        room = None
        if len(numbers):
            first = self._made(numbers[:1], like)
            room = self._rows.keep(self._made_by(), tuple(first.shape[1:]))
        if room is None:
            return torch.cat([self._made(some, like) for some in numbers.split(AT_ONCE)])
        kept, there = room
        for some in numbers[~there[numbers]].unique().split(AT_ONCE):
            kept[some] = self._made(some, like).cpu().to(kept.dtype)
            there[some] = True
        return kept[numbers].to(like.device)

    def _made_by(self) -> str:
        """Return what tells these weights from all others."""
        digest = hashlib.sha256(f"{self.body}|{bodies_in()}".encode())
        for name, p in self.body.named_parameters():
            digest.update(name.encode())
            digest.update(p.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def streaming(network: Network, rows: Rows | None) -> Network:
    """Return a network whose body reads its rows; the same where there is nothing to be read."""
    if rows is None:
        return network
    return replace(network, body=Streaming(network.body, rows, keeps=network.common))
