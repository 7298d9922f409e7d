"""FedMD: sites exchange predictions on public rows, and each learns from their mean.

Li and Wang, 2019, algorithm 1, but for the first training on public labels: ours have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import SERVER, Outcome
from dflmoe.core.distil import opinion_of
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.training import Adam, cross_fit, leaves
from dflmoe.types import Params, SiteId


@dataclass(frozen=True)
class FedMD:
    """One site of FedMD; a soft one lends and digests probabilities, by its task's losses."""

    network: Network
    budget: Budget
    soft: bool = False

    @property
    def _home(self) -> Averaging:
        return self.budget.at_home(self.network, decays=1)

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``: weights of the site's own."""
        seed = int(torch.randint(2**31, (), generator=rng, device="cpu"))
        return replace(self._home, seed=seed).init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train alone at first; revisit own rows; lend scores on public rows."""
        if state.round == 0:
            own, plan = state.params["model"], self.budget.training
            own = cross_fit(self._home.logits, own, data, plan, rng).params
            state = replace(state, params={**state.params, "model": own})
        state, lent = self._home.prepare(state, data, rng)
        said = self._scores(state.params["trained"], data, slice(None))
        tensors = {"scores": opinion_of(said, data.task) if self.soft else said}
        return state, replace(lent, kind="predictions", tensors=tensors)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Digest the mean scores of all sites."""
        optimiser = Adam(params := leaves(state.params["trained"]), self.budget.steps.learning_rate)
        for mean in (answer.tensors["scores"] for answer in inbox):
            for _ in range(self.budget.steps.max_steps):
                pick = torch.randperm(mean.shape[1], generator=rng, device="cpu")
                pick = pick[: self.budget.steps.batch]
                own, told = self._scores(params, data, pick), mean[:, pick]
                apart = data.task.losses(own, told) if self.soft else (own - told).abs()
                optimiser.step(apart.flatten(1).mean(1).sum())
        kept = {**state.params, "trained": {name: p.detach() for name, p in params.items()}}
        return self._home.absorb(replace(state, params=kept), [], data, rng)

    def _scores(self, model: Params, data: SiteData, pick: torch.Tensor | slice) -> torch.Tensor:
        """Return what every fit says of public rows, ``[model, anchor, class, ...]``."""
        if data.anchors is None:
            raise ValueError("FedMD needs public rows (anchors), and the federation has none")
        rows, models = data.anchors[pick], data.crossfit.splits * data.crossfit.fits
        return self._home.logits(model, rows.expand(models, *rows.shape))


def mean_scores(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: the mean of the scores, fit by fit."""
    mean = torch.stack([lent.tensors["scores"] for lent in lents]).mean(0)
    return replace(lents[0], site=SERVER, tensors={"scores": mean})


RIVAL = Rival("FedMD", "Li and Wang, 2019", ("server", "public data"), FedMD, mean_scores)
