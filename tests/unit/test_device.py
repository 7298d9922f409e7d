"""What is computed where; neither that nor the number of workers changes what comes of it."""

from dataclasses import dataclass

import pytest
import torch
from tests.made import made_data, made_rows
from torch import Tensor, nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.training import Training
from dflmoe.errors import OptionError
from dflmoe.networks import mlp
from dflmoe.simulation.device import CPU, device_named, moved
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine

NAMES = ("ann", "bob", "cyd")
DATA = {name: made_data(made_rows(name, 30, k)) for k, name in enumerate(NAMES)}
STEPS = Training(weight_decays=(0.1,), max_steps=3, batch=8)


@dataclass(frozen=True)
class Tree:
    leaf: Tensor
    branch: dict[str, Tensor]
    twigs: list[Tensor]
    module: nn.Module | None = None


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_device_that_is_there_is_found(name: str) -> None:
    assert device_named(name).type in {"cpu", "cuda"}


@pytest.mark.parametrize("name", ["cuda:99", "mps:9", "vulcan", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="choose auto or cpu"):
        device_named(name)


def test_what_is_there_already_is_not_copied() -> None:
    tree = Tree(torch.ones(2), {"a": torch.ones(3)}, [])
    assert moved(tree, CPU) is tree
    assert moved(DATA, CPU) is DATA


def test_all_tensors_and_modules_are_moved() -> None:
    module = nn.Linear(2, 2)
    tree = Tree(torch.ones(2), {"a": torch.ones(3)}, [torch.ones(1)], module)
    there = moved(tree, torch.device("meta"))
    assert {p.device.type for p in (there.leaf, there.branch["a"], there.twigs[0])} == {"meta"}
    assert there.module is not None
    assert next(there.module.parameters()).device.type == "meta"
    assert there.module is module


def played(workers: int) -> Played:
    return play(
        {name: DFLMoE(mlp(4, 2, hidden=4), Dials(mixture_steps=2), STEPS) for name in NAMES},
        DATA,
        rounds=2,
        seed=0,
        purpose="t",
        machine=Machine(workers=workers),
    )


def test_the_number_of_workers_changes_no_number() -> None:
    one, many = played(1), played(5)
    for name in NAMES:
        for a, b in zip(one.outcomes[name], many.outcomes[name], strict=True):
            assert torch.equal(a.served, b.served)
            assert torch.equal(a.mixture, b.mixture)
    assert one.sent_bytes == many.sent_bytes
