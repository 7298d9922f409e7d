"""Ditto: beside FedAvg every site trains a model of its own, pulled towards the average.

Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, algorithm
1: the own model goes down the site's loss plus lambda / 2 times its squared distance from the
average that the round began with. With lambda = 0 it is local training. Each site chooses lambda
on rows held out, as in the paper, among its values for federations without strong attacks.
"""

from dataclasses import replace

from torch import Tensor

from dflmoe.baselines import fedavg
from dflmoe.baselines.aim import Aim, Dial, Loss, common, half_square
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.core.stacking import part_of
from dflmoe.types import Params


def with_own(model: Params, strength: Dial) -> Params:  # noqa: ARG001
    """Return the model and a copy of it that stays at home."""
    return model | {f"own/{name}": p for name, p in model.items()}


def own(model: Params) -> Params:
    """Return the site's own model."""
    return part_of(model, "own")


def both(loss: Loss, now: Params, before: Params, strength: Dial) -> Tensor:
    """Return the loss of FedAvg and that of the own model; no tensor is in both."""
    return loss(common(now)) + loss(own(now)) + half_square(own(now), common(before), strength)


AIM = Aim(dials=(0.1, 1.0, 2.0), begins=with_own, loss=both, serves=own)


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of Ditto."""
    return replace(fedavg.build(network, budget), aim=AIM)


RIVAL = Rival("Ditto", "Li et al., ICML 2021", fedavg.NEEDS, build, averaged)
