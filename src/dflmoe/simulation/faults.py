"""What can go wrong with a peer, in words that the simulator and the tests share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from dflmoe.core.controls import random_like
from dflmoe.core.site import Lent, SiteData
from dflmoe.errors import OptionError
from dflmoe.types import SiteId, generator

Lie = Literal["poisoned", "random", "scaled", "swapped", "flipped", "one_class"]
"""What a hostile peer does.

``poisoned``, ``random``, ``scaled``
    Lends the opposite of what it learnt, noise of the same norm, or a thousand times as much.
``swapped``
    Lends what it learnt in the first round, when it is looked at most, and the opposite later.
``flipped``, ``one_class``
    Learns from false labels, all of them or those of one class: its head is well formed, and in the
    second case right on most rows.
"""

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
    if fault == "swapped" and lent.round > 1:
        fault = "poisoned"
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


def misled(data: SiteData, fault: Fault | None) -> SiteData:
    """Return the rows that a peer learns from: with false labels, if that is its fault.

    ``flipped`` moves every class one on, the last to the first. ``one_class`` calls the rows of the
    site's rarest class by the name of its commonest.

    Raises:
        OptionError: The task has no classes to lie about.
    """
    if fault not in ("flipped", "one_class"):
        return data
    if data.y.is_floating_point():
        raise OptionError(
            f"a hostile peer cannot be {fault!r} where images are predicted; choose another lie"
        )
    counts = data.y.flatten().bincount()
    if fault == "flipped":
        return replace(data, y=(data.y + 1) % max(len(counts), 2))
    rarest = counts.masked_fill(counts == 0, int(counts.max()) + 1).argmin()
    return replace(data, y=torch.where(data.y == rarest, counts.argmax(), data.y))


def tampered(payload: bytes) -> bytes:
    """Return a payload with its last byte changed on the way."""
    return payload[:-1] + bytes([payload[-1] ^ 1])
