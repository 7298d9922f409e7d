"""A site's own encoder: frozen, of any width, and a linear map that brings it to the head's."""

from dataclasses import replace

import pytest
import torch
from tests.made import made_data, made_rows, noise
from torch import nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.core.training import Training
from dflmoe.errors import NetworkError
from dflmoe.networks import build, encoder
from dflmoe.networks.blocks import chain
from dflmoe.networks.tables import Unopinionated
from dflmoe.types import Params, generator

SHAPE = (1, 12, 12)
WIDTH = 5
PLAN = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=40)
HERE = "tests.unit.test_encoder"


def used(shape: tuple[int, ...], _: int) -> nn.Module:
    """Return an encoder as hospitals have them: with BatchNorm and dropout, and without a head."""
    return nn.Sequential(nn.Conv2d(shape[0], 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout(0.5))


def whole(shape: tuple[int, ...], outputs: int) -> nn.Module:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return chain(stem=nn.Conv2d(shape[0], 6, 3), pool=pool, last=nn.Linear(6, outputs))


def counting(shape: tuple[int, ...], _: int) -> nn.Module:
    module = nn.Conv2d(shape[0], 3, 3)
    module.register_buffer("seen", torch.zeros(1))
    return module


def table(shape: tuple[int, ...], _: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 9), nn.ReLU())


def drawn(module: nn.Module, seed: int = 0) -> Params:
    """Return weights, and statistics where there are some, of no particular worth."""
    rng = generator(seed, "weights")
    state = module.state_dict()
    return {n: 0.1 + torch.rand(p.shape, generator=rng) for n, p in state.items() if p.dim()}


@pytest.mark.parametrize(
    ("network", "at", "given", "features"),
    [
        pytest.param("resnet5", None, build("resnet5", SHAPE, 2).body, 32, id="of the catalogue"),
        pytest.param(f"{HERE}:whole", "last", whole(SHAPE, 2), 6, id="with a head"),
        pytest.param(f"{HERE}:used", None, used(SHAPE, 2), 7, id="without one"),
    ],
)
def test_whatever_its_width_only_a_linear_map_learns_and_it_starts_from_the_seed(
    network: str, at: str | None, given: nn.Module, features: int
) -> None:
    body = encoder(drawn(given), network, SHAPE, WIDTH, at=at)
    first, again, other = (initial(body, 3, generator(seed, "b")) for seed in (0, 0, 1))
    shapes = {name: tuple(p.shape) for name, p in first.items()}
    assert shapes == {"map.weight": (3, WIDTH, features), "map.bias": (3, WIDTH)}
    assert torch.equal(first["map.weight"], again["map.weight"])
    assert not torch.equal(first["map.weight"], other["map.weight"])
    x = noise(0, 3, 4, *SHAPE)
    assert stacked_call(body, first, x).shape == (3, 4, WIDTH)


def test_it_computes_what_it_did_where_it_was_trained_and_nothing_by_chance() -> None:
    module = used(SHAPE, 2)
    module.load_state_dict(drawn(module), strict=False)
    body = encoder(module.state_dict(), f"{HERE}:used", SHAPE, 7).train()
    params = {"map.weight": torch.eye(7), "map.bias": torch.zeros(7)}
    x = noise(1, 6, *SHAPE)
    with torch.no_grad():
        said = torch.func.functional_call(body, params, (x,))
        torch.testing.assert_close(said, module.eval()(x).mean((2, 3)))


def site(network: str, given: nn.Module) -> tuple[DFLMoE, Network]:
    """Return a site with an encoder of its own, behind which all sites have one head."""
    body = encoder(drawn(given), network, (4,), WIDTH)
    whole_one = Network(body, Unopinionated(WIDTH, 2), WIDTH, 2)
    dials = Dials(align="anchored", body="private", vouched=False)
    return DFLMoE(whole_one, dials, PLAN), whole_one


def test_two_sites_with_encoders_of_their_own_lend_each_other_heads() -> None:
    anchors = noise(5, 60, 4)
    sites = {
        "ann": site(f"{HERE}:table", table((4,), 2)),
        "bob": site("mlp", build("mlp", (4,), 2).body),
    }
    data = {
        name: replace(made_data(made_rows(name, 60, k)), anchors=anchors)
        for k, name in enumerate(sites)
    }
    given = {name: network.body.get_submodule("given") for name, (_, network) in sites.items()}
    before = {
        name: {n: p.clone() for n, p in one.named_parameters()} for name, one in given.items()
    }
    begun, lent = {}, []
    for name, (algorithm, _) in sites.items():
        state = algorithm.init(name, data[name], generator(0, name))
        state, one = algorithm.prepare(state, data[name], generator(1, name))
        assert set(state.params["body"]) == {"map.weight", "map.bias"}
        begun[name] = state
        lent.append(one)
    for name, (algorithm, _) in sites.items():
        others = [one for one in lent if one.site != name]
        _, outcome = algorithm.absorb(begun[name], others, data[name], generator(2, name))
        assert outcome.served.isfinite().all()
        assert len(outcome.share) == 2
        assert all(torch.equal(p, before[name][n]) for n, p in given[name].named_parameters())


@pytest.mark.parametrize(
    ("network", "given", "shape", "says"),
    [
        pytest.param("resnet5", {}, SHAPE, "have no 'stem.conv.weight'", id="no weights"),
        pytest.param("nothing", {}, SHAPE, "there is no network 'nothing'", id="no network"),
        pytest.param(f"{HERE}:nothing", {}, SHAPE, "could not be made", id="no factory"),
        pytest.param(
            f"{HERE}:counting", drawn(counting(SHAPE, 2)), SHAPE, "keeps 'seen'", id="a buffer"
        ),
        pytest.param(
            f"{HERE}:table", drawn(table((3,), 2)), (3, 8, 9), "does not make features", id="rows"
        ),
    ],
)
def test_an_encoder_that_cannot_be_used_is_told(
    network: str, given: Params, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(NetworkError, match=says) as told:
        encoder(given, network, shape, WIDTH)
    assert "\n" not in str(told.value)
