"""FedAvg: a server averages whole models, every round.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS
2017, algorithm 1. Needs a server that all sites can reach and trust, the same network everywhere,
and the exact number of rows of each site. Weight decay and the round to stop at are chosen by the
sites' summed out-of-fold log-loss, the same care that the other arms get.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dflmoe.core.algorithm import Outcome, alone_outcome
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import initial, part_of, stacked_call
from dflmoe.core.training import Training, adam, batch_of, decay, leaves, packed, row_loss, step
from dflmoe.types import Params, SiteId, generator

SERVER = "server"


@dataclass(frozen=True)
class FedAvg:
    """One site of a FedAvg federation; ``averaged`` is the server.

    Attributes:
        network: The network that all sites share.
        training: Its grid of weight decays, learning rate and batch; ``max_steps`` are the local
            steps between two averages.
        seed: Of the common initial weights.
    """

    network: Network
    training: Training
    seed: int = 0

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        rng = generator(self.seed, "body")
        models = self._models(data)
        model = {
            f"{part}/{name}": p
            for part, module in (("body", self.network.body), ("head", self.network.head))
            for name, p in initial(module, models, rng).items()
        }
        worst = torch.full((data.crossfit.splits, len(self.training.weight_decays)), torch.inf)
        kept = {"score": worst}
        return SiteState(site, 0, {"model": model, "best": model, "kept": kept})

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Score the common model on rows it did not see, then train it on own rows and send it."""
        grid, folds = self.training.weight_decays, data.crossfit
        x, y, learnt, judged = self._rows(data)
        row, weight = packed(learnt)
        model = torch.arange(len(row))[:, None]
        with torch.no_grad():
            losses = row_loss(self._logits(state.params["model"], x), y)
            scores = (losses * judged).sum(1).view(folds.splits, len(grid), folds.fits).sum(2)
        params = leaves(state.params["model"])
        strength = torch.tensor(grid).repeat_interleave(folds.fits).repeat(folds.splits)
        optimiser = adam(params, self.training.learning_rate)
        for _ in range(self.training.max_steps):
            at, _, share = batch_of(row, row, weight, self.training.batch, rng)
            loss = (row_loss(self._logits(params, x[model, at]), y[model, at]) * share).sum()
            step(optimiser, params, loss + decay(params, None, strength))
        lent = {name: p.detach() for name, p in params.items()}
        lent |= {"score": scores, "rows": learnt.sum(1)}
        state = replace(state, round=state.round + 1)
        return state, Lent(state.site, state.round, "model", self.network.width, lent)

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],
        data: SiteData,
        rng: torch.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> tuple[SiteState, Outcome]:
        """Take the server's model; keep the one that was best out of fold so far."""
        (answer,) = inbox
        folds, best_score = data.crossfit, state.params["kept"]["score"]
        score = answer.tensors["score"]
        better = (score < best_score).repeat_interleave(folds.fits, dim=1).flatten()
        best = {
            name: torch.where(better.view(-1, *[1] * (p.dim() - 1)), p, state.params["best"][name])
            for name, p in state.params["model"].items()
        }
        kept = {"score": torch.minimum(score, best_score)}
        model = {name: answer.tensors[name] for name in best}
        state = replace(state, params={"model": model, "best": best, "kept": kept})
        chosen = kept["score"].argmin(1)
        with torch.no_grad():
            said = F.log_softmax(self._logits(best, self._rows(data)[0]), dim=-1)
        said = said.unflatten(0, (folds.splits, len(self.training.weight_decays), folds.fits))
        said = said[torch.arange(folds.splits), chosen].flatten(0, 1)
        return state, alone_outcome(folds.out_of_fold(said), state, data)

    def _models(self, data: SiteData) -> int:
        return data.crossfit.splits * len(self.training.weight_decays) * data.crossfit.fits

    def _rows(self, data: SiteData) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return inputs, classes and row counts of every model, in split, penalty, fit order."""
        repeats = len(self.training.weight_decays)

        def spread(values: Tensor) -> Tensor:
            return values[:, None].expand(-1, repeats, *values.shape[1:]).flatten(0, 2)

        models = self._models(data)
        x = data.x.repeat_interleave(models // len(data.x), dim=0)
        return x, data.y.expand(models, -1), spread(data.learnt), spread(data.judged)

    def _logits(
        self, model: Params, x: Float[Tensor, "model row ..."]
    ) -> Float[Tensor, "model row class"]:
        features = stacked_call(self.network.body, part_of(model, "body"), x)
        return stacked_call(self.network.head, part_of(model, "head"), features)


def averaged(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: models averaged by rows, scores summed."""
    rows = torch.stack([lent.tensors["rows"] for lent in lents])
    share = rows / rows.sum(0)
    tensors = {"score": torch.stack([lent.tensors["score"] for lent in lents]).sum(0)}
    for name in lents[0].tensors:
        if name not in {"score", "rows"}:
            stacked = torch.stack([lent.tensors[name] for lent in lents])
            weight = share.view(*share.shape, *[1] * (stacked.dim() - 2))
            tensors[name] = (stacked * weight).sum(0)
    return Lent(SERVER, lents[0].round, "model", lents[0].width, tensors)
