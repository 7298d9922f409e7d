"""Anchors: an affine relation is found, a loose one is shrunk, a borrowed head means the same."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made import made_data, made_rows, noise

from dflmoe.core.align import GRID, aligned, anchor_features, anchored_map
from dflmoe.core.dflmoe import ANCHORS, DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.types import generator

QUICK = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=40)
DIALS = Dials(align="anchored", body="private", vouched=False)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 200), width=st.integers(1, 6), peer=st.integers(1, 6))
def test_an_affine_relation_is_found(seed: int, width: int, peer: int) -> None:
    own, weight, bias = (
        noise(seed, 2, 60, width),
        noise(seed + 1, 2, peer, width),
        noise(seed + 2, 2, peer),
    )
    theirs = torch.einsum("mof,mnf->mno", weight, own) + bias[:, None]
    found = anchored_map(own, theirs)
    torch.testing.assert_close(found["weight"], weight, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(found["bias"], bias, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(aligned(found, own), theirs, atol=2e-2, rtol=1e-2)


def test_features_that_have_nothing_in_common_are_mapped_to_their_mean() -> None:
    own, theirs = noise(0, 1, 60, 40), noise(1, 1, 60, 3) + 5
    found = anchored_map(own, theirs)
    fresh = aligned(found, noise(2, 1, 400, 40))
    assert fresh.std(1).max() < theirs.std(1).min()
    torch.testing.assert_close(fresh.mean(1), theirs.mean(1), atol=0.2, rtol=0)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_feature_that_never_changes_is_no_trouble(constant: float) -> None:
    own = torch.cat([noise(0, 1, 30, 2), torch.full((1, 30, 1), constant)], dim=2)
    found = anchored_map(own, own)
    assert all(p.isfinite().all() for p in found.values())
    torch.testing.assert_close(aligned(found, own), own, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("places", [(), (9,), (8, 12)])
def test_feature_maps_are_lent_coarse_and_mapped_at_every_place(places: tuple[int, ...]) -> None:
    features = noise(0, 2, 10, 3, *places)
    rows = anchor_features(features)
    assert rows.shape == (2, 10 * GRID ** len(places), 3)
    to = {
        "weight": torch.eye(3).flip(0).expand(2, 3, 3),
        "bias": torch.tensor([1.0, 0, 0]).expand(2, 3),
    }
    moved = aligned(to, features)
    torch.testing.assert_close(moved[:, :, 0], features[:, :, 2] + 1)
    torch.testing.assert_close(moved[:, :, 2], features[:, :, 0])


def test_a_head_from_another_body_says_at_home_what_it_says_where_it_was_trained() -> None:
    anchors = noise(5, 200, 4)
    rich = replace(made_data(made_rows("rich", 400, 1)), anchors=anchors)
    home = replace(made_data(made_rows("home", 24, 2)), anchors=anchors)
    lender = DFLMoE(mlp(4, 2, hidden=8), DIALS, QUICK)
    _, lent = lender.prepare(lender.init("rich", rich, generator(1)), rich, generator(2))
    assert lent.tensors[ANCHORS].shape == (2, 200, 8)

    def loss(dials: Dials) -> float:
        algorithm = DFLMoE(mlp(4, 2, hidden=6), dials, QUICK)
        state, _ = algorithm.prepare(algorithm.init("home", home, generator(3)), home, generator(4))
        _, outcome = algorithm.absorb(state, [lent], home, generator(5))
        return float(outcome.mixture_loss.mean())

    assert loss(DIALS) < loss(replace(DIALS, control="random"))


def test_without_anchors_it_says_so() -> None:
    data = made_data(made_rows("home", 24, 2))
    algorithm = DFLMoE(mlp(4, 2, hidden=6), DIALS, QUICK)
    with pytest.raises(ValueError, match="anchors are needed"):
        algorithm.prepare(algorithm.init("home", data, generator(3)), data, generator(4))
