"""Whom a site hears: all peers, some that are given, or a few by usefulness and chance.

Where everybody hears everybody, a round of N sites costs N^2. A site that hears k peers a round
keeps those that have been of use to it and tries others by chance, so that its memory and time do
not grow with N, and no good head stays unheard for ever.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dflmoe.core.algorithm import Outcome
from dflmoe.types import SiteId

TRIED = 4
"""Of so many peers that a site hears, one at least is drawn by chance."""


class Peers(Protocol):
    """Who hears whom."""

    def heard(self, site: SiteId, number: int, last: Outcome | None) -> Sequence[SiteId]:
        """Return the peers that a site hears in a round.

        Args:
            site: Who hears.
            number: The round, from 0.
            last: What came of its last one.
        """
        ...


@dataclass(frozen=True)
class Everybody:
    """All peers, always."""

    sites: Sequence[SiteId]

    def heard(self, site: SiteId, number: int, last: Outcome | None) -> Sequence[SiteId]:  # noqa: ARG002
        """See ``Peers``."""
        return [peer for peer in self.sites if peer != site]


@dataclass(frozen=True)
class Given:
    """Those of a table, always."""

    hears: Mapping[SiteId, Sequence[SiteId]]

    def heard(self, site: SiteId, number: int, last: Outcome | None) -> Sequence[SiteId]:  # noqa: ARG002
        """See ``Peers``."""
        return self.hears[site]


class Sampled:
    """A few: the most useful of the last round, and others by chance."""

    def __init__(self, sites: Sequence[SiteId], count: int, seed: int) -> None:
        self._sites, self._seed = sites, seed
        self._count = min(count, len(sites) - 1)
        self._known = set(sites)

    def heard(self, site: SiteId, number: int, last: Outcome | None) -> Sequence[SiteId]:
        """See ``Peers``."""
        tried = -(-self._count // TRIED)
        found = dict.fromkeys(self._useful(site, last)[: self._count - tried])
        rng = random.Random(f"{self._seed}/peers/{site}/{number}")  # noqa: S311 - no secret
        while len(found) < self._count:
            peer = self._sites[rng.randrange(len(self._sites))]
            if peer != site:
                found[peer] = None
        return list(found)

    def _useful(self, site: SiteId, last: Outcome | None) -> list[SiteId]:
        """Return the peers without whom the mixture would be worse, the most useful first.

        Where a method does not say what each was worth, its weight says it.
        """
        if last is None:
            return []
        worth = {peer: float(of.mean()) for peer, of in (last.worth or last.share).items()}
        useful = [p for p, value in worth.items() if value > 0 and p in self._known and p != site]
        return sorted(useful, key=lambda peer: (-worth[peer], peer))


def peers_of(
    hears: Mapping[SiteId, Sequence[SiteId]] | int | None, sites: Sequence[SiteId], seed: int
) -> Peers:
    """Return who hears whom.

    Args:
        hears: The peers of each site, or how many each hears; all of them if not given.
        sites: All.
        seed: Of chance.
    """
    if hears is None or (isinstance(hears, int) and hears >= len(sites) - 1):
        return Everybody(sites)
    return Sampled(sites, hears, seed) if isinstance(hears, int) else Given(hears)
