"""What a rival is to the bench: how to build it, what it needs, and where it was published.

A rival is one short file with a ``RIVAL``. It gets the same networks, rows, steps and care as every
other method, and says what it needs that lending heads does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dflmoe.core.algorithm import Algorithm, Server
from dflmoe.core.site import Network
from dflmoe.core.training import Training
from dflmoe.types import SiteId

Need = Literal["server", "one network", "one body", "one head", "public data", "whole models"]
Topology = Callable[[Sequence[SiteId]], Mapping[SiteId, Sequence[SiteId]]]


@dataclass(frozen=True)
class Budget:
    """How much any method may learn.

    Attributes:
        training: To convergence: steps at most, early stopping out of fold.
        steps: One round of local training of a method that goes by rounds.
        rounds: Rounds; ``rounds`` times ``steps.max_steps`` is about ``training.max_steps``.
        seed: The federation's.
    """

    training: Training
    steps: Training
    rounds: int
    seed: int


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
    """

    title: str
    paper: str
    needs: tuple[Need, ...]
    build: Callable[[Network, Budget], Algorithm]
    server: Server | None = None
    topology: Topology | None = None

    @property
    def alike(self) -> Need | None:
        """What must be alike at all sites, if anything."""
        return next((need for need in self.needs if need.startswith("one ")), None)
