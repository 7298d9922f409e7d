"""FedAvg: a server averages whole models, every round; and FedAvg with fine-tuning at home.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS
2017, algorithm 1. Needs a server that all sites can reach and trust, the same network everywhere,
and the exact number of rows of each site. Each site keeps the round that is best for its own rows,
out of fold. Fine-tuning starts from the best average and stops early,
out of fold (Yu et al., Salvaging Federated Learning by Local Adaptation, 2020, section 3).
"""

from dataclasses import replace

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.rival import Budget, Need, Rival
from dflmoe.core.site import Network

PAPER = "McMahan et al., AISTATS 2017"
NEEDS: tuple[Need, ...] = ("server", "one network", "whole models")


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of FedAvg."""
    return Averaging(network, budget.steps, budget.seed, together=False, rounds=budget.rounds)


def build_tuned(network: Network, budget: Budget) -> Averaging:
    """Return one site of FedAvg that fine-tunes after the last round."""
    return replace(build(network, budget), tune=budget.training)


FEDAVG = Rival("FedAvg", PAPER, NEEDS, build, averaged)
FEDAVG_TUNED = Rival(
    "FedAvg + fine-tuning", f"{PAPER}; Yu et al., 2020", NEEDS, build_tuned, averaged
)
