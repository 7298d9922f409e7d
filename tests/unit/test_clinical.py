import numpy as np
import pytest

from dflmoe.metrics.clinical import (
    brier,
    calibration_error,
    reliability,
    threshold_for_sensitivity,
)


def test_the_operating_point_finds_at_least_what_was_asked_for() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.5])
    positive = np.array([True, True, True, True, False, False])
    # Three of four is 75 %: the third highest positive.
    assert threshold_for_sensitivity(scores, positive, 0.75) == pytest.approx(0.7)
    assert threshold_for_sensitivity(scores, positive, 0.76) == pytest.approx(0.2)


def test_honest_probabilities_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probs = rng.uniform(size=20000)
    seen = rng.uniform(size=20000) < probs
    assert calibration_error(probs, seen) < 0.02
    assert calibration_error(probs**3, seen) > 0.1


def test_reliability_bins_hold_all_rows() -> None:
    curve = reliability(np.linspace(0, 1, 95), np.arange(95) % 2 == 0)
    assert sum(curve.rows) == 95
    assert len(curve.said) == len(curve.seen) == len(curve.rows)


def test_brier_runs_from_right_to_wrong() -> None:
    y = np.array([0, 1])
    assert brier(np.eye(2), y) == 0
    assert brier(1 - np.eye(2), y) == 2
