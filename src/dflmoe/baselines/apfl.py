"""APFL: every site uses a mixture, weight by weight, of FedAvg's model and one of its own.

Deng et al., Adaptive Personalized Federated Learning, 2020, algorithm 1: v is trained so that
alpha v + (1 - alpha) w is good, w as in FedAvg, and alpha itself takes a step down the gradient
(equation 10) before each round, here of all rows of the site, and stays between 0 and 1. With alpha
= 1 it is local training. It begins at one of the paper's fixed values, chosen out of fold.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dflmoe.baselines import fedavg
from dflmoe.baselines.aim import Aim, Dial, Loss, common, of_each
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.core.stacking import part_of
from dflmoe.types import Params

ALPHA = "own/alpha"


def with_own(model: Params, alpha: Dial) -> Params:
    """Return the model, a copy of it that stays at home, and the weight of the copy."""
    return model | {f"own/{name}": p for name, p in model.items()} | {ALPHA: alpha}


def mixed(model: Params) -> Params:
    """Return the site's mixture; no gradient goes through it to the common model."""
    own, alpha = part_of(model, "own"), model[ALPHA]
    return {
        name: of_each(alpha, p) * own[name] + of_each(1 - alpha, p) * p.detach()
        for name, p in common(model).items()
    }


def adapted(loss: Loss, model: Params, rate: float) -> Params:
    """Return the model after a step of its alphas down the loss of the mixture."""
    alpha = model[ALPHA].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(mixed({**model, ALPHA: alpha})), alpha)
    return {**model, ALPHA: (alpha.detach() - rate * slope).clamp(0, 1)}


def both(loss: Loss, now: Params, before: Params, alpha: Dial) -> Tensor:  # noqa: ARG001
    """Return the loss of FedAvg, which moves w, and that of the mixture, which moves v."""
    return loss(common(now)) + loss(mixed(now))


AIM = Aim(dials=(0.25, 0.5, 0.75), begins=with_own, readies=adapted, loss=both, serves=mixed)


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of APFL."""
    return replace(fedavg.build(network, budget), aim=AIM)


RIVAL = Rival("APFL", "Deng et al., 2020", fedavg.NEEDS, build, averaged)
