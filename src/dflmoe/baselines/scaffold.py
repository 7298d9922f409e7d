"""SCAFFOLD: FedAvg whose steps are corrected by how a site's gradients differ from all sites'.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020,
algorithm 1: c - c_i is added to every gradient. c_i is then the mean of the round's own gradients,
which is option II where steps are plain; ours are Adam's, as everybody's, and so is their start at
each round. c travels beside the weights, and both are averaged by rows, so that c stays what all
sites together descend. In the first round, and where all sites are alike, it is FedAvg.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dflmoe.baselines import fedavg
from dflmoe.baselines.aim import Aim, Dial, Loss, common
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.core.stacking import part_of
from dflmoe.types import Params


def with_variates(model: Params, dial: Dial) -> Params:  # noqa: ARG001
    """Return the model, c (which travels) and c_i (which stays), both zero."""
    zero = {name: torch.zeros_like(p) for name, p in model.items()}
    return model | _named("variate", zero) | _named("own/variate", zero)


def correction(model: Params) -> Params:
    """Return c - c_i, of every parameter."""
    own = part_of(model, "own/variate")
    return {name: p - own[name] for name, p in part_of(model, "variate").items()}


def corrected(loss: Loss, now: Params, before: Params, dial: Dial) -> Tensor:  # noqa: ARG001
    """Return the site's loss with a slope of c - c_i added."""
    drift = correction(before)
    return loss(common(now)) + sum((now[name] * p).sum() for name, p in drift.items())


def seen(before: Params, gradients: Params) -> Params:
    """Return c_i from the mean of the corrected gradients: what to keep, and what to send."""
    drift = correction(before)
    own = {name: gradient - drift[name] for name, gradient in gradients.items()}
    return _named("variate", own) | _named("own/variate", own)


def _named(part: str, params: Params) -> Params:
    return {f"{part}/{name}": p for name, p in params.items()}


AIM = Aim(begins=with_variates, loss=corrected, learns=seen, serves=common)


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of SCAFFOLD."""
    return replace(fedavg.build(network, budget), aim=AIM)


RIVAL = Rival("SCAFFOLD", "Karimireddy et al., ICML 2020", fedavg.NEEDS, build, averaged)
