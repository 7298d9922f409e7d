"""Intervals over patients and seeds, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflmoe.metrics.crossed import (
    Floats,
    Groups,
    Resamples,
    resamples,
    score_samples,
    site_samples,
)
from dflmoe.metrics.resampling import interval

law = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**16)
Runs = list[list[Groups]]


def drawn(patients: int, seeds: int, count: int = 20, seed: int = 0) -> Resamples:
    return resamples(range(patients), seeds, count, np.random.default_rng(seed))


def runs(seed: int, patients: int = 9, seeds: int = 3, sites: int = 2, effect: float = 0) -> Runs:
    """Deal patients to sites anew under every seed; some are left out, some have many rows."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=patients)
    by_seed: Runs = []
    for _ in range(seeds):
        site = rng.integers(0, sites + 1, size=patients)
        site[rng.permutation(patients)[:sites]] = np.arange(sites)  # nobody is empty
        rows = rng.integers(1, 4, size=patients)
        sums = rows * (skill + 0.1 * rng.normal(size=patients) + effect)
        by_seed.append(
            [
                {int(p): (float(sums[p]), int(rows[p])) for p in np.flatnonzero(site == k)}
                for k in range(sites)
            ]
        )
    return by_seed


def looped(by_seed: Runs, draws: Resamples) -> list[float]:
    """Return what ``score_samples`` should, one patient at a time."""
    scores = []
    for b in range(len(draws.patients)):
        total = weight = 0.0
        for seed, sites in enumerate(by_seed):
            means = []
            for groups in sites:
                summed = rows = 0.0
                for patient, (value, count) in groups.items():
                    times = draws.patients[b, draws.column[patient]]
                    summed += times * value
                    rows += times * count
                if rows:
                    means.append(summed / rows)
            if means:
                total += draws.seeds[b, seed] * sum(means) / len(means)
                weight += draws.seeds[b, seed]
        scores.append(total / weight if weight else math.nan)
    return scores


@law
@given(seed=SEEDS, seeds=st.integers(1, 4), sites=st.integers(1, 3))
def test_the_score_of_every_resample_equals_a_plain_loop(seed: int, seeds: int, sites: int) -> None:
    by_seed = runs(seed, patients=5, seeds=seeds, sites=sites)
    draws = drawn(5, seeds, seed=seed)
    np.testing.assert_allclose(score_samples(by_seed, draws), looped(by_seed, draws), atol=1e-12)


@law
@given(seed=SEEDS)
def test_a_site_is_the_mean_of_its_rows_each_counted_as_often_as_its_patient(seed: int) -> None:
    groups = runs(seed, sites=1)[0][0]
    draws = drawn(9, 1, seed=seed)
    said = site_samples(groups, draws)
    for b, weights in enumerate(draws.patients):
        rows = [
            value / count
            for patient, (value, count) in groups.items()
            for _ in range(count * int(weights[draws.column[patient]]))
        ]
        expected = np.mean(rows) if rows else np.nan
        np.testing.assert_allclose(said[b], expected)


def test_the_first_sample_is_the_data_itself_worked_by_hand() -> None:
    # Site 1 has 3 rows of 4 right, site 2 has 1 of 2: mean 0.625. The other seed has 0.5 and 1.
    by_seed: Runs = [
        [{0: (2, 2), 1: (1, 2)}, {2: (1, 2)}],
        [{0: (1, 2)}, {1: (2, 2), 2: (2, 2)}],
    ]
    assert score_samples(by_seed, drawn(3, 2))[0] == pytest.approx((0.625 + 0.75) / 2)


@law
@given(patients=st.integers(1, 30), seeds=st.integers(1, 5), seed=SEEDS)
def test_every_resample_draws_as_many_patients_and_seeds_as_there_are(
    patients: int, seeds: int, seed: int
) -> None:
    draws = drawn(patients, seeds, seed=seed)
    assert draws.patients.shape == (21, patients)
    assert draws.seeds.shape == (21, seeds)
    for weights, things in ((draws.patients, patients), (draws.seeds, seeds)):
        assert (weights[0] == 1).all()
        assert (weights.sum(1) == things).all()
        assert (weights == weights.round()).all()


def test_with_one_seed_only_patients_are_drawn() -> None:
    draws = drawn(8, 1)
    assert (draws.seeds == 1).all()
    assert draws.patients[1:].std() > 0


def test_patients_and_seeds_are_drawn_independently() -> None:
    draws = drawn(40, 40, count=400)
    correlation = np.corrcoef(draws.patients[1:, 0], draws.seeds[1:, 0])[0, 1]
    assert abs(correlation) < 0.2  # of 400 pairs: a standard error of 0.05


def test_numbers_of_patients_need_not_be_in_order_or_start_at_zero() -> None:
    draws = resamples([70, 7, 700], 1, 20, np.random.default_rng(0))
    for patient in (7, 70, 700):
        values = site_samples({patient: (5.0, 1)}, draws)
        there = draws.patients[:, draws.column[patient]] > 0
        assert (values[there] == 5).all()
        assert np.isnan(values[~there]).all()


@law
@given(seed=SEEDS)
def test_a_method_minus_itself_is_exactly_zero(seed: int) -> None:
    ours, theirs = (score_samples(runs(seed), drawn(9, 3)) for _ in range(2))
    difference = (ours - theirs)[~np.isnan(ours)]
    assert len(difference)
    assert not difference.any()


@law
@given(seed=SEEDS, effect=st.floats(-5, 5))
def test_a_method_that_is_better_on_every_row_by_as_much_is_better_by_that_in_every_resample(
    seed: int, effect: float
) -> None:
    draws = drawn(9, 3)
    gain = score_samples(runs(seed, effect=effect), draws) - score_samples(runs(seed), draws)
    np.testing.assert_allclose(gain[~np.isnan(gain)], effect, atol=1e-9)


def test_a_patient_who_is_tested_under_two_seeds_moves_together() -> None:
    # Patient 0 scores 1 and patient 1 scores 0, under both seeds: a resample with patient 0 twice
    # scores 1 under both, and there is no resample in which the seeds disagree.
    site: Groups = {0: (1.0, 1), 1: (0.0, 1)}
    draws = drawn(2, 2, count=200)
    scores = score_samples([[site], [site]], draws)
    np.testing.assert_allclose(scores, draws.patients[:, 0] / 2)
    assert set(scores.tolist()) == {0.0, 0.5, 1.0}


def test_two_patients_who_are_not_the_same_move_apart() -> None:
    # The mean of two seeds with patients of their own varies less than that of one and the same.
    def spread(second: Groups) -> float:
        draws = Resamples({0: 0, 1: 1, 2: 2, 3: 3}, drawn(4, 1, count=2000).patients,
                          np.ones((2001, 2)))  # fmt: skip
        first: Groups = {0: (1.0, 1), 1: (0.0, 1)}
        return float(np.nanstd(score_samples([[first], [second]], draws)))

    assert spread({2: (1.0, 1), 3: (0.0, 1)}) < spread({0: (1.0, 1), 1: (0.0, 1)})


def test_a_site_that_lost_all_its_patients_is_left_out_and_nothing_else() -> None:
    # In the second resample site 1 has nobody; in the third, nobody is left at all.
    draws = Resamples({0: 0, 1: 1}, np.array([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]), np.ones((3, 1)))
    sites: list[Groups] = [{0: (0.25, 1)}, {1: (1.5, 2)}]
    np.testing.assert_equal(site_samples(sites[0], draws), [0.25, np.nan, np.nan])
    np.testing.assert_equal(score_samples([sites], draws), [0.5, 0.75, np.nan])


def test_a_seed_that_lost_all_its_patients_does_not_pull_the_mean_down() -> None:
    draws = Resamples({0: 0, 1: 1}, np.array([[1.0, 1.0], [0.0, 2.0]]), np.ones((2, 2)))
    by_seed: Runs = [[{0: (0.2, 1)}], [{1: (0.8, 1)}]]
    np.testing.assert_allclose(score_samples(by_seed, draws), [0.5, 0.8])


def test_an_interval_passes_over_resamples_in_which_nobody_is_left() -> None:
    draws = drawn(2, 1, count=400)
    found = interval(site_samples({0: (0.6, 1)}, draws))
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))


def width(patients: int, seeds: int, noise: tuple[float, float]) -> float:
    """Return how wide an interval is where patients and seeds differ as much as said."""
    rng = np.random.default_rng(0)
    people, luck = noise[0] * rng.normal(size=patients), noise[1] * rng.normal(size=seeds)
    by_seed: Runs = [
        [{p: (float(people[p] + luck[s]), 1) for p in range(patients)}] for s in range(seeds)
    ]
    found = interval(score_samples(by_seed, drawn(patients, seeds, count=1000)))
    assert found.low <= found.value <= found.high
    return found.high - found.low


def test_fewer_patients_make_a_wider_interval_and_so_do_fewer_seeds() -> None:
    assert width(10, 3, (1, 0)) > 1.5 * width(100, 3, (1, 0)) > 0
    assert width(100, 3, (0, 1)) > 1.2 * width(100, 30, (0, 1)) > 0


def test_an_interval_over_patients_is_as_wide_as_the_textbook_says() -> None:
    # The mean of 200 patients of spread 1: 2 * 1.96 / sqrt(200) = 0.277.
    assert width(200, 1, (1, 0)) == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.2)


def test_seeds_add_to_what_patients_leave_open() -> None:
    assert width(50, 5, (1, 1)) > max(width(50, 5, (1, 0)), width(50, 5, (0, 1)))


def test_resamples_of_one_generator_are_the_same_for_every_method() -> None:
    first, second = (drawn(9, 3, seed=4) for _ in range(2))
    pairs: list[tuple[Floats, Floats]] = [
        (first.patients, second.patients), (first.seeds, second.seeds)
    ]  # fmt: skip
    for pair in pairs:
        np.testing.assert_array_equal(*pair)
