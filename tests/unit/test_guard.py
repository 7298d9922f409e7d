import math
from dataclasses import replace

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import out_of_fold_loss
from dflmoe.core.dials import Dials
from dflmoe.core.guard import Bounds, difference, mixture_is_used, what_serves
from dflmoe.core.site import CrossFit
from dflmoe.core.task import Labels
from dflmoe.types import generator


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
    unclear = Bounds(torch.zeros(1), torch.tensor([-1.0]), torch.tensor([1.0]))
    worse = Bounds(torch.ones(1), torch.tensor([0.1]), torch.tensor([2.0]))
    better = Bounds(-torch.ones(1), torch.tensor([-2.0]), torch.tensor([-0.1]))
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


@pytest.mark.parametrize(
    ("better", "serves"),
    [(2.0, "mixture"), (0.0, "own"), (-2.0, "own")],
    ids=["clear benefit", "level", "harm"],
)
def test_a_hedge_moves_as_far_as_the_evidence_goes(better: float, serves: str) -> None:
    data = made_data(made_rows("home", 200, 9))
    truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
    noise = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + noise, dim=2)
    said = torch.log_softmax((1 + better) * truth + noise, dim=2)
    served, used, _ = what_serves(own, said, data, Dials(hedge=True))
    torch.testing.assert_close(served, {"mixture": said, "own": own}[serves])
    assert used.all() == (serves == "mixture")


@pytest.mark.parametrize("ranks", [False, True], ids=["accuracy", "AUROC"])
def test_a_loss_that_falls_at_the_price_of_the_score_serves_nobody(ranks: bool) -> None:
    task = Labels(ranks=ranks)
    data = replace(made_data(made_rows("home", 200, 9)), task=task)
    truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
    seen, more = (torch.randn(truth.shape, generator=generator(3, k)) for k in range(2))
    bold = torch.log_softmax(8 * (truth + seen), dim=2)
    cautious = torch.log_softmax(0.5 * (truth + seen + more), dim=2)
    assert (out_of_fold_loss(cautious, data) < out_of_fold_loss(bold, data) - 0.5).all()
    served, _, _ = what_serves(bold, cautious, data, Dials(hedge=True))
    own, new, now = (
        task.score(said, data.y.expand(2, -1), data.crossfit.fold)
        for said in (bold, cautious, served)
    )
    assert (new < own).all()
    assert (now >= own).all()


@pytest.mark.parametrize(("rare", "serves"), [(40, False), (8, True)], ids=["many", "few"])
def test_what_is_good_on_average_and_bad_for_a_class_serves_nobody_where_rows_tell(
    rare: int, serves: bool
) -> None:
    data = made_data(made_rows("home", 300, 9))
    y = (torch.arange(300) >= 300 - rare).long()
    data = replace(data, y=y, crossfit=CrossFit(torch.arange(300)[None] % 5))
    truth = torch.nn.functional.one_hot(y, 2).float()[None]
    seen = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + seen, dim=2)
    harm = torch.where(y == 1, -0.7, 1.5)[:, None]
    said = torch.log_softmax(truth * (1 + harm) + seen, dim=2)
    losses = [data.task.losses(what, y[None])[0] for what in (own, said)]
    assert losses[1].mean() < losses[0].mean() - 0.1
    assert losses[1][y == 1].mean() > losses[0][y == 1].mean() + 0.1
    _, used, _ = what_serves(own, said, data, Dials(hedge=True))
    assert bool(used[0]) is serves


def test_what_test_rows_turn_out_to_be_moves_no_hedge() -> None:
    data, decided = made_data(made_rows("home", 120, 9)).only(0), []
    hidden = data.crossfit.fold[0] < 0
    other = replace(data, y=torch.where(hidden, 2 + data.y, data.y))  # of classes nobody trains on
    truth = torch.nn.functional.one_hot(data.y, 4).float()[None]
    for seed in range(40):
        seen, more = (torch.randn(truth.shape, generator=generator(6, seed, k)) for k in range(2))
        own = torch.log_softmax(truth + seen, dim=2)
        said = torch.log_softmax(1.1 * truth + seen + 0.4 * more, dim=2)
        before, after = (what_serves(own, said, d, Dials(hedge=True)) for d in (data, other))
        torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)
        decided.append(bool(before[1]))
    assert 0 < sum(decided) < len(decided)


def test_splits_are_judged_apart_also_where_one_lacks_a_class() -> None:
    y = torch.cat([torch.zeros(60), torch.ones(30)]).long()
    fold = torch.arange(90)[None].repeat(2, 1) % 5
    fold[1, y == 1] = -1
    data = replace(
        made_data(made_rows("home", 90, 9)), y=y, crossfit=CrossFit(fold), x=torch.zeros(2, 90, 4)
    )
    truth = torch.nn.functional.one_hot(y, 2).float().expand(2, -1, -1)
    seen = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + seen, dim=2)
    said = torch.log_softmax(truth * torch.where(y == 1, 0.3, 3.0)[:, None] + seen, dim=2)
    _, used, _ = what_serves(own, said, data, Dials(hedge=True))
    alone = [
        what_serves(own[k : k + 1], said[k : k + 1], data.only(k), Dials(hedge=True))[1][0]
        for k in range(2)
    ]
    assert used.tolist() == [bool(a) for a in alone] == [False, True]


def test_weak_evidence_moves_a_hedge_half_way() -> None:
    data = made_data(made_rows("home", 40, 9))
    halves = 0
    for seed in range(40):
        rng = generator(4, seed)
        truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
        own = torch.log_softmax(truth + torch.randn(2, 40, 2, generator=rng), dim=2)
        said = torch.log_softmax(1.3 * truth + torch.randn(2, 40, 2, generator=rng), dim=2)
        served, used, _ = what_serves(own, said, data, Dials(hedge=True))
        mean = torch.logaddexp(own, said) - math.log(2)
        for split in range(2):
            options = [own[split], said[split], mean[split]]
            which = [bool(torch.allclose(served[split], o, atol=1e-5)) for o in options]
            assert sum(which) == 1
            assert bool(used[split]) != which[0]
            halves += which[2]
    assert halves > 0
