"""LG-FedAvg: local bodies, one global head that a server averages.

Liang et al., Think Locally, Act Globally: Federated Learning with Local and Global Representations,
2020, algorithm 1. It sends what we send, the head, and makes one of all: the nearest relative.
"""

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of LG-FedAvg."""
    return Averaging(
        network, budget.steps, budget.seed, shares="head", together=False, rounds=budget.rounds
    )


RIVAL = Rival("LG-FedAvg", "Liang et al., 2020", ("server", "one head"), build, averaged)
