"""Some sites that one worker plays, half a round at a time.

What of a group never changes (``Group``) goes to a worker once; what moves (``Seat``) comes out of
one half and goes into the next. So it can wait in memory, on disk or at another machine in between,
and a half that got lost is played again with the same outcome.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import thread_time
from typing import Any, Protocol, TypeVar

import torch

from dflmoe.core.algorithm import Algorithm, Outcome
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.errors import TrainingError
from dflmoe.simulation.company import in_company
from dflmoe.simulation.device import CPU, PrecisionName, moved
from dflmoe.types import SiteId, generator
from dflmoe.wire.state import state_bytes, state_of

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """What never changes of some sites.

    Attributes:
        algorithms: Of each site.
        data: Of each site.
        chance: Seed and purpose of all random streams.
        device: Where they compute.
        precision: What bodies compute in.
    """

    algorithms: Mapping[SiteId, Algorithm]
    data: Mapping[SiteId, SiteData]
    chance: tuple[int, str]
    device: torch.device
    precision: PrecisionName

    def there(self) -> "Group":
        """Return it with all of it on its device."""
        return replace(self, algorithms=self.taken(self.algorithms), data=self.taken(self.data))

    def taken(self, thing: T) -> T:
        """Return something from the CPU on the group's device."""
        return thing if self.device == CPU else moved(thing, self.device)

    def given(self, thing: T) -> T:
        """Return something from the group's device on the CPU."""
        return thing if self.device == CPU else moved(thing, CPU)


@dataclass
class Seat:
    """What moves of a site: its state, and its random stream between the halves of a round.

    Attributes:
        state: On the CPU.
        chance: State of the random stream; empty between rounds.
    """

    state: SiteState
    chance: torch.Tensor

    def as_bytes(self) -> bytes:
        """Return it as bytes."""
        beside = {"chance": self.chance}
        return state_bytes(replace(self.state, params={**self.state.params, SEAT: beside}))

    @classmethod
    def of_bytes(cls, raw: bytes) -> "Seat":
        """Return what some bytes are."""
        state = state_of(raw)
        parts = dict(state.params)
        kept = parts.pop(SEAT)
        return cls(replace(state, params=parts), kept["chance"])


SEAT = "/seat"
"""Part of a stored state that is no algorithm's."""

Seats = dict[SiteId, Seat]

Half = Callable[[Group, Seats, Any], tuple[Seats, Any]]
"""What a worker does with a group: seats in, seats and something for the exchange out."""

NO_CHANCE = torch.empty(0, dtype=torch.uint8)


class Executor(Protocol):
    """Workers that hold groups of sites and play them."""

    def each(self, half: Half, given: Sequence[Any]) -> Iterator[Any]:
        """Play half a round of every group; yields what comes of it in the groups' order."""
        ...

    def seats(self) -> Iterator[tuple[SiteId, Seat]]:
        """Yield what moves of every site."""
        ...

    def close(self) -> None:
        """Let go of all workers."""
        ...


Timed = dict[SiteId, tuple[T, float]]
"""What comes of each site, and its seconds of computing."""


def begun(group: Group, _: Seats, given: None) -> tuple[Seats, Timed[None]]:  # noqa: ARG001
    """Bring the sites of a group into being."""
    seed, purpose = group.chance

    def of(site: SiteId) -> SiteState:
        rng = generator(seed, purpose, site, "init")
        return group.algorithms[site].init(site, group.data[site], rng)

    done = _each(group, {site: partial(of, site) for site in group.algorithms})
    seats = {site: Seat(group.given(state), NO_CHANCE) for site, (state, _) in done.items()}
    return seats, {site: (None, took) for site, (_, took) in done.items()}


def lending(group: Group, seats: Seats, number: int) -> tuple[Seats, Timed[Lent]]:
    """Play the first half of a round, to where the sites lend."""
    seed, purpose = group.chance
    streams = {site: generator(seed, purpose, site, number) for site in seats}

    def of(site: SiteId) -> tuple[SiteState, Lent]:
        state = group.taken(seats[site].state)
        return group.algorithms[site].prepare(state, group.data[site], streams[site])

    done = _each(group, {site: partial(of, site) for site in seats})
    seats = {
        site: Seat(group.given(state), streams[site].get_state())
        for site, ((state, _), _) in done.items()
    }
    return seats, {site: (group.given(lent), took) for site, ((_, lent), took) in done.items()}


def borrowing(
    group: Group, seats: Seats, heard: Mapping[SiteId, list[Lent]]
) -> tuple[Seats, Timed[Outcome]]:
    """Play the second half of a round, with what came."""

    def of(site: SiteId) -> tuple[SiteState, Outcome]:
        rng = torch.Generator()
        rng.set_state(seats[site].chance)
        state, inbox = group.taken(seats[site].state), group.taken(heard[site])
        return group.algorithms[site].absorb(state, inbox, group.data[site], rng)

    done = _each(group, {site: partial(of, site) for site in seats})
    seats = {site: Seat(group.given(state), NO_CHANCE) for site, ((state, _), _) in done.items()}
    return seats, {site: (group.given(said), took) for site, ((_, said), took) in done.items()}


def _each(group: Group, calls: Mapping[SiteId, Callable[[], T]]) -> Timed[T]:
    """Return what comes of every site's call, and its seconds; company shares them equally.

    Raises:
        TrainingError: A loss of a site is not finite.
    """

    def named(site: SiteId, call: Callable[[], T]) -> tuple[T, float]:
        began = thread_time()
        try:
            return call(), thread_time() - began
        except FloatingPointError as error:
            raise TrainingError(
                f"site {site!r}: {error}; check its data for extreme values"
            ) from error

    asked = [partial(named, site, call) for site, call in calls.items()]
    done = [asked[0]()] if len(asked) == 1 else in_company(asked, group.device, group.precision)
    mean = sum(took for _, took in done) / len(done)
    return {site: (one, mean) for site, (one, _) in zip(calls, done, strict=True)}
