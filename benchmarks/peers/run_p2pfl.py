"""FedAvg, played by p2pfl: every site a node of threads in one process, that gossips in memory.

p2pfl (GPL-3.0) is called and never copied. Its own trainer needs Lightning and torchvision, and
evaluates in every round; a learner of ours, which p2pfl provides for, spares it all three.
``compare.py`` runs this file; its arguments are the time and a number that nothing depends on.
"""

import threading
from typing import Any

import numpy as np
import torch
import workload
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from p2pfl.settings import Settings

Settings.general.DISABLE_RAY = True  # it would be started by the imports that follow

from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol  # noqa: E402
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks import Framework  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.management.logger import logger  # noqa: E402
from p2pfl.node import Node  # noqa: E402
from p2pfl.utils.topologies import TopologyFactory, TopologyType  # noqa: E402
from p2pfl.utils.utils import set_standalone_settings, wait_convergence  # noqa: E402


class Model(P2PFLModel):  # type: ignore[misc]  # p2pfl is not looked into
    """A network as a list of arrays."""

    def get_parameters(self) -> list[NDArray[np.float32]]:
        """See ``P2PFLModel``."""
        return [p.detach().numpy().copy() for p in self.model.parameters()]

    def set_parameters(self, params: list[NDArray[np.float32]] | bytes) -> None:
        """See ``P2PFLModel``."""
        if isinstance(params, bytes):
            params, info = self.decode_parameters(params)
            self.additional_info.update(info)
        with torch.no_grad():
            for p, new in zip(self.model.parameters(), params, strict=True):
                p.copy_(torch.from_numpy(np.ascontiguousarray(new)))

    def get_framework(self) -> str:
        """See ``P2PFLModel``."""
        return str(Framework.PYTORCH.value)


class Plain(Learner):  # type: ignore[misc]  # p2pfl is not looked into
    """Learns for an epoch, in plain PyTorch; the first site notes when a round begins."""

    def __init__(self, number: int, clock: workload.Clock, ended: threading.Event) -> None:
        super().__init__()
        self.number, self.clock, self.ended, self.played = number, clock, ended, 0

    def indicate_aggregator(self, aggregator: Any) -> None:  # noqa: ANN401 - p2pfl's signature
        """See ``Learner``; FedAvg asks nothing of a learner, and looking loads Lightning."""

    def fit(self) -> P2PFLModel:
        """See ``Learner``."""
        self.clock.stepping()
        model = self.get_model()
        workload.epoch(model.get_model(), self.number, self.played)
        self.played += 1
        model.set_contribution([self.addr], workload.ROWS)
        return model

    def evaluate(self) -> dict[str, float]:
        """See ``Learner``; p2pfl asks as a round begins, and after the last."""
        if self.number == 0:
            self.clock.mark()
        if self.played == workload.ROUNDS:
            self.ended.set()
        return {}

    def interrupt_fit(self) -> None:
        """See ``Learner``."""

    def get_framework(self) -> str:
        """See ``Learner``."""
        return str(Framework.PYTORCH.value)


def rows() -> P2PFLDataset:
    """Return what stands for a site's rows, which the learner has."""
    here = Dataset.from_dict({"row": list(range(workload.ROWS))})
    return P2PFLDataset(DatasetDict({"train": here, "test": here}), batch_size=workload.BATCH)


def settle() -> None:
    """Choose p2pfl's settings for one machine, and shorter waits: else it sleeps."""
    set_standalone_settings()
    Settings.general.LOG_LEVEL = "ERROR"
    logger.set_level(Settings.general.LOG_LEVEL)
    Settings.gossip.PERIOD = 0.01
    Settings.gossip.MODELS_PERIOD = 0.1
    Settings.gossip.MODELS_PER_ROUND = workload.SITES
    Settings.gossip.EXIT_ON_X_EQUAL_ROUNDS = 10_000


def main() -> None:
    """Play the workload."""
    torch.set_num_threads(1)
    settle()
    clock = workload.Clock()
    ended = [threading.Event() for _ in range(workload.SITES)]
    nodes = [
        Node(
            Model(workload.network()),
            rows(),
            addr=f"site-{number}",
            learner=Plain(number, clock, ended[number]),
            protocol=MemoryCommunicationProtocol(),
        )
        for number in range(workload.SITES)
    ]
    for node in nodes:
        node.start()
    TopologyFactory.connect_nodes(
        TopologyFactory.generate_matrix(TopologyType.FULL, len(nodes)), nodes
    )
    wait_convergence(nodes, len(nodes) - 1, wait=60)
    nodes[0].set_start_learning(rounds=workload.ROUNDS, epochs=1, trainset_size=workload.SITES)
    for one in ended:
        one.wait()
    workload.tell(clock, nodes[0].get_model().get_model(), "p2pfl")
    for node in nodes:
        node.stop()


if __name__ == "__main__":
    main()
