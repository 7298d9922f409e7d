"""A light model that all sites have in common and a server averages, beside a network of their own.

FML calls it meme, FedKD mentee, MH-pFLID messenger. It is of the network that the sites agreed on,
or of their own where that is one and the same. Only the own network is judged and serves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.rival import Budget
from dflmoe.core.distil import opinion_of
from dflmoe.core.site import Network
from dflmoe.core.stacking import features_of, part_of, stacked_call
from dflmoe.core.task import Task
from dflmoe.types import Params

MESSENGER: Final = "messenger"


@dataclass(frozen=True)
class Both:
    """Rows as the own network and the messenger see them.

    Attributes:
        model: All weights.
        messenger: The network of the messenger.
        own: Features of the own network.
        said: What the own network puts out.
        theirs: Features of the messenger.
        told: What the messenger puts out.
        y: What is true.
        task: What is predicted.
    """

    model: Params
    messenger: Network
    own: Tensor
    said: Tensor
    theirs: Tensor
    told: Tensor
    y: Tensor
    task: Task

    def losses(self, said: Tensor) -> Tensor:
        """Return the task's losses, ``[model, row]``."""
        return self.task.losses(said, self.y)

    def taught(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return losses of a student told what a teacher says, who learns nothing from it."""
        return self.task.losses(student, opinion_of(teacher.detach(), self.task))


Lesson = Callable[[Both], Tensor]
"""Losses ``[model, row]`` that the own network and the messenger go down together."""


def agreed(network: Network, budget: Budget) -> Network:
    """Return the network of the messenger."""
    return network if budget.agreed is None else budget.agreed


def with_messenger(
    network: Network, budget: Budget, lesson: Lesson, beside: Mapping[str, nn.Module] | None = None
) -> Averaging:
    """Return one site that trains its network and a messenger, and lends the messenger.

    Args:
        network: The site's own.
        budget: How much may be learnt.
        lesson: What both learn.
        beside: What else trains at home, by name.
    """
    messenger = agreed(network, budget)
    parts = {f"{MESSENGER}/body": messenger.body, f"{MESSENGER}/head": messenger.head}
    return Averaging(
        network,
        budget.steps,
        budget.seed,
        shares=MESSENGER,
        together=False,
        rounds=budget.rounds,
        losses=_Lesson(network, messenger, lesson),
        beside={**parts, **(beside or {})},
    )


@dataclass(frozen=True)
class _Lesson:
    network: Network
    messenger: Network
    lesson: Lesson

    def __call__(self, model: Params, x: Tensor, y: Tensor, task: Task) -> Tensor:
        """See ``averaging.Losses``."""
        own, said = _seen(self.network, model, x)
        theirs, told = _seen(self.messenger, part_of(model, MESSENGER), x)
        return self.lesson(Both(model, self.messenger, own, said, theirs, told, y, task))


def _seen(network: Network, model: Params, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of rows in a network, and what it puts out for them."""
    features = features_of(network.body, part_of(model, "body"), x)
    return features, stacked_call(network.head, part_of(model, "head"), features)
