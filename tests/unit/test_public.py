"""A public body: where it begins, what of it learns, and how far that may go."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.made import made_data, made_rows, noise

from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.core.training import Training
from dflmoe.data.weights import read_weights
from dflmoe.errors import DataFileError, NetworkError
from dflmoe.networks import mlp, small_cnn
from dflmoe.networks.public import public_body
from dflmoe.types import Params, generator

DATA = made_data(made_rows("ann", 40, 0))
PLAN = Training(weight_decays=(0.01,), max_steps=20, judge_every=10)
NETWORK = mlp(4, 2, hidden=6)


def weights(network: Network = NETWORK, seed: int = 7) -> Params:
    drawn = initial(network.body, 1, generator(seed, "public"))
    return {name: p[0] for name, p in drawn.items()}


def begun(algorithm: Algorithm, seed: int = 0) -> Params:
    state = algorithm.init("ann", DATA, generator(seed, "begun"))
    return dict(state.params["body"])


def features(network: Network, body: Params) -> torch.Tensor:
    return stacked_call(network.body, body, DATA.x.repeat_interleave(DATA.crossfit.fits, dim=0))


@pytest.mark.parametrize("learns", [(), ("0",), ("0", "2")])
def test_it_begins_with_its_weights_whatever_the_chance_and_whoever_trains_it(
    learns: tuple[str, ...],
) -> None:
    public = public_body(NETWORK, weights(), learns)
    with torch.no_grad():
        expected = features(NETWORK, {n: p.expand(8, *p.shape) for n, p in weights().items()})
        for seed in (0, 1):
            for algorithm in (DFLMoE(public, Dials(body="public")), LocalOnly(public, PLAN)):
                torch.testing.assert_close(features(public, begun(algorithm, seed)), expected)
        average = Averaging(public, PLAN).init("ann", DATA, generator(0, "a")).params["model"]
        body = {n[5:]: p for n, p in average.items() if n.startswith("body/")}
        torch.testing.assert_close(features(public, body), expected)


def test_frozen_it_is_one_feature_space_and_has_nothing_to_train() -> None:
    public = public_body(NETWORK, weights())
    assert public.common
    algorithm = LocalOnly(public, PLAN)
    state = algorithm.init("ann", DATA, generator(0, "i"))
    assert state.params["body"] == {}
    trained, _ = algorithm.prepare(state, DATA, generator(0, "p"))
    assert trained.params["body"] == {}
    assert not torch.equal(trained.params["head"]["weight"], state.params["head"]["weight"])


def test_what_does_not_learn_stays_and_what_learns_is_pulled_back_by_weight_decay() -> None:
    moves = []
    for penalty in (1e-4, 1.0, 100.0):
        network = public_body(NETWORK, weights(), ["2"])
        assert not network.common
        plan = replace(PLAN, weight_decays=(penalty,), early_stopping=False, max_steps=200)
        algorithm = DFLMoE(network, Dials(body="public"), plan)
        state = algorithm.init("ann", DATA, generator(0, "i"))
        assert all("2" in name.split(".") for name in state.params["body"])
        assert all((p == 0).all() for p in state.params["body"].values())
        trained, _ = algorithm.prepare(state, DATA, generator(0, "p"))
        moved = [p for p in trained.params["body"].values() if p.dim() == 3]  # no vectors
        moves.append(float(moved[0].norm()))
    assert moves[0] > moves[1] > moves[2] > 0


def test_convolutions_may_be_public_in_part() -> None:
    network = small_cnn(1, 2)
    given = weights(network)
    public = public_body(network, given, ["0"])
    x = noise(0, 2, 3, 1, 8, 8)
    began = initial(public.body, 2, generator(0, "c"))
    expected = stacked_call(network.body, {n: p.expand(2, *p.shape) for n, p in given.items()}, x)
    torch.testing.assert_close(stacked_call(public.body, began, x), expected)
    with torch.no_grad():
        pushed = {name: p + 0.1 for name, p in began.items()}
        assert not torch.allclose(stacked_call(public.body, pushed, x), expected)


def test_a_file_is_read_and_what_it_has_beside_the_body_is_left(tmp_path: Path) -> None:
    path = tmp_path / "body.safetensors"
    save_file({**weights(), "classifier.weight": torch.ones(3)}, path)
    read = public_body(NETWORK, read_weights(path))
    direct = public_body(NETWORK, weights())
    torch.testing.assert_close(read.body(DATA.x[0]), direct.body(DATA.x[0]))


def test_the_given_network_is_left_as_it_was() -> None:
    before = {name: p.clone() for name, p in NETWORK.body.named_parameters()}
    public_body(NETWORK, weights(), ["0"])
    assert all(torch.equal(p, before[name]) for name, p in NETWORK.body.named_parameters())
    assert all(p.requires_grad for p in NETWORK.body.parameters())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"0.weight": None}, "have no '0.weight'"),
        ({"0.weight": torch.ones(6, 5)}, r"has shape \(6, 5\) and the body's \(6, 4\)"),
        ({"0.bias": torch.full((6,), torch.nan)}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    wrong: dict[str, torch.Tensor | None], sentence: str
) -> None:
    given = {n: p for n, p in {**weights(), **wrong}.items() if p is not None}
    with pytest.raises(NetworkError, match=sentence):
        public_body(NETWORK, given)


def test_a_layer_that_is_not_there_cannot_learn() -> None:
    with pytest.raises(NetworkError, match=r"no layer 'last'.* 0.weight"):
        public_body(NETWORK, weights(), ["last"])


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x80\x04pickle"])
def test_a_file_that_is_no_safetensors_file_is_refused(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "body.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError, match="cannot be read"):
        read_weights(path)
