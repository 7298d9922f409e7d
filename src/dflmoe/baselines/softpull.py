"""SoftPull: every site keeps a share of its own model, and takes the rest from the others' mean.

Xu et al., Closing the Generalization Gap of Cross-silo Federated Medical Image Segmentation, CVPR
2022: the personal models of FedSM. A share of 1 is local training, one of 1 / sites the plain mean;
0.7 is what its authors' code takes. The whole of FedSM also trains a global model and a selector
that guesses which site a row is from, to choose its model; here its rows are known to be its own.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from dflmoe.baselines import fedavg
from dflmoe.baselines.aim import Aim, Dial, of_each
from dflmoe.baselines.averaging import NOTES, Averaging
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import SERVER
from dflmoe.core.site import Lent, Network
from dflmoe.core.stacking import mean_of
from dflmoe.types import Params


def mean(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: the mean of all models, and of how many it is."""
    tensors = mean_of([lent.tensors for lent in lents])
    sites = torch.full_like(tensors.pop("rows"), len(lents))
    return replace(lents[0], site=SERVER, tensors={**tensors, "sites": sites})


def pulled(trained: Params, answer: Params, share: Dial) -> Params:
    """Return the share of the own model and the rest of the mean of the others.

    A site whose own message was lost counts itself out of a mean that it is not in: a server that
    names nobody cannot tell it.
    """
    sites = answer["sites"]
    share = torch.where(sites > 1, share, 1.0)
    rest = (1 - share) / (sites - 1).clamp(min=1)
    return {
        name: of_each(share, p) * trained[name]
        + of_each(rest, p) * (of_each(sites, p) * p - trained[name])
        for name, p in answer.items()
        if name not in NOTES
    }


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of SoftPull."""
    return replace(fedavg.build(network, budget), aim=Aim(dials=(0.7,), merges=pulled))


RIVAL = Rival("SoftPull (of FedSM)", "Xu et al., CVPR 2022", fedavg.NEEDS, build, mean)
