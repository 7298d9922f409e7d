"""FedDF: as FedAvg, and the server then teaches the average what all models say of public rows.

Lin et al., Ensemble Distillation for Robust Model Fusion in Federated Learning, NeurIPS 2020: a
site gets the average of the models of its own architecture (a prototype), taught by the mean logits
of all architectures' models. The server takes as many steps as a site, and of the same kind.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dflmoe.baselines.averaging import averaged
from dflmoe.baselines.fedavg import build
from dflmoe.baselines.rival import Budget, Known, Need, Rival
from dflmoe.core.algorithm import Server
from dflmoe.core.distil import opinion_of
from dflmoe.core.site import Lent
from dflmoe.core.stacking import BodyAndHead
from dflmoe.core.training import Adam, leaves
from dflmoe.types import Params, SiteId, generator


def host(known: Mapping[SiteId, Known], budget: Budget) -> Server:
    """Return the server."""
    return partial(fused, known, budget)


def fused(
    known: Mapping[SiteId, Known], budget: Budget, lents: Sequence[Lent]
) -> Mapping[SiteId, Lent]:
    """Return the server's answers: to each site the taught average of models like its own."""
    with torch.no_grad():
        said = [scores(lent.tensors, known[lent.site], slice(None)) for lent in lents]
    mean = torch.stack(said).mean(0)
    answers: dict[SiteId, Lent] = {}
    alike: dict[tuple[object, ...], list[Lent]] = {}
    for lent in lents:
        shapes = tuple((name, p.shape) for name, p in lent.tensors.items())
        alike.setdefault(shapes, []).append(lent)
    for some in alike.values():
        student, answer = known[some[0].site], averaged(some)
        told = opinion_of(mean, student.task)
        taught = distilled(answer.tensors, student, told, budget, some[0].round)
        answers |= {
            lent.site: Lent(answer.site, answer.round, "model", lent.width, taught) for lent in some
        }
    return answers


def distilled(model: Params, student: Known, told: Tensor, budget: Budget, number: int) -> Params:
    """Return weights that have learnt what they were told of the public rows, fit by fit."""
    rng = generator(budget.seed, "server", number)
    optimiser = Adam(params := leaves(model), budget.steps.learning_rate)
    for _ in range(budget.steps.max_steps):
        pick = torch.randperm(told.shape[1], generator=rng, device="cpu")[: budget.steps.batch]
        losses = student.task.losses(scores(params, student, pick), told[:, pick])
        optimiser.step(losses.mean(1).sum())
    return {name: p.detach() for name, p in params.items()}


def scores(model: Params, site: Known, pick: Tensor | slice) -> Tensor:
    """Return what every fit puts out for public rows, ``[model, anchor, class, ...]``."""
    rows, models = site.public[pick], len(next(iter(model.values())))
    logits = BodyAndHead(site.network.body, site.network.head)
    return logits(model, rows.expand(models, *rows.shape))


NEEDS: tuple[Need, ...] = ("server", "public data", "whole models")
RIVAL = Rival("FedDF", "Lin et al., NeurIPS 2020", NEEDS, build, host=host)
