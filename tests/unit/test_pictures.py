"""The mixture at every pixel against a plain loop, and the method where pictures come out."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made import dense_data, made_masks, made_pictures, noise, pixels
from torch import Tensor, nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.gate import GateKind, gate_log_weights, gate_scores, uniform_gate
from dflmoe.core.mixing import Invited, fit_mixture
from dflmoe.core.mixture import Pool, mix
from dflmoe.core.site import Network, SiteData
from dflmoe.core.task import LABELS
from dflmoe.core.training import Training
from dflmoe.core.transform import identity_maps, transformed
from dflmoe.simulation.federation import Played, play
from dflmoe.tasks import TASKS
from dflmoe.tasks.segmentation import Pixels
from dflmoe.tasks.super_resolution import Images
from dflmoe.types import Params, generator

EXPERTS = ["own", "ann", "bob"]
POOLS: tuple[Pool, ...] = ("linear", "log", "logits")
GATES: tuple[GateKind, ...] = ("attention", "linear", "static")
SEEDS = st.integers(0, 2**16)
law = settings(max_examples=10, deadline=None)


# The mixture at every pixel.


def moved_gate(kind: GateKind, seed: int, width: int = 3, classes: int = 2) -> Params:
    gate = uniform_gate(kind, EXPERTS, models=2, width=width, classes=classes)
    return {n: noise(seed + k, *p.shape) for k, (n, p) in enumerate(sorted(gate.items()))}


@pytest.mark.parametrize("kind", GATES)
@law
@given(seed=SEEDS, cap=st.sampled_from([1.0, 0.4]), lends=st.tuples(st.booleans(), st.booleans()))
def test_gate_and_mixture_of_a_picture_equal_a_loop_over_its_pixels(
    kind: GateKind, cap: float, seed: int, lends: tuple[bool, bool]
) -> None:
    gate = moved_gate(kind, seed)
    features, tokens = noise(seed, 2, 2, 3, 2, 3), noise(seed + 9, 2, 2, 3, 2, 2, 3)
    available = torch.tensor([[True, *lends], [True, True, False]])
    weights = gate_log_weights(gate_scores(gate, EXPERTS, features, tokens), available, cap)
    wholes = {pool: mix(Pixels().said(tokens, 3), weights, pool) for pool in POOLS}
    for h, w in pixels(tokens):
        place = tokens[..., h, w]
        scores = gate_scores(gate, EXPERTS, features[..., h, w], place)
        alone = gate_log_weights(scores, available, cap)
        there = weights if kind == "static" else weights[..., h, w]
        torch.testing.assert_close(there, alone)
        for pool, whole in wholes.items():
            expected = mix(LABELS.said(place, 3), alone, pool)
            torch.testing.assert_close(whole[..., h, w], expected)


@law
@given(seed=SEEDS, cap=st.floats(0.05, 1.0), lends=st.tuples(st.booleans(), st.booleans()))
def test_weights_sum_to_one_at_every_pixel_and_no_peer_weighs_more_than_the_cap(
    seed: int, cap: float, lends: tuple[bool, bool]
) -> None:
    gate = {n: 5 * p for n, p in moved_gate("linear", seed).items()}
    available = torch.tensor([[True, *lends]] * 2)
    scores = gate_scores(gate, EXPERTS, noise(seed, 2, 2, 3, 4, 4), noise(seed, 2, 2, 3, 2, 4, 4))
    weights = gate_log_weights(scores, available, cap).exp()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 2, 4, 4))
    assert (weights[:, :, 1:] <= cap + 1e-6).all()
    assert not weights[:, :, ~torch.tensor([True, *lends])].any()


def test_a_static_gate_says_the_same_at_every_pixel_and_a_linear_one_does_not() -> None:
    features, tokens = noise(0, 2, 2, 3, 4, 4), noise(1, 2, 2, 3, 2, 4, 4)
    static = gate_scores(moved_gate("static", 0), EXPERTS, features, tokens)
    assert static.shape == (2, 1, 3)
    linear = gate_scores(moved_gate("linear", 0), EXPERTS, features, tokens)
    assert linear.shape == (2, 2, 3, 4, 4)
    assert linear.flatten(3).std(3).min() > 0


@law
@given(seed=SEEDS)
def test_a_transform_of_feature_maps_is_two_convolutions_of_one_pixel(seed: int) -> None:
    maps = {n: noise(seed + k, *p.shape) for k, (n, p) in
            enumerate(identity_maps({"ann": 5}, 2, 3).items())}  # fmt: skip
    features = noise(seed, 2, 4, 3, 2, 3)
    said = transformed(maps, ["ann"], features)[0]
    for m in range(2):
        common = nn.functional.conv2d(features[m], maps["common"][m, :, :, None, None])
        expected = nn.functional.conv2d(common, maps["to/ann"][m, :, :, None, None])
        torch.testing.assert_close(said[m], expected, rtol=1e-4, atol=1e-5)


@law
@given(seed=SEEDS, pool=st.sampled_from(POOLS))
def test_images_are_pooled_to_their_weighted_mean_whatever_the_pool(seed: int, pool: Pool) -> None:
    images = noise(seed, 1, 2, 3, 1, 2, 2)
    weights = torch.tensor([0.5, 0.3, 0.2])
    pooled = Images().pooled(images, weights.log().view(1, 1, 3), pool)
    expected = 0.5 * images[:, :, 0] + 0.3 * images[:, :, 1] + 0.2 * images[:, :, 2]
    torch.testing.assert_close(pooled, expected)


def conv_network(features: int = 4, outputs: int = 2) -> Network:
    """Return a network whose head looks at one pixel."""
    body = nn.Sequential(nn.Conv2d(1, features, 3, padding=1), nn.ReLU())
    return Network(body, nn.Conv2d(features, outputs, 1), features, outputs)


@pytest.mark.parametrize(
    ("align", "kind", "pool"),
    [
        ("paper", "attention", "logits"),
        ("paper", "linear", "linear"),
        ("shared", "attention", "log"),
        ("shared", "static", "linear"),
    ],
)
def test_a_fitted_mixture_of_pictures_equals_one_of_each_pixel_as_a_row(
    align: Literal["paper", "shared"], kind: GateKind, pool: Pool
) -> None:
    dials = Dials(align=align, gate=kind, pool=pool, calibrate=False, out_of_fold_gate=False,
                  guard=False, mixture_steps=0)  # fmt: skip
    x, y = made_masks(5, 0, side=4)
    data = dense_data(x, y, Pixels(), tested=1)
    network = conv_network()
    heads = {
        name: {n: noise(k, 3, *p.shape) for n, p in network.head.named_parameters()}
        for k, name in enumerate(EXPERTS)
    }
    widths = {"ann": 4, "bob": 4}
    gate = {n: noise(7, *p.shape) for n, p in uniform_gate(kind, EXPERTS, 3, 4, 2).items()}
    maps = {n: noise(8, *p.shape) for n, p in identity_maps(widths, 3, 4).items()}
    features = noise(9, 3, 5, 4, 4, 4)

    def fitted(net: Network, at: SiteData, what: dict[str, Params], seen: Tensor) -> Tensor:
        peers = {name: head for name, head in what.items() if name != "own"}
        mixed = fit_mixture(
            net, dials, Invited(what["own"], peers, widths), seen,
            body={}, previous=gate | maps, data=at, rng=generator(0),
        )  # fmt: skip
        return mixed.log_probs

    whole = fitted(network, data, heads, features)
    flat = {
        name: {n: p.flatten(2) if n == "weight" else p for n, p in head.items()}
        for name, head in heads.items()
    }
    point = Network(nn.Identity(), nn.Linear(4, 2), 4, 2)
    for h, w in pixels(y):
        one = replace(data, y=y[:, h, w], task=LABELS)
        torch.testing.assert_close(
            whole[..., h, w], fitted(point, one, flat, features[..., h, w]), rtol=1e-4, atol=1e-5
        )


# The whole method where pictures come out.

QUICK = Training(
    weight_decays=(0.01,), learning_rate=0.03, max_steps=6, judge_every=2, patience=3, batch=None
)
DIALS = {
    "shared": Dials(mixture_steps=6),
    "attention": Dials(gate="attention", mixture_steps=6),
    "moving": replace(Dials.paper(), mixture_steps=3, batch=4, move_body=True),
    "paper": replace(Dials.paper(), mixture_steps=3, batch=4),
    "apart": Dials(align="paper", body="private", vouched=False, gate="linear", mixture_steps=4),
}


def sites(task: str, rows: int = 9) -> dict[str, SiteData]:
    made = made_masks if task == "segmentation" else made_pictures
    return {
        name: dense_data(*made(rows, k), TASKS[task].task)
        for k, name in enumerate(("ann", "bob", "cyd"))
    }


def outputs(task: str) -> int:
    return 2 if task == "segmentation" else 1


def federation(
    task: str, dials: Dials, data: dict[str, SiteData] | None = None, rounds: int = 2
) -> Played:
    data = data or sites(task)
    network = conv_network(outputs=outputs(task))
    algorithms = {name: DFLMoE(network, dials, QUICK) for name in data}
    return play(algorithms, data, rounds=rounds, seed=0, purpose="dense")


@pytest.mark.parametrize("dials", DIALS.values(), ids=DIALS)
@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
def test_heads_are_lent_and_mixed_where_pictures_come_out(task: str, dials: Dials) -> None:
    played = federation(task, dials)
    for name, outcomes in played.outcomes.items():
        for outcome in outcomes:
            for said in (outcome.served, outcome.own, outcome.mixture):
                assert said.shape == (1, 9, outputs(task), 8, 8)
                assert said.isfinite().all()
            assert set(outcome.share) == {"ann", "bob", "cyd"}
            torch.testing.assert_close(sum(outcome.share.values()), torch.ones(1))
            assert next(iter(outcome.share)) == name
    assert not any(played.refused.values())


@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
def test_what_is_lent_is_the_head_and_nothing_of_the_body(task: str) -> None:
    data = sites(task)["ann"]
    network = conv_network(outputs=outputs(task))
    algorithm = DFLMoE(network, Dials(), QUICK)
    state = algorithm.init("ann", data, generator(0))
    trained, lent = algorithm.prepare(state, data, generator(1))
    assert lent.kind == "head"
    assert {n: p.shape[1:] for n, p in lent.tensors.items()} == {
        n: p.shape for n, p in network.head.named_parameters()
    }
    # The last fit is lent, the one that learnt from all training rows.
    torch.testing.assert_close(lent.tensors["weight"], trained.params["head"]["weight"][-1:])


@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
def test_pictures_are_learnt(task: str) -> None:
    played = federation(task, Dials(mixture_steps=6), rounds=3)
    for outcomes in played.outcomes.values():
        assert outcomes[-1].curve[0].nan_to_num(torch.inf).min() < outcomes[0].curve[0, 0]


def nearly_true(data: SiteData, task: str) -> Tensor:
    if task == "super_resolution":
        return data.y[None] + 0.001
    truth = nn.functional.one_hot(data.y, 2).movedim(-1, 1)
    return (0.98 * truth + 0.01).log()[None]


@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
@pytest.mark.parametrize("vouched", [True, False])
def test_the_guard_falls_back_to_the_best_model_alone_when_heads_are_noise(
    task: str, vouched: bool
) -> None:
    data = {
        name: replace(one, alone=nearly_true(one, task)) for name, one in sites(task, 16).items()
    }
    played = federation(task, Dials(control="random", vouched=vouched, mixture_steps=6), data, 1)
    for name, (outcome,) in played.outcomes.items():
        assert not outcome.used.any()
        torch.testing.assert_close(outcome.served, data[name].alone, rtol=0, atol=0)
        assert (outcome.own_loss < outcome.mixture_loss).all()


@pytest.mark.parametrize("control", ["random", "shuffled", "self"])
@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
def test_every_control_plays_where_pictures_come_out(
    task: str, control: Literal["random", "shuffled", "self"]
) -> None:
    played = federation(task, Dials(control=control, mixture_steps=4), rounds=1)
    assert all(o[-1].mixture.isfinite().all() for o in played.outcomes.values())


@pytest.mark.parametrize("dials", ["shared", "moving", "apart"])
@pytest.mark.parametrize("task", ["segmentation", "super_resolution"])
def test_pictures_that_are_tested_are_never_looked_at(task: str, dials: str) -> None:
    data = sites(task)
    y = data["ann"].y.clone()
    y[-3:] = y[-3:].flip(0) if task == "super_resolution" else 1 - y[-3:]
    changed = {**data, "ann": replace(data["ann"], y=y)}
    first, second = (federation(task, DIALS[dials], one, rounds=1) for one in (data, changed))
    for name in data:
        torch.testing.assert_close(
            first.outcomes[name][-1].served, second.outcomes[name][-1].served, rtol=0, atol=0
        )
