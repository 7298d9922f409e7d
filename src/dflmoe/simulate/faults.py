"""What can go wrong with a peer, in words that the simulator and the tests share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from dflmoe.core.controls import random_like
from dflmoe.core.site import Lent
from dflmoe.types import SiteId, generator

Lie = Literal["poisoned", "random", "scaled"]
"""What a hostile peer lends: the opposite, noise of the same norm, or a thousand times as much."""

Fault = Literal["silent", "tampered"] | Lie

SCALE = 1000.0


@dataclass(frozen=True)
class Weather:
    """What the network does to messages; always the same for a seed.

    Attributes:
        lost: Share of messages that never arrive, drawn for each round, sender and receiver.
        gone: The round from which a site neither sends nor receives.
        seed: Of the draw.
    """

    lost: float = 0.0
    gone: Mapping[SiteId, int] = field(default_factory=dict)
    seed: int = 0

    def arrives(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether a message of a round arrives.

        Args:
            number: The sender's round, from 1.
            sender: A site, or the server.
            receiver: A site, or the server.
        """
        if any(number >= self.gone.get(end, number + 1) for end in (sender, receiver)):
            return False
        if self.lost == 0 or sender == receiver:
            return True
        rng = generator(self.seed, "lost", number, sender, receiver)
        return float(torch.rand((), generator=rng)) >= self.lost


FAIR = Weather()
"""Every message arrives."""


def lied(lent: Lent, fault: Fault | None) -> Lent:
    """Return what a peer lends: in place of its head a lie, if that is its fault.

    All but ``scaled`` are of the head's norm.
    """
    match fault:
        case "poisoned":
            tensors = {name: -p for name, p in lent.tensors.items()}
        case "random":
            tensors = random_like(lent.tensors, generator(0, "lie", lent.site, lent.round))
        case "scaled":
            tensors = {name: SCALE * p for name, p in lent.tensors.items()}
        case _:
            return lent
    return replace(lent, tensors=tensors)


def tampered(payload: bytes) -> bytes:
    """Return a payload with its last byte changed on the way."""
    return payload[:-1] + bytes([payload[-1] ^ 1])
