"""Dealing rows: no group is ever divided, and each law gives what it promises."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dflmoe.data import partitions
from dflmoe.data.partitions import HOSPITALS
from dflmoe.errors import OptionError, SiteError

Codes = NDArray[np.int64]

LAWS: dict[str, Callable[[Codes, Codes, np.random.Generator], Codes]] = {
    "dirichlet": lambda y, g, r: partitions.dirichlet(y, g, 2, 50.0, r, min_rows=1),
    "shards": lambda y, g, r: partitions.label_shards(y, g, 2, 2, r),
    "quantity": lambda _, g, r: partitions.quantity_skew(g, 3, 0.7, r),
    "even": lambda y, g, r: partitions.even(g, 3, r, y),
    "resolution": lambda _, g, r: partitions.by_resolution(g, 3, r),
    "anchors": lambda y, g, r: partitions.anchors(g, len(g) // 5, r, y).astype(np.int64),
    "folds": lambda y, g, r: partitions.hold_out(y, g, 0.25, 3, r),
}


@st.composite
def structures(draw: st.DrawFn) -> tuple[Codes, Codes]:
    """Return labels and groups of any sizes, in any order, numbered with gaps."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=3, max_size=40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    group = rng.permutation(np.repeat(np.arange(len(sizes)) * 7 + 3, sizes))
    return rng.integers(0, draw(st.integers(1, 3)), len(group)), group


def undivided(part: Codes, group: Codes) -> bool:
    return all(len(np.unique(part[group == g])) == 1 for g in np.unique(group))


def singles(*counts: int) -> tuple[Codes, Codes]:
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels, np.arange(len(labels))


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=30, deadline=None)
@given(structures(), st.integers(0, 9))
def test_a_group_is_never_divided(law: str, rows: tuple[Codes, Codes], seed: int) -> None:
    labels, group = rows
    try:
        part = LAWS[law](labels, group, np.random.default_rng(seed))
    except SiteError:
        assume(False)  # a law may refuse, but never divide
    assert part.shape == group.shape
    assert undivided(part, group)
    assert (part == LAWS[law](labels, group, np.random.default_rng(seed))).all()


@settings(max_examples=60, deadline=None)
@given(structures(), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_even_means_as_many_groups_and_about_as_many_rows(
    rows: tuple[Codes, Codes], sites: int, by_label: bool, seed: int
) -> None:
    labels, group = rows
    rng = np.random.default_rng(seed)
    site = partitions.even(group, sites, rng, labels if by_label else None)
    groups = [len(np.unique(group[site == k])) for k in range(sites)]
    assert max(groups) - min(groups) <= 1
    sizes = np.bincount(site, minlength=sites)
    assert sizes.max() - sizes.min() <= np.bincount(group).max()


def test_sixteen_subjects_make_four_sites_of_four(rng_: np.random.Generator) -> None:
    group = np.repeat(np.arange(16), rng_.integers(150, 780, 16))
    site = partitions.even(group, 4, rng_)
    assert [len(np.unique(group[site == k])) for k in range(4)] == [4, 4, 4, 4]


@pytest.fixture
def rng_() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_large_alpha_is_near_even_and_a_small_one_skewed(rng_: np.random.Generator) -> None:
    labels, group = singles(600, 600)

    def shares(alpha: float) -> NDArray[np.float64]:
        site = partitions.dirichlet(labels, group, 4, alpha, rng_)
        counts = np.array([np.bincount(labels[site == k], minlength=2) for k in range(4)])
        return np.asarray(counts[:, 0] / counts.sum(1))

    assert np.abs(shares(1e6) - 0.5).max() < 0.02
    spread = [np.mean([np.ptp(shares(alpha)) for _ in range(10)]) for alpha in (0.3, 3.0, 300.0)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.5


def test_every_dirichlet_site_has_rows_and_two_classes(rng_: np.random.Generator) -> None:
    labels, group = singles(80, 60, 40)
    for _ in range(10):
        site = partitions.dirichlet(labels, group, 3, 0.5, rng_, min_rows=15)
        for k in range(3):
            counts = np.bincount(labels[site == k], minlength=3)
            assert counts.sum() >= 15
            assert (counts >= 4).sum() >= 2


def test_what_no_draw_can_give_is_refused(rng_: np.random.Generator) -> None:
    labels, group = singles(10, 10)
    with pytest.raises(SiteError, match="fewer than 20 rows"):
        partitions.dirichlet(labels, group, 4, 0.5, rng_)
    for alpha in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(OptionError, match="alpha"):
            partitions.dirichlet(labels, group, 2, alpha, rng_)
    with pytest.raises(SiteError, match=r"20 groups .* 21 sites"):
        partitions.even(group, 21, rng_)
    with pytest.raises(SiteError, match="0 sites"):
        partitions.even(group, 0, rng_)


def test_a_site_with_one_shard_has_one_label(rng_: np.random.Generator) -> None:
    labels, group = singles(30, 30, 30)
    site = partitions.label_shards(labels, group, 3, 1, rng_)
    assert sorted(int(labels[site == k].mean()) for k in range(3)) == [0, 1, 2]
    assert all(len(np.unique(labels[site == k])) == 1 for k in range(3))
    two = partitions.label_shards(labels, group, 3, 2, rng_)
    assert np.bincount(two).tolist() == [30, 30, 30]


def test_too_many_shards_for_the_groups_are_refused(rng_: np.random.Generator) -> None:
    group = np.repeat([0, 1, 2], [100, 1, 1])
    with pytest.raises(SiteError, match="gets no rows by label shards"):
        partitions.label_shards(np.zeros(102, dtype=np.int64), group, 3, 1, rng_)


@settings(max_examples=40, deadline=None)
@given(structures(), st.floats(0, 2), st.integers(0, 9))
def test_quantity_falls_with_rank(rows: tuple[Codes, Codes], exponent: float, seed: int) -> None:
    try:
        site = partitions.quantity_skew(rows[1], 3, exponent, np.random.default_rng(seed))
    except SiteError:
        assume(False)
    sizes = np.bincount(site, minlength=3)
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum() == len(rows[1])


def test_quantity_follows_its_power_law(rng_: np.random.Generator) -> None:
    site = partitions.quantity_skew(np.arange(1100), 3, 1.0, rng_)
    assert np.bincount(site).tolist() == [600, 300, 200]  # 1 : 1/2 : 1/3
    with pytest.raises(SiteError, match=r"site \d gets no rows by exponent 12"):
        partitions.quantity_skew(np.arange(30), 3, 12.0, rng_)


def test_natural_sites_are_kept_and_must_not_divide_groups() -> None:
    site, group = np.array([0, 0, 1, 1]), np.array([5, 5, 6, 7])
    assert (partitions.natural(site, group) == site).all()
    with pytest.raises(SiteError, match="group 6 has rows at two natural sites"):
        partitions.natural(site, np.array([5, 6, 6, 7]))
    with pytest.raises(SiteError, match="no natural sites"):
        partitions.natural(None, group)


def test_the_largest_natural_sites_are_those_with_most_rows() -> None:
    site = np.array([0, 1, 1, 2, 2, 2, 3])
    kept = partitions.natural(site, np.arange(7), largest=2)
    assert kept.tolist() == [-1, 1, 1, 2, 2, 2, -1]


def test_coarsening_by_one_changes_nothing_and_by_two_is_a_box_mean() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert (partitions.coarsened(x, 1) == x).all()
    two = partitions.coarsened(x, 2)
    assert two[0, 0, :2, :2].tolist() == [[2.5, 2.5], [2.5, 2.5]]  # 0, 1, 4, 5
    assert (partitions.coarsened(x, 4) == x.mean()).all()
    assert (partitions.coarsened(two, 2) == two).all()


@pytest.mark.parametrize("factor", [0, -2, 3, 8])
def test_a_factor_that_does_not_divide_is_refused(factor: int) -> None:
    with pytest.raises(OptionError, match=f"factor {factor} does not divide images of 4 x 4"):
        partitions.coarsened(np.zeros((1, 1, 4, 4), np.float32), factor)


def by_hospital(labels: Codes, site: Codes, classes: int) -> list[list[int]]:
    return [np.bincount(labels[site == k], minlength=classes).tolist() for k in range(8)]


def test_with_the_tables_rows_the_eight_hospitals_are_the_table(rng_: np.random.Generator) -> None:
    table = np.array(list(HOSPITALS.values()))
    assert table.sum(1).tolist() == [17834, 6133, 3608, 3448, 1778, 1120, 351, 190]  # as published
    labels, group = singles(*table.sum(0))
    site = partitions.eight_hospitals(labels, group, rng_, 3)
    assert by_hospital(labels, site, 3) == table.tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_the_eight_hospitals_divide_no_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(1200), rng.integers(1, 6, 1200)))
    labels = (rng.random(1200) < 0.5).astype(np.int64)[group] ^ (rng.random(len(group)) < 0.1)
    site = partitions.eight_hospitals(labels, group, rng, 2)
    assert undivided(site, group)
    assert set(np.unique(site)) >= set(range(8))


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5])
def test_a_tenth_of_the_table_keeps_its_proportions(
    classes: int, rng_: np.random.Generator
) -> None:
    table = np.array(list(HOSPITALS.values())) / 10
    wanted = {
        1: table.sum(1, keepdims=True),
        2: np.stack([table[:, 0], table[:, 1] + table[:, 2]], 1),
        3: table,
        4: np.stack([table[:, 0], *[table[:, 1] / 2] * 2, table[:, 2]], 1),
        5: np.stack([table[:, 0], *[table[:, 1] / 3] * 3, table[:, 2]], 1),
    }[classes]
    labels, group = singles(*np.ceil(wanted.sum(0)).astype(int))
    site = partitions.eight_hospitals(labels, group, rng_, classes)
    assert np.abs(np.array(by_hospital(labels, site, classes)) - wanted).max() <= 1.5


def test_the_scarcest_class_limits_the_table(rng_: np.random.Generator) -> None:
    table = np.array(list(HOSPITALS.values()))
    labels, group = singles(18311, 14110, 1020)  # half of the last column's 2041
    site = partitions.eight_hospitals(labels, group, rng_, 3)
    sizes = np.bincount(site[site >= 0], minlength=8)
    assert np.abs(sizes - table.sum(1) * 1020 / 2041).max() <= 2
    with pytest.raises(SiteError, match=r"'(RSH|VHIO)' gets no rows"):
        partitions.eight_hospitals(*singles(20, 20, 20), rng_, 3)
    with pytest.raises(SiteError, match="gets no rows"):
        partitions.eight_hospitals(*singles(5000, 5000), rng_, 3)


@settings(max_examples=40, deadline=None)
@given(structures(), st.integers(0, 20), st.integers(0, 9))
def test_anchors_are_just_enough_whole_groups(
    rows: tuple[Codes, Codes], count: int, seed: int
) -> None:
    labels, group = rows
    try:
        mask = partitions.anchors(group, count, np.random.default_rng(seed), labels)
    except SiteError:
        assume(False)
    assert count <= mask.sum() < count + np.bincount(group).max()
    assert not set(group[mask].tolist()) & set(group[~mask].tolist())


def test_anchors_have_the_labels_mix_and_leave_some(rng_: np.random.Generator) -> None:
    labels, group = singles(60, 30, 10)
    mask = partitions.anchors(group, 10, rng_, labels)
    assert np.abs(np.bincount(labels[mask], minlength=3) - [6, 3, 1]).max() <= 1
    with pytest.raises(SiteError, match="100 anchor rows would take all 100 groups"):
        partitions.anchors(group, 100, rng_)


@settings(max_examples=60, deadline=None)
@given(structures(), st.integers(1, 40), st.integers(0, 9))
def test_a_cap_holds_and_keeps_several_groups(
    rows: tuple[Codes, Codes], most: int, seed: int
) -> None:
    labels, group = rows
    rng = np.random.default_rng(seed)
    site = partitions.even(group, 1, rng)
    kept = partitions.capped(site, group, labels, most, rng)
    assert 1 <= (kept == 0).sum() <= most
    if most >= 3:
        assert len(np.unique(group[kept == 0])) >= 3
    if len(group) <= most:
        assert (kept == 0).all()


def test_small_groups_are_kept_whole_and_large_ones_thinned(rng_: np.random.Generator) -> None:
    group = np.repeat(np.arange(20), 5)
    labels = np.repeat([0, 1], 50)
    kept = partitions.capped(np.zeros(100, dtype=np.int64), group, labels, 50, rng_)
    assert undivided(kept, group)
    assert np.bincount(labels[kept == 0]).tolist() == [25, 25]
    site = np.repeat([0, 1], [80, 20])
    four = np.repeat(np.arange(5), 20)
    thin = partitions.capped(site, four, labels, 40, rng_)
    assert np.bincount(four[thin >= 0]).tolist() == [10, 10, 10, 10, 20]
    with pytest.raises(OptionError, match="max_rows"):
        partitions.capped(site, four, labels, 0, rng_)


@settings(max_examples=60, deadline=None)
@given(structures(), st.floats(0.05, 0.5), st.integers(2, 6), st.integers(0, 9))
def test_every_fold_has_rows_and_no_group_crosses(
    rows: tuple[Codes, Codes], ratio: float, inner: int, seed: int
) -> None:
    labels, group = rows
    fold = partitions.hold_out(labels, group, ratio, inner, np.random.default_rng(seed))
    assert undivided(fold, group)
    found = np.unique(fold)
    assert found[0] == -1
    assert found[1:].tolist() == list(range(len(found) - 1))
    learns = len(np.unique(group[fold >= 0]))
    assert len(found) - 1 == min(inner, learns) >= 2


def test_four_subjects_give_one_to_test_and_three_folds(rng_: np.random.Generator) -> None:
    group = np.repeat(np.arange(4), [150, 776, 400, 690])
    labels = rng_.integers(0, 5, len(group))
    fold = partitions.hold_out(labels, group, 0.25, 5, rng_)
    assert [len(np.unique(group[fold == k])) for k in (-1, 0, 1, 2)] == [1, 1, 1, 1]


def test_the_test_is_stratified_and_as_large_as_asked(rng_: np.random.Generator) -> None:
    labels, group = singles(120, 80)
    for ratio in (0.1, 0.2, 0.25, 0.3, 0.5):
        fold = partitions.hold_out(labels, group, ratio, 3, rng_)
        assert np.abs(np.bincount(labels[fold == -1]) - [120 * ratio, 80 * ratio]).max() <= 2
        for k in range(3):
            share = (labels[fold == k] == 0).mean()
            assert abs(share - 0.6) < 0.05


def test_a_site_of_two_groups_and_odd_options_are_refused(rng_: np.random.Generator) -> None:
    labels, group = np.zeros(10, dtype=np.int64), np.repeat([4, 9], 5)
    with pytest.raises(SiteError, match=r"site 'Ghent' has 2 groups .* needs 3"):
        partitions.hold_out(labels, group, 0.25, 3, rng_, name="Ghent")
    for ratio, inner in ((0.0, 3), (0.7, 3), (0.25, 1)):
        with pytest.raises(OptionError, match="test_ratio"):
            partitions.hold_out(*singles(5, 5), ratio, inner, rng_)
