"""Local only: the same network, trained alone to convergence; it lends nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dflmoe.core.algorithm import Outcome, alone_outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import learns
from dflmoe.core.training import Training
from dflmoe.types import SiteId


@dataclass(frozen=True)
class LocalOnly:
    """The network of one site, all of it trained, body included."""

    network: Network
    training: Training

    def _whole(self) -> DFLMoE:
        network = replace(self.network, common=not learns(self.network.body))
        return DFLMoE(network, Dials(body="private"), self.training)

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        return self._whole().init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """See ``Algorithm.prepare``."""
        state, lent = self._whole().prepare(state, data, rng)
        return state, replace(lent, tensors={})

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],  # noqa: ARG002 - nobody lends
        data: SiteData,
        rng: torch.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> tuple[SiteState, Outcome]:
        """See ``Algorithm.absorb``."""
        return state, alone_outcome(self._whole().own_log_probs(state, data), state, data)
