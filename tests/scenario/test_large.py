"""A simulation that goes on for long takes no more of the machine than one that has begun."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import Algorithm, Outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.networks import plain
from dflmoe.simulation.federation import play
from dflmoe.simulation.machine import Machine
from dflmoe.types import SiteId

ROUNDS, SETTLED = 200, 50
DATA = {f"site-{k}": made_data(made_rows(f"site-{k}", 24, k)) for k in range(6)}


@dataclass
class Taken:
    """What a process takes, by round."""

    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def look(self) -> None:
        me = psutil.Process()
        self.files.append(me.num_fds())
        self.threads.append(me.num_threads())
        self.memory.append(me.memory_info().rss)


@dataclass(frozen=True)
class Watched:
    """An algorithm at whose rounds one looks at the machine."""

    algorithm: Algorithm
    taken: Taken

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        return self.algorithm.init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        self.taken.look()
        return self.algorithm.prepare(state, data, rng)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        return self.algorithm.absorb(state, inbox, data, rng)


@pytest.mark.parametrize("company", [1, 3])
def test_two_hundred_rounds_of_a_simulation_take_no_more_than_fifty(company: int) -> None:
    taken = Taken()
    method = DFLMoE(plain(4, 2), Dials(mixture_steps=1))
    sites: dict[SiteId, Algorithm] = dict.fromkeys(DATA, method)
    sites["site-0"] = Watched(method, taken)
    play(
        sites,
        DATA,
        rounds=ROUNDS,
        seed=0,
        purpose="t",
        machine=Machine(workers=2, company=company),
        history=False,
    )
    assert len(taken.memory) == ROUNDS
    assert max(taken.files[SETTLED:]) <= max(taken.files[:SETTLED]) + 2
    assert max(taken.threads[SETTLED:]) <= max(taken.threads[:SETTLED]) + 2
    assert taken.memory[-1] - taken.memory[SETTLED] < 16 * 2**20
