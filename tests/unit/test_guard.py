import pytest
import torch

from dflmoe.core.guard import Bounds, difference, mixture_is_used

MANY = torch.tensor([100])


def decided(rows: int, mean: float, *, vouched: bool, sites: int = 4000) -> float:
    """Return how often a guard uses a mixture whose log-loss differs by ``mean`` (sd 0.5)."""
    rng = torch.Generator().manual_seed(rows)
    d = mean + 0.5 * torch.randn(sites, rows, generator=rng)
    bounds = difference(d, torch.ones_like(d) > 0, torch.arange(rows), confidence=0.8)
    return float(mixture_is_used(bounds, vouched=vouched).float().mean())


@pytest.mark.parametrize("rows", [20, 50, 200])
def test_a_mixture_as_good_as_alone_is_turned_away_one_time_in_five(rows: int) -> None:
    assert decided(rows, 0.0, vouched=True) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("rows", [20, 50, 200])
def test_without_a_vouched_space_a_mixture_no_better_is_used_one_time_in_five(rows: int) -> None:
    assert decided(rows, 0.0, vouched=False) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("rows", "harmful_used", "helpful_turned_away"),
    [(20, 0.5, 0.05), (50, 0.3, 0.01), (200, 0.02, 0.001)],
)
def test_the_guard_sees_more_with_more_rows(
    rows: int, harmful_used: float, helpful_turned_away: float
) -> None:
    # A harm or gain of 0.2 in log-loss, with a spread between patients of 0.5.
    assert decided(rows, 0.2, vouched=True) <= harmful_used
    assert 1 - decided(rows, -0.2, vouched=True) <= helpful_turned_away


def test_rows_of_one_patient_count_once() -> None:
    d = torch.tensor([[1.0, 1.0, 1.0, 1.0, -1.0]])
    counts = torch.ones_like(d) > 0
    by_row = difference(d, counts, torch.arange(5), confidence=0.8)
    by_patient = difference(d, counts, torch.tensor([0, 0, 0, 0, 1]), confidence=0.8)
    assert float(by_row.mean) == pytest.approx(0.6)
    assert float(by_patient.mean) == pytest.approx(0.0)


def test_rows_that_do_not_take_part_change_nothing() -> None:
    d = torch.tensor([[1.0, 2.0, 99.0]])
    counts = torch.tensor([[True, True, False]])
    assert float(difference(d, counts, torch.arange(3), confidence=0.8).mean) == pytest.approx(1.5)


def test_one_patient_proves_nothing() -> None:
    bounds = difference(
        torch.ones(1, 3), torch.ones(1, 3) > 0, torch.zeros(3).long(), confidence=0.8
    )
    assert float(bounds.lower) == -torch.inf
    assert mixture_is_used(bounds, vouched=True)
    assert not mixture_is_used(bounds, vouched=False)


def test_the_two_rules_of_the_guard() -> None:
    unclear = Bounds(torch.zeros(1), torch.tensor([-1.0]), torch.tensor([1.0]), MANY)
    worse = Bounds(torch.ones(1), torch.tensor([0.1]), torch.tensor([2.0]), MANY)
    better = Bounds(-torch.ones(1), torch.tensor([-2.0]), torch.tensor([-0.1]), MANY)
    assert [bool(mixture_is_used(b, vouched=True)) for b in (unclear, worse, better)] == [
        True,
        False,
        True,
    ]
    assert [bool(mixture_is_used(b, vouched=False)) for b in (unclear, worse, better)] == [
        False,
        False,
        True,
    ]
