"""D-PSGD: no server; each site averages its whole model with its two neighbours on a ring.

Lian et al., Can Decentralized Algorithms Outperform Centralized Algorithms?, NeurIPS 2017,
algorithm 1, with the ring and weights of one third of its experiments. The paper averages after
every step; here, as in its successors, after a round of local steps, so that messages stay few.
"""

from collections.abc import Mapping, Sequence

from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.types import SiteId


def ring(sites: Sequence[SiteId]) -> Mapping[SiteId, Sequence[SiteId]]:
    """Return the neighbours of each site: the one before and the one after it."""
    n = len(sites)
    return {
        site: sorted({sites[k - 1], sites[(k + 1) % n]} - {site}) for k, site in enumerate(sites)
    }


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of D-PSGD."""
    return Averaging(
        network, budget.steps, budget.seed, together=False, gossip=True, rounds=budget.rounds
    )


RIVAL = Rival(
    "D-PSGD", "Lian et al., NeurIPS 2017", ("one network", "whole models"), build, topology=ring
)
