"""FedAvg, played by Apple's pfl: one process, sites one after the other.

``compare.py`` runs this file; its arguments are the time and the number of threads.
"""

import asyncio
from itertools import count, cycle

import torch
import torch.nn.functional as F
import workload
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn


class Network(nn.Module):
    """The network, with its loss and what pfl evaluates by."""

    def __init__(self, clock: workload.Clock) -> None:
        super().__init__()
        self.net, self.clock = workload.network(), clock

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what is minimised."""
        self.clock.stepping()
        return F.cross_entropy(self.net(x), y)

    def metrics(self, _: Tensor, y: Tensor) -> dict[str, Weighted]:
        """Return next to nothing: pfl must evaluate in the first round, and nothing is wanted."""
        return {"rows": Weighted(len(y), 1)}


class Watch(TrainingProcessCallback):  # type: ignore[misc]  # pfl is not looked into
    """Notes when rounds begin."""

    def __init__(self, clock: workload.Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:  # noqa: ARG002 - pfl's signature
        """See ``TrainingProcessCallback``."""
        self.clock.mark()
        return Metrics()

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,  # noqa: ARG002 - pfl's signature
        model: PyTorchModel,  # noqa: ARG002
        *,
        central_iteration: int,  # noqa: ARG002
    ) -> tuple[bool, Metrics]:
        """See ``TrainingProcessCallback``."""
        self.clock.mark()
        return False, Metrics()


def federation() -> FederatedDataset:
    """Return all sites, whose rows are ordered anew each time that they are asked for."""
    rounds = [count() for _ in range(workload.SITES)]
    turns = cycle(range(workload.SITES))

    def rows(number: int) -> PyTorchTensorDataset:
        order = workload.order(number, next(rounds[number]))
        return PyTorchTensorDataset(tuple(part[order] for part in workload.site(number)))

    return FederatedDataset(rows, lambda: next(turns))


def main() -> None:
    """Play the workload."""
    torch.set_num_threads(workload.cores())
    asyncio.set_event_loop(asyncio.new_event_loop())
    clock = workload.Clock()
    for number in range(workload.SITES):
        workload.site(number)
    network, sites = Network(clock), federation()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=workload.ROUNDS,
            evaluation_frequency=workload.ROUNDS,
            train_cohort_size=workload.SITES,
            val_cohort_size=None,
        ),
        SimulatedBackend(sites, sites),
        PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
        NNTrainHyperParams(
            local_batch_size=workload.BATCH,
            local_num_epochs=1,
            local_learning_rate=workload.RATE,
        ),
        NNEvalHyperParams(local_batch_size=None),
        [Watch(clock)],
        send_metrics_to_platform=False,
    )
    workload.tell(clock, network.net, "pfl")


if __name__ == "__main__":
    main()
