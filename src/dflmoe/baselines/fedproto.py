"""FedProto: sites exchange the mean features of each class, and pull their own towards them.

Tan et al., AAAI 2022. The pull is a row's squared distance from its class's prototype, averaged
over features, of weight 1. The paper predicts by the nearest prototype; we serve the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import SERVER, Outcome
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.task import Task, over_places
from dflmoe.errors import ExperimentError, NetworkError
from dflmoe.types import Params, SiteId

MEAN, ROWS = "prototypes/mean", "prototype_rows"


@dataclass(frozen=True)
class FedProto:
    """One site of FedProto; without a pull it learns alone."""

    network: Network
    budget: Budget
    pull: float = 1.0

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        if data.y.dim() > 1:
            raise ExperimentError("FedProto needs one class a row; leave it out for images")
        return self.budget.at_home(self.network).init(site, data, rng)

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train under the pull; lend the mean features of each class, and of how many rows."""
        losses = partial(self._pulled, state.params.get("heard", {}))
        home = self.budget.at_home(self.network, losses)
        (state, lent), (x, row, times) = home.prepare(state, data, rng), home.learnt_rows(data)
        features = over_places(home.features(state.params["trained"], x))
        counts = F.one_hot(data.y[row], self.network.classes) * times[:, :, None]
        mean = (counts.mT @ features / counts.sum(1)[..., None]).nan_to_num()
        return state, replace(lent, tensors={MEAN: mean, ROWS: counts.sum(1)})

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Keep the prototypes of all sites for the next round."""
        heard = inbox[0].tensors if inbox else state.params.get("heard", {})
        state, outcome = self.budget.at_home(self.network).absorb(state, [], data, rng)
        return replace(state, params={**state.params, "heard": heard}), outcome

    def _pulled(self, heard: Params, model: Params, x: Tensor, y: Tensor, task: Task) -> Tensor:
        home = self.budget.at_home(self.network)
        features = home.features(model, x)
        losses = task.losses(home.by_heads(model, features), y)
        if not heard:
            return losses
        of = torch.arange(len(y))[:, None], y
        apart = (over_places(features) - heard[MEAN][of]).square().mean(2)
        return losses + self.pull * apart * (heard[ROWS][of] > 0)


def meant(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: of each class the mean over all sites' rows, fit by fit."""
    if len(widths := {lent.width for lent in lents}) > 1:
        raise NetworkError(f"FedProto needs features of one width, not {sorted(widths)}")
    rows, mean = (torch.stack([lent.tensors[name] for lent in lents]) for name in (ROWS, MEAN))
    mean = ((mean * rows[..., None]).sum(0) / rows.sum(0)[..., None]).nan_to_num()
    return replace(lents[0], site=SERVER, tensors={MEAN: mean, ROWS: rows.sum(0)})


RIVAL = Rival("FedProto", "Tan et al., AAAI 2022", ("server", "equal widths"), FedProto, meant)
