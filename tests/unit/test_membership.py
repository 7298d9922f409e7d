"""Membership attacks: what memorises leaks, what does not does not, and patients are the unit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.bench.leaks import (
    ATTACKS,
    Losses,
    heads_by_anchors,
    leaks,
    on_common_body,
    opinions_by_anchors,
)
from dflmoe.core.dflmoe import DFLMoE, head_of
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.core.stacking import initial
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.privacy.membership import Leak, leak, likelihood_ratio, loss_threshold
from dflmoe.types import generator

MEMBER = np.arange(40) < 20
PATIENT = np.arange(40)


def test_a_loss_that_separates_members_is_a_full_leak_and_one_that_is_the_same_for_all_none() -> (
    None
):
    assert leak(loss_threshold(np.where(MEMBER, 0.0, 1.0)[None]), MEMBER, PATIENT).area == 1
    flat = leak(loss_threshold(np.ones((3, 40))), MEMBER, PATIENT)
    assert (flat.area, flat.error) == (0.5, 0)


def test_a_row_that_is_easy_for_everybody_tells_nothing_by_its_likelihood_ratio() -> None:
    easy = np.linspace(0, 1, 40)
    losses, reference = np.stack([easy, easy]), easy[None]
    assert leak(loss_threshold(losses), MEMBER, PATIENT).area == 1
    assert leak(likelihood_ratio(losses, reference), MEMBER, PATIENT).area == 0.5
    known = losses - 0.1 * MEMBER
    assert leak(likelihood_ratio(known, reference), MEMBER, PATIENT).area == 1


def test_the_error_is_that_of_fresh_patients_and_grows_when_rows_are_the_same_patients() -> None:
    rng = np.random.default_rng(0)
    areas, errors = [], []
    for _ in range(300):
        score = rng.normal(size=40) + MEMBER
        found = leak(score, MEMBER, PATIENT)
        areas.append(found.area)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.15)
    four = leak(np.repeat(score, 4), np.repeat(MEMBER, 4), np.repeat(PATIENT, 4))
    assert four.area == pytest.approx(found.area)
    assert four.error == pytest.approx(found.error, rel=0.05)


GREEDY = Training((1e-4,), 0.05, max_steps=400, judge_every=400, early_stopping=False)
NETWORK = replace(mlp(8, 2, hidden=128), common=True)
BODY = initial(NETWORK.body, 1, generator(0, "body"))


class Lenders(NamedTuple):
    """Sites of noise, which can only be memorised, and what they lent."""

    data: dict[str, SiteData]
    states: dict[str, SiteState]
    lent: dict[str, list[Lent]]


def lenders(training: Training, dials: Dials, names: Sequence[str]) -> Lenders:
    """Let sites train once and lend."""
    found = Lenders({}, {}, {})
    anchors = torch.randn(300, 8, generator=generator(0, "anchors"))
    for k, name in enumerate(names):
        made = made_data(made_rows(name, 60, k, features=8, signal=0.0), folds=2)
        data = replace(made.only(0), anchors=anchors)
        algorithm = DFLMoE(NETWORK, dials, training, training)
        state = algorithm.init(name, data, generator(0, name))
        found.states[name], release = algorithm.prepare(state, data, generator(1, name))
        found.data[name], found.lent[name] = data, [release]
    return found


def told(losses: Losses, data: dict[str, SiteData]) -> dict[str, dict[str, Leak]]:
    """Return what sites tell whose rows are patients."""
    return leaks(losses, data, {name: one.group.numpy() for name, one in data.items()})


def attacked(training: Training, averaging: int) -> dict[str, float]:
    """Return the mean area of each attack on two sites."""
    data, _, lent = lenders(training, Dials(averaging=averaging), ("ann", "bob"))
    bodies = dict.fromkeys(data, BODY)
    found = told(on_common_body(dict.fromkeys(data, NETWORK), bodies, data, lent), data)
    return {
        attack: float(np.mean([site[attack].area for site in found.values()])) for attack in ATTACKS
    }


@pytest.mark.parametrize("averaging", [0, 1], ids=["head", "fits"])
def test_a_head_that_memorised_its_rows_leaks_more_than_one_that_stopped_early(
    averaging: int,
) -> None:
    careful = Training((1e-4,), 0.05, max_steps=400, judge_every=10)
    memorised, stopped = attacked(GREEDY, averaging), attacked(careful, averaging)
    assert memorised["loss threshold"] > 0.7
    for attack in ATTACKS:
        assert memorised[attack] > stopped[attack] + 0.05


def test_one_alone_has_no_peers_to_be_compared_with_and_tells_nothing() -> None:
    data, _, lent = lenders(Training((0.01,), max_steps=5), Dials(), ("ann",))
    assert told(on_common_body({"ann": NETWORK}, {"ann": BODY}, data, lent), data) == {}


def test_where_bodies_agree_a_peer_learns_as_much_by_anchors_as_by_the_common_body() -> None:
    dials = Dials(align="anchored", distil=1.0)
    data, states, lent = lenders(GREEDY, dials, ("ann", "bob", "cyd"))
    networks = dict.fromkeys(data, NETWORK)
    heads = {name: [replace(one, tensors=head_of(one.tensors))] for name, (one,) in lent.items()}
    common = on_common_body(networks, dict.fromkeys(data, BODY), data, heads)
    by_heads = heads_by_anchors(networks, states, data, lent)
    by_opinions = opinions_by_anchors(networks, states, data, lent)
    for lender in data:
        losses = common(lender, "ann")[0]
        assert by_heads(lender, "ann").shape == (2, 60)
        np.testing.assert_allclose(by_heads(lender, "ann").mean(0), losses, atol=0.02)
        assert np.corrcoef(by_opinions(lender, "ann").mean(0), losses)[0, 1] > 0.8
    for losses_of in (by_heads, by_opinions):
        areas = [site["loss threshold"].area for site in told(losses_of, data).values()]
        assert np.mean(areas) > 0.65
