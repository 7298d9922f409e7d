"""FedKD: a mentor at home and a common mentee teach each other, and its updates travel compressed.

Wu et al., Communication-efficient federated learning via knowledge distillation, Nature
Communications 2022. What both are taught weighs less where their losses are high (which count as
constants: else a high loss would pay off). Where the mentee's body learns, its features, mapped,
are held near the mentor's. Of every matrix of an update the singular values travel that hold a
share of its energy, 0.95 at first and 0.98 in the end (as in public code), both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.low_rank import ENERGY, compressed, mean, moved
from dflmoe.baselines.messenger import Both, agreed, with_messenger
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import Outcome
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import learns
from dflmoe.core.task import over_places
from dflmoe.types import SiteId

LEAST = 0.01


@dataclass(frozen=True)
class FedKD:
    """One site of FedKD; the share of energy is that of the first round, and of the last."""

    home: Averaging
    energy: tuple[float, float]

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        return self.home.init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train both; lend how the mentee moved."""
        before, (first, last) = state.params["model"], self.energy
        energy = first + (last - first) * state.round / max(1, self.home.rounds - 1)
        state, lent = self.home.prepare(state, data, rng)
        rows = lent.tensors.pop("rows")
        update = compressed({n: p - before[n] for n, p in lent.tensors.items()}, energy)
        notes = {"rows": rows, ENERGY: torch.full(rows.shape, energy)}
        return state, replace(lent, tensors={**update, **notes})

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Move the mentee as all mentees moved on average."""
        heard = [moved(state.params["model"], answer) for answer in inbox]
        return self.home.absorb(state, heard, data, rng)


def build(network: Network, budget: Budget, energy: tuple[float, float] = (0.95, 0.98)) -> FedKD:
    """Return one site of FedKD."""
    beside = {"map": nn.Linear(agreed(network, budget).width, network.width, bias=False)}
    return FedKD(with_messenger(network, budget, mutual, beside), energy)


def mutual(both: Both) -> Tensor:
    """Return the losses of mentor and mentee; see ``messenger.Lesson``."""
    losses = both.losses(both.said) + both.losses(both.told)
    shared = both.taught(both.said, both.told) + both.taught(both.told, both.said)
    if learns(both.messenger.body):
        mapped = over_places(both.theirs) @ both.model["map/weight"].mT
        shared = shared + (over_places(both.own) - mapped).square().mean(2)
    return losses + shared / losses.detach().mean(1, keepdim=True).clamp(min=LEAST)


RIVAL = Rival("FedKD", "Wu et al., Nat. Commun. 2022", ("server", "an agreed network"), build, mean)
