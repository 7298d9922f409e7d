"""FedProx: FedAvg whose local steps are pulled back to the average that they began from.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, algorithm 2: mu / 2 times
the squared distance from the last average is added to the site's loss. With mu = 0 it is FedAvg.
Tried are the paper's values of mu but for the smallest, 0.001. Its other idea, unfinished work of
slow sites, has no place where all do as much.
"""

from dataclasses import replace

from torch import Tensor

from dflmoe.baselines import fedavg
from dflmoe.baselines.aim import Aim, Dial, Loss, half_square
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.types import Params


def pulled(loss: Loss, now: Params, before: Params, mu: Dial) -> Tensor:
    """Return the site's loss and the pull towards the last average (equation 2)."""
    return loss(now) + half_square(now, before, mu)


AIM = Aim(dials=(0.01, 0.1, 1.0), loss=pulled)


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of FedProx."""
    return replace(fedavg.build(network, budget), aim=AIM)


RIVAL = Rival("FedProx", "Li et al., MLSys 2020", fedavg.NEEDS, build, averaged)
