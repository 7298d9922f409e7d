"""FedAvg, played by fluke-fl: one process, sites one after the other.

``compare.py`` runs this file; its arguments are the time and the number of threads.
"""

from typing import Any

import torch
import workload
from fluke import FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server
from fluke.utils import ClientObserver, FederationObserver
from torch import nn


class Watch(FederationObserver, ClientObserver):  # type: ignore[misc]  # fluke has no types here
    """Notes when rounds, and training, begin."""

    def __init__(self, clock: workload.Clock) -> None:
        self.clock = clock

    def start_round(self, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """See ``FederationObserver``."""
        self.clock.mark()

    def finished(self, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """See ``FederationObserver``."""
        self.clock.mark()

    def start_fit(self, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """See ``ClientObserver``."""
        self.clock.stepping()


def client(number: int) -> Client:
    """Return a site."""
    rows = workload.site(number)
    return Client(
        index=number,
        train_set=FastDataLoader(
            rows.x,
            rows.y,
            num_labels=workload.CLASSES,
            batch_size=workload.BATCH,
            shuffle=True,
            skip_singleton=False,
        ),
        test_set=None,
        optimizer_cfg=OptimizerConfigurator({"name": torch.optim.SGD, "lr": workload.RATE}),
        loss_fn=nn.CrossEntropyLoss(),
        local_epochs=1,
    )


def main() -> None:
    """Play the workload."""
    torch.set_num_threads(workload.cores())
    env = FlukeENV()
    env.set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    env.set_seed(workload.SEED)
    clock = workload.Clock()
    clients = [client(number) for number in range(workload.SITES)]
    server = Server(workload.network(), None, clients, weighted=True)
    algorithm = FedAVG(workload.SITES, None, {}, clients=clients, server=server)
    algorithm.set_callbacks(Watch(clock))
    algorithm.run(n_rounds=workload.ROUNDS, eligible_perc=1.0, finalize=False)
    workload.tell(clock, server.model, "fluke-fl")


if __name__ == "__main__":
    main()
