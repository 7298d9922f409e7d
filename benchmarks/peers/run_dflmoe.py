"""FedAvg, played by dflmoe's own simulator; or, with ``empty``, rounds in which nothing is done.

``compare.py`` runs this file; its arguments are the time and the number of workers.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
import workload
from torch import nn

from dflmoe.core.algorithm import SERVER, Outcome
from dflmoe.core.site import CrossFit, Lent, SiteData, SiteState
from dflmoe.core.stacking import mean_of, stacked_call
from dflmoe.core.training import leaves
from dflmoe.simulation.federation import play
from dflmoe.simulation.machine import Machine
from dflmoe.types import Params, SiteId

FEATURES = 512
EMPTY_ROUNDS = 200
NAMES = [f"site-{number}" for number in range(workload.SITES)]


def nothing(site: SiteId) -> Outcome:
    """Return the outcome of a round after which nobody wants a prediction."""
    said, one = torch.empty(1, 0, workload.CLASSES), torch.zeros(1)
    return Outcome(said, said, said, one > 0, {site: one}, {}, one, one)


@dataclass(frozen=True)
class Averaged:
    """A site that learns for an epoch, lends its whole model and goes on with the average.

    Attributes:
        number: Of the site.
        network: What is trained; a copy of its own.
        clock: The first site notes when a round begins.
    """

    number: int
    network: nn.Module
    clock: workload.Clock

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:  # noqa: ARG002
        """See ``Algorithm.init``."""
        model = {name: p.detach()[None] for name, p in self.network.named_parameters()}
        return SiteState(site, 0, {"model": model})

    def prepare(
        self,
        state: SiteState,
        data: SiteData,
        rng: torch.Generator,  # noqa: ARG002 - all simulators draw the same order of rows
    ) -> tuple[SiteState, Lent]:
        """See ``Algorithm.prepare``."""
        if self.number == 0:
            self.clock.mark()
        self.clock.stepping()
        model = self.trained(state.params["model"], data, workload.order(self.number, state.round))
        state = replace(state, round=state.round + 1)
        return state, Lent(state.site, state.round, "model", FEATURES, model)

    def trained(self, model: Params, data: SiteData, order: torch.Tensor) -> Params:
        """Return the model after an epoch."""
        moving = leaves(model)
        weights = list(moving.values())
        for x, y in workload.batches(workload.Rows(data.x[0], data.y), order):
            loss = F.cross_entropy(stacked_call(self.network, moving, x[None])[0], y)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, gradients, alpha=-workload.RATE)
        return {name: p.detach() for name, p in moving.items()}

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],
        data: SiteData,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> tuple[SiteState, Outcome]:
        """See ``Algorithm.absorb``."""
        (answer,) = inbox
        return replace(state, params={"model": answer.tensors}), nothing(state.site)


@dataclass(frozen=True)
class Idle:
    """A site that lends a small head and does nothing else; see ``Averaged``."""

    number: int
    clock: workload.Clock

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:  # noqa: ARG002
        """See ``Algorithm.init``."""
        return SiteState(site, 0, {"head": {"weight": torch.zeros(1, 2, 32)}})

    def prepare(
        self,
        state: SiteState,
        data: SiteData,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> tuple[SiteState, Lent]:
        """See ``Algorithm.prepare``."""
        if self.number == 0:
            self.clock.mark()
        state = replace(state, round=state.round + 1)
        return state, Lent(state.site, state.round, "head", 32, state.params["head"])

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],  # noqa: ARG002
        data: SiteData,  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> tuple[SiteState, Outcome]:
        """See ``Algorithm.absorb``."""
        return state, nothing(state.site)


def data_of(number: int) -> SiteData:
    """Return the rows of a site; all of them are for training."""
    x, y = workload.site(number)
    fold = torch.zeros(1, len(y), dtype=torch.int64)
    return SiteData(x[None], y, CrossFit(fold), torch.arange(len(y)))


def averaged(lents: Sequence[Lent]) -> Lent:
    """Return the server's answer: all sites have as many rows."""
    mean = mean_of([lent.tensors for lent in lents])
    return Lent(SERVER, lents[0].round, "model", FEATURES, mean)


def main() -> None:
    """Play the workload."""
    clock, machine = workload.Clock(), Machine(workers=workload.cores())
    data = {name: data_of(number) for number, name in enumerate(NAMES)}
    if sys.argv[3:] == ["empty"]:
        idle = {name: Idle(number, clock) for number, name in enumerate(NAMES)}
        play(idle, data, rounds=EMPTY_ROUNDS, seed=0, purpose="peers", machine=machine)
        print(json.dumps({"empty_ms": 1000 * median(np.diff(clock.marks))}))
        return
    sites = {name: Averaged(k, workload.network(), clock) for k, name in enumerate(NAMES)}
    played = play(
        sites,
        data,
        rounds=workload.ROUNDS,
        seed=0,
        purpose="peers",
        server=averaged,
        machine=machine,
    )
    clock.mark()
    net = workload.network()
    model = played.states[NAMES[0]].params["model"]
    net.load_state_dict({name: p[0] for name, p in model.items()})
    workload.tell(clock, net, "dflmoe")


if __name__ == "__main__":
    main()
