"""FedPer: a server averages bodies, each site keeps a head of its own, and trains both at once.

Arivazhagan et al., Federated Learning with Personalization Layers, 2019, algorithm 1, with one
personal layer: the head. FedRep shares the same part and trains it after the head; LG-FedAvg shares
the other part.
"""

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of FedPer."""
    return Averaging(
        network, budget.steps, budget.seed, shares="body", together=False, rounds=budget.rounds
    )


RIVAL = Rival("FedPer", "Arivazhagan et al., 2019", ("server", "one body"), build, averaged)
