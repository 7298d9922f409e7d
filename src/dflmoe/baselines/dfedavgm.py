"""DFedAvgM: no server; local steps with momentum, then an average with two neighbours on a ring.

Sun, Li and Wang, Decentralized Federated Averaging, IEEE TPAMI 2023, algorithm 1, without
quantisation: heavy-ball steps that begin each round anew, and the ring of D-PSGD. Momentum is the
usual 0.9. Its steps are no Adam's, so each site chooses their rate out of fold, with the decay.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines import d_psgd
from dflmoe.baselines.aim import Aim, Dial, of_each
from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.rival import Budget
from dflmoe.core.site import Network
from dflmoe.types import Params


class HeavyBall:
    """Steps down the gradient, each with a share of the step before it.

    Args:
        params: What is trained: ``leaves``.
        rate: Unused: every model has its own.
        dial: The rate of every model.
        momentum: The share.
    """

    def __init__(
        self,
        params: Params,
        rate: float,  # noqa: ARG002
        dial: Dial,
        momentum: float = 0.9,
    ) -> None:
        self.params, self._momentum = list(params.values()), momentum
        self._rates = [of_each(dial, p) for p in self.params]
        self._last = [torch.zeros_like(p) for p in self.params]

    def step(self, loss: Float[Tensor, ""]) -> list[Tensor]:
        """Take one step down ``loss`` and return its gradients.

        Raises:
            FloatingPointError: The loss is not finite; training must not go on from there.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError("the training loss is not a finite number")
        gradients = list(torch.autograd.grad(loss, self.params))
        with torch.no_grad():
            moved = zip(self._last, gradients, self._rates, strict=True)
            self._last = [self._momentum * last - rate * g for last, g, rate in moved]
            for p, step in zip(self.params, self._last, strict=True):
                p.add_(step)
        return gradients


def aim(momentum: float = 0.9) -> Aim:
    """Return heavy-ball steps, with candidates of their rate."""
    return Aim(dials=(0.01, 0.03, 0.1), optimiser=partial(HeavyBall, momentum=momentum))


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of DFedAvgM."""
    return replace(d_psgd.build(network, budget), aim=aim())


RIVAL = replace(d_psgd.RIVAL, title="DFedAvgM", paper="Sun et al., TPAMI 2023", build=build)
