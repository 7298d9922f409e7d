"""Averaging of weights, every round: what FedAvg and its relatives have in common.

They differ in which part of the network travels, in who averages it, and in what happens before
and after; those are arguments. Weight decay and the round to stop at are chosen by out-of-fold
loss, the same care that every other method gets. A fit that leaves a fold out is only ever averaged
with its peers' fits that leave the same fold out, so no row comes back to judge itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dflmoe.baselines.aim import Aim, Loss, moves
from dflmoe.core.algorithm import SERVER, Outcome, alone_outcome
from dflmoe.core.site import Lent, Network, SiteData, SiteState, packed
from dflmoe.core.stacking import BodyAndHead, features_of, initial, mean_of, part_of, stacked_call
from dflmoe.core.task import Task
from dflmoe.core.together import Parts
from dflmoe.core.training import (
    Training,
    batch_of,
    cross_fit,
    decay,
    leaves,
    outputs_out_of_fold,
)
from dflmoe.types import Params, SiteId, generator

NOTES = frozenset({"score", "rows", "sites"})
"""Numbers that travel beside the weights."""

Part = Literal["model", "body", "head", "messenger"]

Losses = Callable[[Params, Tensor, Tensor, Task], Tensor]
"""Losses ``[model, row]`` of weights, rows, what is true of them, and the task."""


@dataclass(frozen=True)
class Averaging:
    """One site of a federation that averages weights.

    Attributes:
        network: The network; the part that travels is the same at all sites.
        training: Its grid of weight decays, learning rate and batch; ``max_steps`` are the local
            steps between two averages.
        seed: Of the common initial weights.
        shares: The part that travels.
        together: The sites choose one model for all by their mean scores, before each round; else
            each its own, before and after its steps and after the last average. Where messages can
            be lost the mean is not of the same sites each time, so each chooses for itself.
        by_turns: Half of the steps train the head alone, then the other half the body alone.
        gossip: Average with what the neighbours sent; else take a server's answer.
        tune: Training that follows the last round at home; ``None`` for none.
        rounds: How many rounds there are.
        losses: What the steps go down; ``None`` for the task's own losses.
        beside: Modules that train beside body and head, and are no part of what is served.
        aim: What the steps go down, where it is more than the site's own loss.
    """

    network: Network
    training: Training
    seed: int = 0
    shares: Part = "model"
    together: bool = True
    by_turns: bool = False
    gossip: bool = False
    tune: Training | None = None
    rounds: int = 0
    losses: Losses | None = None
    beside: Mapping[str, nn.Module] = field(default_factory=dict)
    aim: Aim = field(default_factory=Aim)

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        rng = generator(self.seed, "body")
        grid = self._grid(data)
        parts = {"body": self.network.body, "head": self.network.head, **self.beside}
        model = {
            f"{part}/{name}": p
            for part, module in parts.items()
            for name, p in initial(module, math.prod(grid), rng).items()
        }
        kept = {"score": torch.full(grid[:2], torch.inf)}
        model = self.aim.begins(model, self._of_model(1, data))
        return SiteState(site, 0, {"model": model, "best": self.aim.serves(model), "kept": kept})

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train on own rows and send a part; note how good the model was before, and is after."""
        model, scores = state.params["model"], self._score(state.params["model"], data)
        if not self.together:
            state = self._noted(state, model, scores, data)
        model = self._readied(model, data)
        for names, steps in self._turns(model):
            model = self._stepped(model, names, steps, data, rng)
        if not self.together:
            state = self._noted(state, model, self._score(model, data), data)
        lent = {n: p for n, p in model.items() if self._travels(n)}
        if not self.gossip:
            rows = self._every(data.learnt).sum(1)
            lent |= {"rows": rows} | ({"score": scores} if self.together else {})
        params = {**state.params, "trained": model}
        state = replace(state, round=state.round + 1, params=params)
        return state, Lent(state.site, state.round, "model", self.network.width, lent)

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],
        data: SiteData,
        rng: torch.Generator,
    ) -> tuple[SiteState, Outcome]:
        """Take in the average; without an answer, go on from the own weights."""
        folds, trained = data.crossfit, state.params["trained"]
        if self.together and inbox:
            score = inbox[0].tensors["score"]
            state = self._noted(state, state.params["model"], score, data)
        params = {**state.params, "model": {**trained, **self._merged(trained, inbox, data)}}
        del params["trained"]
        state = replace(state, params=params)
        if not self.together and state.round == self.rounds:
            score = self._score(params["model"], data)
            state = self._noted(state, params["model"], score, data)
        chosen = state.params["kept"]["score"].argmin(1)
        best = {
            name: p.unflatten(0, self._grid(data))[torch.arange(folds.splits), chosen].flatten(0, 1)
            for name, p in state.params["best"].items()
        }
        if self.tune is not None and state.round == self.rounds:
            best = cross_fit(self.logits, best, data, self.tune, rng).params
        with torch.no_grad():
            said = data.task.said(outputs_out_of_fold(self.logits, best, data), 2)
        return state, alone_outcome(said, state, data)

    def _turns(self, model: Params) -> list[tuple[list[str], int]]:
        """Return what is trained for how many steps, one after the other."""
        steps = self.training.max_steps
        if not self.by_turns:
            beside = tuple(f"{part}/" for part in self.beside)
            return [([n for n in model if moves(n) or n.startswith(beside)], steps)]
        parts = {part: [n for n in model if n.startswith(part)] for part in ("head", "body")}
        halves = zip(parts.values(), (steps - steps // 2, steps // 2), strict=True)
        return [(names, part) for names, part in halves if names]

    def _stepped(
        self,
        model: Params,
        names: list[str],
        steps: int,
        data: SiteData,
        rng: torch.Generator,
    ) -> Params:
        """Return the model after some steps of its named tensors on the site's rows."""
        row, weight = packed(self._every(data.learnt))
        split, dial = self._split(data), self._of_model(1, data)
        moving = leaves({name: model[name] for name in names})
        optimiser = self.aim.optimiser(moving, self.training.learning_rate, dial)
        parts, seen = Parts([len(row)], [rng]), [torch.zeros(()) for _ in moving]
        for _ in range(steps):
            pick, _, share = batch_of(row, row, weight, self.training.batch, parts)
            loss = self._loss(data.x[split, pick], data.y[pick], share, data)
            found = optimiser.step(self.aim.loss(loss, {**model, **moving}, model, dial))
            if self.aim.learns is not None:
                seen = [total + gradient for total, gradient in zip(seen, found, strict=True)]
        after = {**model, **{name: p.detach() for name, p in moving.items()}}
        if self.aim.learns is None:
            return after
        mean = {name: total / steps for name, total in zip(names, seen, strict=True)}
        return {**after, **self.aim.learns(model, mean)}

    def _loss(self, x: Tensor, y: Tensor, share: Tensor, data: SiteData) -> Loss:
        """Return the loss on some rows of a body and head, with the weight decay of what learns."""
        strength = self._of_model(0, data)

        def loss(params: Params) -> Tensor:
            if self.losses is None:
                losses = data.task.losses(self.logits(params, x), y)
            else:
                losses = self.losses(params, x, y, data.task)
            learning = {name: p for name, p in params.items() if p.requires_grad}
            return (losses * share).sum() + decay(learning, None, strength)

        return loss

    def _readied(self, model: Params, data: SiteData) -> Params:
        """Return the model as the aim has it before the steps."""
        row, weight = packed(self._every(data.learnt))
        loss = self._loss(data.x[self._split(data), row], data.y[row], weight, data)
        return self.aim.readies(loss, model, self.training.learning_rate)

    def _travels(self, name: str) -> bool:
        """Return whether a tensor of the model is sent."""
        part = name.split("/", maxsplit=1)[0]
        return part != "own" and self.shares in ("model", part)

    def _of_model(self, which: int, data: SiteData) -> Float[Tensor, " model"]:
        """Return the weight decay (0) or the method's own dial (1) of every model."""
        folds = data.crossfit
        chosen = torch.tensor([candidate[which] for candidate in self._candidates])
        return chosen.repeat_interleave(folds.fits).repeat(folds.splits)

    @property
    def _candidates(self) -> list[tuple[float, float]]:
        """The weight decays and dials that are tried: every pair of them."""
        return list(product(self.training.weight_decays, self.aim.dials))

    def _noted(self, state: SiteState, model: Params, score: Tensor, data: SiteData) -> SiteState:
        """Return the state with the lowest scores so far and the models that had them."""
        lowest = state.params["kept"]["score"]
        better = (score < lowest).repeat_interleave(data.crossfit.fits, dim=1).flatten()
        best = {
            name: torch.where(better.view(-1, *[1] * (p.dim() - 1)), p, state.params["best"][name])
            for name, p in self.aim.serves(model).items()
        }
        kept = {"score": torch.minimum(score, lowest)}
        return replace(state, params={**state.params, "best": best, "kept": kept})

    def _merged(self, trained: Params, inbox: Sequence[Lent], data: SiteData) -> Params:
        """Return the averaged part, or nothing if nobody was heard."""
        if not inbox:
            return {}
        if self.aim.merges is not None:
            return self.aim.merges(trained, inbox[0].tensors, self._of_model(1, data))
        if not self.gossip:
            return {n: p for n, p in inbox[0].tensors.items() if n not in NOTES}
        own = {name: trained[name] for name in inbox[0].tensors}
        return mean_of([own, *(lent.tensors for lent in inbox)])

    def _grid(self, data: SiteData) -> tuple[int, int, int]:
        """Return how many splits, penalties and fits there are: models stand in that order."""
        return data.crossfit.splits, len(self._candidates), data.crossfit.fits

    def _split(self, data: SiteData) -> Int[Tensor, "model 1"]:
        """Return the split of every model."""
        splits, penalties, fits = self._grid(data)
        return torch.arange(splits).repeat_interleave(penalties * fits)[:, None]

    def _every(self, counts: Float[Tensor, "split fit row"]) -> Float[Tensor, "model row"]:
        """Return the row counts of every model."""
        repeats = len(self._candidates)
        return counts[:, None].expand(-1, repeats, *counts.shape[1:]).flatten(0, 2)

    def features(self, model: Params, x: Float[Tensor, "model row ..."]) -> Tensor:
        """Return what the bodies of all models make of rows, ``[model, row, feature, ...]``."""
        return features_of(self.network.body, part_of(model, "body"), x)

    def by_heads(self, model: Params, features: Tensor) -> Tensor:
        """Return what the heads of all models make of features."""
        return stacked_call(self.network.head, part_of(model, "head"), features)

    def learnt_rows(self, data: SiteData) -> tuple[Tensor, Int[Tensor, "model row"], Tensor]:
        """Return the rows that every model learns from: inputs, numbers, and how often."""
        times = self._every(data.learnt)
        row, _ = packed(times)
        return data.x[self._split(data), row], row, times.gather(1, row)

    def _score(self, model: Params, data: SiteData) -> Float[Tensor, "split penalty"]:
        """Return the summed loss on the rows that a fit did not see."""
        judged = self._every(data.judged)
        row, weight = packed(judged)
        with torch.no_grad():
            logits = self.logits(self.aim.serves(model), data.x[self._split(data), row])
            losses = (data.task.losses(logits, data.y[row]) * weight).sum(1) * judged.sum(1)
        return losses.view(self._grid(data)).sum(2)

    @property
    def logits(self) -> BodyAndHead:
        """What every model puts out."""
        return BodyAndHead(self.network.body, self.network.head)


def averaged(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: weights averaged by rows, scores averaged."""
    rows = torch.stack([lent.tensors["rows"] for lent in lents])
    share = rows / rows.sum(0)
    tensors = {}
    for name in lents[0].tensors:
        stacked = torch.stack([lent.tensors[name] for lent in lents])
        if name == "score":
            tensors[name] = stacked.mean(0)
        elif name != "rows":
            weight = share.view(*share.shape, *[1] * (stacked.dim() - 2))
            tensors[name] = (stacked * weight).sum(0)
    return Lent(SERVER, lents[0].round, "model", lents[0].width, tensors)
