"""What a rival is to the bench: how to build it, what it needs, and where it was published.

A rival is one short file with a ``RIVAL``. It gets the same networks, rows, steps and care as every
other method, and says what it needs that lending heads does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines.averaging import Averaging, Losses
from dflmoe.core.algorithm import Algorithm, Server
from dflmoe.core.site import Network, SiteData
from dflmoe.core.task import Task
from dflmoe.core.training import Training
from dflmoe.errors import ExperimentError
from dflmoe.types import SiteId

Need = Literal[
    "server",
    "one network",
    "one body",
    "one head",
    "equal widths",
    "an agreed network",
    "public data",
    "whole models",
]
Topology = Callable[[Sequence[SiteId]], Mapping[SiteId, Sequence[SiteId]]]


@dataclass(frozen=True)
class Budget:
    """How much any method may learn.

    Attributes:
        training: To convergence: steps at most, early stopping out of fold.
        steps: One round of local training of a method that goes by rounds.
        rounds: Rounds; ``rounds`` times ``steps.max_steps`` is about ``training.max_steps``.
        seed: The federation's.
        agreed: The network that all sites agreed on, for a common model beside each site's own.
    """

    training: Training
    steps: Training
    rounds: int
    seed: int
    agreed: Network | None = None

    def at_home(
        self, network: Network, losses: Losses | None = None, *, decays: int = 0
    ) -> Averaging:
        """Return rounds of local steps, without any averaging.

        Args:
            network: The site's.
            losses: What the steps go down; the task's losses if not given.
            decays: How many weight decays are tried, from the last; 0 for all.
        """
        steps = replace(self.steps, weight_decays=self.steps.weight_decays[-decays:])
        return Averaging(
            network,
            steps,
            self.seed,
            together=False,
            gossip=True,
            rounds=self.rounds,
            losses=losses,
        )


@dataclass(frozen=True)
class Known:
    """What a server that computes knows of a site beforehand.

    Attributes:
        network: The site's.
        task: What is predicted.
        public: Public rows as the site sees them.
    """

    network: Network
    task: Task
    public: Float[Tensor, "anchor ..."]


Host = Callable[[Mapping[SiteId, Known], Budget], Server]
"""Builds a server that computes."""


@dataclass(frozen=True)
class Rival:
    """A published method.

    Attributes:
        title: Its name in tables.
        paper: Where it stands.
        needs: What it needs that lending heads does not.
        build: Returns one site's algorithm.
        server: Answers all sites at once; ``None`` where there is none.
        topology: Whom each site hears; ``None`` for everybody.
        host: Builds the server, where it must know the networks and the public rows.
    """

    title: str
    paper: str
    needs: tuple[Need, ...]
    build: Callable[[Network, Budget], Algorithm]
    server: Server | None = None
    topology: Topology | None = None
    host: Host | None = None

    def serving(
        self, networks: Mapping[SiteId, Network], data: Mapping[SiteId, SiteData], budget: Budget
    ) -> Server | None:
        """Return the server of some sites, which gets to see their public rows alone.

        Raises:
            ExperimentError: It needs public rows, and there are none.
        """
        if self.host is None:
            return self.server
        known = {}
        for site, one in data.items():
            if one.anchors is None or not len(one.anchors):
                raise ExperimentError(f"{self.title} needs public rows; give the task anchors")
            known[site] = Known(networks[site], one.task, one.anchors)
        return self.host(known, budget)

    @property
    def alike(self) -> Need | None:
        """What must be alike at all sites, if anything."""
        return next((need for need in self.needs if need.startswith("one ")), None)
