from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.made import made_data, made_rows
from torch import Tensor, nn

from dflmoe.core.convex import newton
from dflmoe.core.site import SiteData, packed
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.core.training import Adam, Training, cross_fit, leaves, outputs_out_of_fold
from dflmoe.types import Params

HEAD = nn.Linear(4, 2)


def network(params: Params, x: Tensor) -> Tensor:
    return stacked_call(HEAD, params, x)


def start(data: SiteData, rng: torch.Generator) -> Params:
    return initial(HEAD, data.crossfit.splits * data.crossfit.fits, rng)


@pytest.mark.parametrize("classes", [2, 3])
def test_newton_finds_what_scikit_learn_finds(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    y = (x[:, 0] + rng.normal(size=90) > 0).astype(int) + (classes == 3) * (x[:, 1] > 0.5)
    c = 0.5
    peer = LogisticRegression(C=c, tol=1e-10, max_iter=2000).fit(x, y)

    weight, bias = newton(
        torch.from_numpy(x)[None],
        torch.from_numpy(y)[None],
        torch.full((1, 90), 1 / 90, dtype=torch.float64),
        torch.tensor([1 / (c * 90)], dtype=torch.float64),
        torch.zeros(1, classes, 4, dtype=torch.float64),
        tolerance=1e-14,
    )

    probs = torch.softmax(torch.from_numpy(x) @ weight[0].T + bias[0], dim=1)
    # For two classes scikit-learn has one set of weights and we have two, whose penalties add up
    # to half of its own; so compare with half the penalty there.
    if classes == 2:
        peer = LogisticRegression(C=2 * c, tol=1e-10, max_iter=2000).fit(x, y)
    np.testing.assert_allclose(probs.numpy(), peer.predict_proba(x), atol=2e-3)


def test_newton_stays_where_it_is_pulled_to_when_pulled_hard() -> None:
    towards = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    x = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(20) % 2)[None]
    weight, _ = newton(x, y, torch.full((1, 20), 0.05), torch.tensor([1e6]), towards)
    torch.testing.assert_close(weight, towards, atol=1e-3, rtol=0)


@pytest.mark.parametrize("linear", [True, False])
def test_training_learns_what_there_is_to_learn(linear: bool, rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 80, seed=1, signal=3.0))
    plan = Training(weight_decays=(10.0, 0.01), learning_rate=0.1, max_steps=100)
    fitted = cross_fit(network, start(data, rng), data, plan, rng, linear=linear)
    said = data.crossfit.out_of_fold(
        network(fitted.params, data.x.repeat_interleave(data.crossfit.fits, dim=0))
    )
    assert (said.argmax(-1) == data.y).float().mean() > 0.85
    assert (fitted.weight_decay < 1).all()


def test_a_site_with_nothing_to_learn_is_shrunk_the_most(rng: torch.Generator) -> None:
    strong = 0
    for seed in range(10):
        data = made_data(made_rows("a", 60, seed=seed, signal=0.0))
        plan = Training(weight_decays=(10.0, 0.001))
        fitted = cross_fit(network, start(data, rng), data, plan, rng, linear=True)
        strong += int((fitted.weight_decay > 1).sum())
    assert strong > 14  # of 20 splits


def test_a_fit_never_sees_the_fold_it_is_judged_on() -> None:
    """With one penalty and no early stopping a fit depends on its own rows only."""
    data = made_data(made_rows("a", 60, seed=1), folds=2)
    plan = Training(weight_decays=(0.01,), max_steps=20, early_stopping=False)
    held = data.crossfit.fold[0] == 0
    other = replace(data, y=torch.where(held, 1 - data.y, data.y))
    seeds = (torch.Generator().manual_seed(1) for _ in range(2))
    first, second = (
        cross_fit(network, start(data, torch.Generator().manual_seed(0)), d, plan, s).params
        for d, s in zip((data, other), seeds, strict=True)
    )
    torch.testing.assert_close(first["weight"][0], second["weight"][0])
    assert not torch.allclose(first["weight"][1], second["weight"][1])


def test_training_in_turns_gives_what_training_at_once_gives(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 60, seed=1))
    plans = (Training(), Training(memory=1))
    begun = start(data, rng)
    once, turns = (cross_fit(network, begun, data, p, rng, linear=True) for p in plans)
    torch.testing.assert_close(once.params["weight"], turns.params["weight"])
    torch.testing.assert_close(once.weight_decay, turns.weight_decay)


def test_batches_are_drawn_from_the_given_chance(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 60, seed=1))
    plan = Training(weight_decays=(0.01,), max_steps=20, batch=8)
    begun = start(data, rng)
    first, again, other = (
        cross_fit(network, begun, data, plan, torch.Generator().manual_seed(s)).params["weight"]
        for s in (1, 1, 2)
    )
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


def test_a_loss_that_is_not_finite_stops_training(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 40, seed=1))
    data = replace(data, x=torch.where(data.x > 1, torch.inf, data.x))
    with pytest.raises(FloatingPointError):
        cross_fit(network, start(data, rng), data, Training(weight_decays=(0.1,)), rng)


def test_packed_rows_keep_their_weights() -> None:
    times = torch.tensor([[0.0, 2.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    row, weight = packed(times)
    assert row[0].tolist() == [1, 3]
    torch.testing.assert_close(weight, torch.tensor([[2 / 3, 1 / 3], [1.0, 0.0]]))


def test_each_row_is_predicted_by_the_fit_that_did_not_see_it(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 41, 0))
    folds = data.crossfit
    module = nn.Linear(4, 3)
    params = initial(module, folds.splits * folds.fits, rng)
    params = {name: p + torch.randn(p.shape, generator=rng) for name, p in params.items()}

    def network(stacked: Params, x: Tensor) -> Tensor:
        return stacked_call(module, stacked, x)

    everything = network(params, data.x.repeat_interleave(folds.fits, dim=0))
    torch.testing.assert_close(
        outputs_out_of_fold(network, params, data), folds.out_of_fold(everything)
    )


def test_a_step_is_that_of_pytorch_s_adam_however_a_gradient_lies_in_memory() -> None:
    at, x = torch.arange(12.0).view(2, 2, 3), torch.randn(2, 5, 3)
    ours, theirs = leaves({"weight": at}), leaves({"weight": at})
    mine = Adam(ours, 0.1)
    other = torch.optim.Adam(theirs.values(), lr=0.1)

    def loss(params: Params) -> Tensor:
        return torch.bmm(x, params["weight"].mT).square().mean()

    (gradient,) = torch.autograd.grad(loss(ours), list(ours.values()))
    assert not gradient.is_contiguous()
    for _ in range(5):
        mine.step(loss(ours))
        other.zero_grad()
        loss(theirs).backward()
        other.step()
    torch.testing.assert_close(ours["weight"], theirs["weight"])
