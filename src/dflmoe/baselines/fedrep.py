"""FedRep: a server averages bodies, each site keeps a head of its own.

Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021,
algorithm 1: in each round a site trains its head on the common body, then the body under that head,
and sends the body. The exact opposite of lending heads. Here half of a round's steps go to each.
"""

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of FedRep."""
    return Averaging(
        network,
        budget.steps,
        budget.seed,
        shares="body",
        together=False,
        by_turns=True,
        rounds=budget.rounds,
    )


RIVAL = Rival("FedRep", "Collins et al., ICML 2021", ("server", "one body"), build, averaged)
