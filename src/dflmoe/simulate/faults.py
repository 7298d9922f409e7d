"""What can go wrong with a peer, in words that the simulator and the tests share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from dflmoe.core.site import Lent
from dflmoe.types import SiteId, generator

Fault = Literal["silent", "tampered", "poisoned"]


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


def poisoned(lent: Lent) -> Lent:
    """Return a head that says the opposite: every tensor negated, of a norm like any other."""
    return replace(lent, tensors={name: -p for name, p in lent.tensors.items()})


def tampered(payload: bytes) -> bytes:
    """Return a payload with its last byte changed on the way."""
    return payload[:-1] + bytes([payload[-1] ^ 1])
