"""Bodies may compute in a shorter format; nothing else does."""

from collections.abc import Iterator

import pytest
import torch
from tests.made import made_data, made_rows
from torch import nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network
from dflmoe.core.stacking import bodies_in, compute_bodies_in, features_of, initial, stacked_call
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine
from dflmoe.types import generator

BODY = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))
IMAGES = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())


@pytest.fixture
def short() -> Iterator[None]:
    compute_bodies_in(torch.bfloat16)
    yield
    compute_bodies_in(None)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("body", "shape"), [(BODY, (4,)), (IMAGES, (1, 6, 6))])
def test_what_a_body_says_is_near_and_in_the_format_of_the_rows(
    body: nn.Module, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    params, x = initial(body, 2, generator(0)), torch.randn(2, 30, *shape, generator=rng)
    said, exact = features_of(body, params, x), stacked_call(body, params, x)
    assert said.dtype == torch.float32
    assert not torch.equal(said, exact)
    torch.testing.assert_close(said, exact, rtol=0.05, atol=0.02)


def test_unless_asked_a_body_computes_as_ever(rng: torch.Generator) -> None:
    params, x = initial(BODY, 2, generator(0)), torch.randn(2, 30, 4, generator=rng)
    assert bodies_in() is None
    assert torch.equal(features_of(BODY, params, x), stacked_call(BODY, params, x))


NAMES = ("ann", "bob", "cyd")
DATA = {name: made_data(made_rows(name, 60, k)) for k, name in enumerate(NAMES)}
STEPS = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40)
FROZEN = Network(
    nn.Sequential(nn.Linear(4, 8), nn.Tanh()).requires_grad_(requires_grad=False),
    nn.Linear(8, 2),
    8,
    2,
    common=True,
)


def played(network: Network, machine: Machine) -> Played:
    method = DFLMoE(network, Dials(mixture_steps=5), STEPS)
    return play(dict.fromkeys(NAMES, method), DATA, rounds=1, seed=0, purpose="t", machine=machine)


@pytest.mark.parametrize("company", [1, 3])
@pytest.mark.parametrize("network", [mlp(4, 2, hidden=16), FROZEN], ids=["learns", "frozen"])
def test_what_is_learnt_with_short_bodies_is_near_and_kept_in_full(
    network: Network, company: int
) -> None:
    full = played(network, Machine(company=company))
    short = played(network, Machine(company=company, precision="bf16"))
    again = played(network, Machine(company=company))
    for name in NAMES:
        one, other = full.outcomes[name][0], short.outcomes[name][0]
        assert not torch.equal(one.own, other.own)
        assert torch.equal(one.own, again.outcomes[name][0].own)
        torch.testing.assert_close(other.own_loss, one.own_loss, rtol=0.1, atol=0.03)
        for part in ("body", "head"):
            for p in short.states[name].params[part].values():
                assert p.dtype == torch.float32
        (lent,) = short.lent[name]
        assert {p.dtype for p in lent.tensors.values()} == {torch.float32}
