"""Membership attacks: what memorises leaks, what does not does not, and patients are the unit."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.made import made_data, made_rows

from dflmoe.bench.leaks import ATTACKS, leaks
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network, SiteData
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


def told(
    training: Training, averaging: int, names: Sequence[str], left: Sequence[str] = ()
) -> dict[str, dict[str, Leak]]:
    """Return what sites of noise, which can only be memorised, tell by what they lent."""
    network = mlp(8, 2, hidden=128)
    network = Network(network.body, network.head, 128, 2, common=True)
    data, lent = {}, {}
    for k, name in enumerate(names):
        rows = made_rows(name, 60, k, features=8, signal=0.0)
        data[name] = made_data(rows, folds=2)
        one = data[name]
        data[name] = SiteData(
            one.x[:1], one.y, type(one.crossfit)(one.crossfit.fold[:1]), one.group
        )
        algorithm = DFLMoE(network, Dials(averaging=averaging), training, training)
        state = algorithm.init(name, data[name], generator(0, name))
        one_lent = algorithm.prepare(state, data[name], generator(1, name))[1]
        lent[name] = [] if name in left else [one_lent]
    body = initial(network.body, 1, generator(0, "body"))
    return leaks(
        dict.fromkeys(data, network),
        dict.fromkeys(data, body),
        data,
        {name: one.group.numpy() for name, one in data.items()},
        lent,
    )


def attacked(training: Training, averaging: int) -> dict[str, float]:
    """Return the mean area of each attack on two sites."""
    found = told(training, averaging, ("ann", "bob"))
    return {
        attack: float(np.mean([site[attack].area for site in found.values()])) for attack in ATTACKS
    }


@pytest.mark.parametrize("averaging", [0, 1], ids=["head", "fits"])
def test_a_head_that_memorised_its_rows_leaks_more_than_one_that_stopped_early(
    averaging: int,
) -> None:
    greedy = Training((1e-4,), 0.05, max_steps=400, judge_every=400, early_stopping=False)
    careful = Training((1e-4,), 0.05, max_steps=400, judge_every=10)
    memorised, stopped = attacked(greedy, averaging), attacked(careful, averaging)
    assert memorised["loss threshold"] > 0.7
    for attack in ATTACKS:
        assert memorised[attack] > stopped[attack] + 0.05


def test_a_site_that_left_before_it_lent_anything_tells_nothing() -> None:
    few = Training((0.01,), max_steps=5)
    names = ("ann", "bob", "cyd")
    assert set(told(few, 0, names)) == set(names)
    assert set(told(few, 0, names, left=["bob"])) == {"ann", "cyd"}
    assert told(few, 0, names, left=["bob", "cyd"]) == {}
