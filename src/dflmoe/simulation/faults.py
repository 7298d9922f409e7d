"""What can go wrong with a peer or a link, in words that the simulator and the tests share."""

import random
from collections.abc import Mapping, Sequence, Set
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

LinkFault = Literal[
    "latency",
    "trickle",
    "slicer",
    "slow close",
    "loss",
    "blackhole",
    "half open",
    "reset",
    "refuse",
]
"""What is wrong with the links of a site. A proxy between two nodes does it to bytes:

* ``latency``: every byte comes seconds later.
* ``trickle``: so many bytes a second.
* ``slicer``: bytes come in pieces of a few.
* ``slow close``: what ends at one side ends at the other only seconds later.
* ``loss``: now and then a connection is reset: what a link that loses much looks like above TCP.
* ``blackhole``: both sides stay connected, and nothing comes any more.
* ``half open``: nothing comes to the site any more; what it sends still leaves.
* ``reset``: connections are reset once something is sent, as at a firewall that forgot them.
* ``refuse``: nobody listens.

The simulator, which goes by rounds, does it to messages: the first four come a round late, half of
them are lost, and of the last four none comes (of ``half open`` none to the site).
"""

LATE: frozenset[LinkFault] = frozenset({"latency", "trickle", "slicer", "slow close"})
DEAD: frozenset[LinkFault] = frozenset({"blackhole", "reset", "refuse"})
HALF = 0.5


@dataclass(frozen=True)
class Spell:
    """What is wrong with all links of a site for some rounds; afterwards all is mended.

    Attributes:
        site: Whose links.
        fault: What.
        first: The first round, from 1, by the count of who sends.
        last: The last round.
    """

    site: SiteId
    fault: LinkFault
    first: int
    last: int

    def strikes(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether a message of a round passes a link of the site."""
        return self.site in (sender, receiver) and self.first <= number <= self.last

    def stops(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether a message of a round never comes."""
        return self.strikes(number, sender, receiver) and (
            self.fault in DEAD or (self.fault == "half open" and receiver == self.site)
        )


def churn(sites: Sequence[SiteId], rounds: int, share: float, seed: int) -> list[Spell]:
    """Return spells by which some sites are away in each round and back in the next.

    Args:
        sites: All.
        rounds: How many.
        share: Of the sites that are away in a round: one at least, half of them at most.
        seed: Of the draw.
    """
    rng = random.Random(f"{seed}/churn")  # noqa: S311 - no secret
    count = max(1, min(round(share * len(sites)), len(sites) // 2))
    away, spells = set[SiteId](), []
    for number in range(1, rounds + 1):
        there = [site for site in sites if site not in away]
        away = set(rng.sample(there, min(count, len(there))))
        spells += [Spell(site, "refuse", number, number) for site in sorted(away)]
    return spells


@dataclass(frozen=True)
class Weather:
    """What the network does to messages; always the same for a seed.

    Attributes:
        lost: Share of messages that never arrive, drawn for each round, sender and receiver.
        gone: The round from which a site neither sends nor receives.
        seed: Of the draw.
        spells: What is wrong with links for a while: a script of faults.
    """

    lost: float = 0.0
    gone: Mapping[SiteId, int] = field(default_factory=dict)
    seed: int = 0
    spells: Sequence[Spell] = ()

    def arrives(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether a message of a round arrives.

        Args:
            number: The sender's round, from 1.
            sender: A site, or the server.
            receiver: A site, or the server.
        """
        if any(number >= self.gone.get(end, number + 1) for end in (sender, receiver)):
            return False
        if sender == receiver:
            return True
        if any(spell.stops(number, sender, receiver) for spell in self.spells):
            return False
        lost = max(self.lost, HALF if self._struck(number, sender, receiver, {"loss"}) else 0.0)
        if lost == 0:
            return True
        rng = generator(self.seed, "lost", number, sender, receiver)
        return float(torch.rand((), generator=rng)) >= lost

    def late(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether a message of a round, if it arrives, does so in the next round only."""
        return sender != receiver and self._struck(number, sender, receiver, LATE)

    def _struck(
        self, number: int, sender: SiteId, receiver: SiteId, faults: Set[LinkFault]
    ) -> bool:
        return any(
            spell.fault in faults and spell.strikes(number, sender, receiver)
            for spell in self.spells
        )


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
