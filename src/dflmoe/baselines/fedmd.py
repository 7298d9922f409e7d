"""FedMD: sites exchange predictions on public rows, and each learns from their mean.

Li and Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019, algorithm 1: train
alone; then in every round send the scores on public rows, *digest* their mean (L1 on the scores)
and *revisit* the own rows. Any networks; it needs public rows of the same kind and a server. In the
paper these have labels, which a first training uses; ours have none, so that step is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines.averaging import SERVER, Averaging
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import Outcome
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.training import adam, cross_fit, leaves, step
from dflmoe.types import Params, SiteId


@dataclass(frozen=True)
class FedMD:
    """One site of FedMD; what is kept after each round is chosen out of fold."""

    network: Network
    budget: Budget

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``: weights of the site's own."""
        seed = int(torch.randint(2**31, (), generator=rng))
        return replace(self._home, seed=seed).init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train alone, or revisit the own rows; lend the scores on the public rows."""
        if state.round == 0:
            fitted = cross_fit(
                self._home.logits, state.params["model"], data, self.budget.training, rng
            )
            state = replace(state, params={**state.params, "model": fitted.params})
        state, _ = self._home.prepare(state, data, rng)
        scores = self._scores(state.params["trained"], data).detach()
        return state, Lent(
            state.site, state.round, "predictions", self.network.width, {"scores": scores}
        )

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Digest the mean scores of all sites."""
        if inbox:
            params = leaves(state.params["trained"])
            optimiser = adam(params, self.budget.steps.learning_rate)
            mean = inbox[0].tensors["scores"]
            size = self.budget.steps.batch or mean.shape[1]
            for _ in range(self.budget.steps.max_steps):
                pick = torch.randperm(mean.shape[1], generator=rng)[:size]
                apart = (self._scores(params, data, pick) - mean[:, pick]).abs()
                step(optimiser, params, apart.flatten(1).mean(1).sum())
            digested = {name: p.detach() for name, p in params.items()}
            state = replace(state, params={**state.params, "trained": digested})
        return self._home.absorb(state, [], data, rng)

    @property
    def _home(self) -> Averaging:
        """Local steps, out-of-fold scores and the best round so far, without any averaging."""
        steps = replace(self.budget.steps, weight_decays=self.budget.steps.weight_decays[-1:])
        return Averaging(self.network, steps, together=False, gossip=True)

    def _scores(
        self, model: Params, data: SiteData, pick: Tensor | None = None
    ) -> Float[Tensor, "model anchor class ..."]:
        """Return what every fit says of the public rows.

        Raises:
            ValueError: There are none.
        """
        if data.anchors is None:
            raise ValueError("FedMD needs public rows (anchors), and the federation has none")
        rows = data.anchors if pick is None else data.anchors[pick]
        models = len(next(iter(model.values())))
        return self._home.logits(model, rows.expand(models, *rows.shape))


def mean_scores(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: the mean of the scores, fit by fit."""
    scores = torch.stack([lent.tensors["scores"] for lent in lents]).mean(0)
    return Lent(SERVER, lents[0].round, "predictions", lents[0].width, {"scores": scores})


RIVAL = Rival("FedMD", "Li and Wang, 2019", ("server", "public data"), FedMD, mean_scores)
