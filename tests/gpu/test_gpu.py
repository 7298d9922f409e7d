"""What a GPU makes of a round is what a CPU makes of it: run with ``make test-gpu``."""

import gc

import pytest
import torch
from tests.made import made_data, made_pictures, made_rows
from torch import nn

from dflmoe.baselines.fedavg import FEDAVG
from dflmoe.baselines.rival import Budget
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import CrossFit, Network, SiteData
from dflmoe.core.training import Training
from dflmoe.networks import mlp, plain
from dflmoe.simulation.device import device_named
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine

NAMES = ("ann", "bob", "cyd")
STEPS = Training(
    weight_decays=(0.1,), learning_rate=0.01, max_steps=3, batch=16, early_stopping=False
)
TABLES = {name: made_data(made_rows(name, 80, k)) for k, name in enumerate(NAMES)}
CNN = Network(
    nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    nn.Sequential(nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 2)),
    72,
    2,
)


def pictures(seed: int) -> SiteData:
    x, _ = made_pictures(40, seed)
    y = (x.flatten(1).mean(1) > x.mean()).long()
    fold = torch.arange(40) % 2
    fold[-8:] = -1
    return SiteData(x[None], y, CrossFit(fold[None]), torch.arange(40))


IMAGES = {name: pictures(k) for k, name in enumerate(NAMES)}
DIALS = Dials(mixture_steps=2)


def lent(network: Network) -> Algorithm:
    return DFLMoE(network, DIALS, STEPS)


def both(method: Algorithm, data: dict[str, SiteData], *, server: bool) -> tuple[Played, Played]:
    one, other = (
        play(
            dict.fromkeys(NAMES, method), data, rounds=1, seed=0, purpose="t",
            server=FEDAVG.server if server else None, machine=Machine(device_named(name)),
        )
        for name in ("cpu", "cuda")
    )  # fmt: skip
    return one, other


@pytest.mark.parametrize(
    ("method", "data", "server", "within"),
    [
        pytest.param(lent(plain(4, 2)), TABLES, False, 1e-2, id="linear, to its optimum"),
        pytest.param(lent(mlp(4, 2, hidden=8)), TABLES, False, 1e-4, id="MLP"),
        pytest.param(lent(CNN), IMAGES, False, 1e-2, id="CNN"),
        pytest.param(
            FEDAVG.build(CNN, Budget(STEPS, STEPS, rounds=1, seed=0)), IMAGES, True, 1e-4,
            id="CNN, averaged",
        ),
    ],
)  # fmt: skip
def test_a_round_is_the_same_but_for_rounding(
    method: Algorithm, data: dict[str, SiteData], server: bool, within: float
) -> None:
    cpu, gpu = both(method, data, server=server)
    for name in NAMES:
        ours, theirs = cpu.outcomes[name][0], gpu.outcomes[name][0]
        assert theirs.served.device.type == "cpu"
        assert float((ours.own - theirs.own).abs().max()) < within
        assert float((ours.mixture - theirs.mixture).abs().max()) < within


def test_a_federation_that_has_ended_leaves_nothing_on_the_gpu() -> None:
    both(lent(CNN), IMAGES, server=False)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        both(lent(CNN), IMAGES, server=False)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before
