"""Intervals that tell the truth: over patients, never over splits."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dflmoe.metrics.resampling import (
    auc_samples,
    interval,
    patient_weights,
    weighted_auc,
)


def test_weighted_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 40).astype(float)  # many ties
    y = rng.integers(0, 2, 40)
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    concordant, pairs = weighted_auc(scores, y == 1, weights)
    for k in range(5):
        expected = roc_auc_score(y, scores, sample_weight=weights[k])
        assert concordant[k] / pairs[k] == pytest.approx(expected)


def test_many_classes_are_looked_for_one_by_one() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 60)
    probs = rng.dirichlet(np.ones(3), 60)
    ours = auc_samples(probs[None], y, np.ones((1, 60)))[0]
    assert ours == pytest.approx(roc_auc_score(y, probs, multi_class="ovr", average="macro"))


def test_within_a_split_only_rows_of_one_model_are_compared() -> None:
    # Two splits, each ranked perfectly, the second shifted up: together they look worse.
    y = np.array([0, 1, 0, 1])
    probs = np.array([[0.1, 0.2, 0.6, 0.9]])
    probs = np.stack([1 - probs, probs], axis=2)
    split = np.array([[0, 0, 1, 1]])
    weights = np.ones((1, 4))
    assert auc_samples(probs, y, weights)[0] == pytest.approx(0.75)
    assert auc_samples(probs, y, weights, split)[0] == pytest.approx(1.0)


def test_rows_of_a_patient_move_together_and_no_class_is_lost() -> None:
    y = np.array([0, 0, 1, 1, 0, 1])
    patient = np.array([0, 0, 1, 1, 2, 3])
    weights = patient_weights(y, patient, 200, np.random.default_rng(0))
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 3]).all()
    assert (weights[:, [0, 4]].sum(1) == 2).all()


def test_a_single_sample_has_no_interval() -> None:
    one = interval(np.array([0.7]))
    assert one.value == 0.7
    assert np.isnan(one.low)
    assert np.isnan(one.high)


def difference_width(repeats: int, seed: int) -> float:
    """Return the width of the interval of a difference of two arms, of one and the same site."""
    rng = np.random.default_rng(seed)
    y = np.arange(120) % 2
    truth = y + rng.normal(size=120)
    probs = []
    for _ in range(2):
        arm = truth + 0.7 * rng.normal(size=120)
        scores = arm + 0.2 * rng.normal(size=(repeats, 120))  # each repeat trains anew
        probs.append(np.stack([-scores, scores], axis=2))
    weights = patient_weights(y, np.arange(120), 600, rng)
    found = interval(auc_samples(probs[0], y, weights) - auc_samples(probs[1], y, weights))
    return found.high - found.low


def test_more_repeats_do_not_make_patients_more() -> None:
    """A standard error over splits would shrink fourfold from 1 to 16 repeats."""
    few, many = (np.mean([difference_width(r, s) for s in range(12)]) for r in (1, 16))
    assert many > 0.75 * few


@pytest.mark.parametrize("repeats", [1, 4])
def test_where_nothing_is_to_be_found_intervals_cover_zero_as_often_as_they_say(
    repeats: int,
) -> None:
    covered = 0
    studies = 1000
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        y = np.arange(160) % 2
        signal = 1.2 * y + rng.normal(size=160)
        # Two arms, equally good: each sees the patient's signal through an error of its own.
        arms = [signal + 0.8 * rng.normal(size=160) for _ in range(2)]
        probs = []
        for arm in arms:
            scores = arm + 0.2 * rng.normal(size=(repeats, 160))
            probs.append(np.stack([-scores, scores], axis=2))
        weights = patient_weights(y, np.arange(160), 400, rng)
        found = interval(auc_samples(probs[0], y, weights) - auc_samples(probs[1], y, weights))
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / studies <= 0.97
