"""Ensemble selection: what it takes, what it leaves, and that it never does worse than the best."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made import noise
from torch import Tensor

from dflmoe.core.selection import selected
from dflmoe.core.task import LABELS

ROWS, CLASSES = 40, 3


def said(seed: int, experts: int, models: int = 2) -> Tensor:
    return LABELS.said(noise(seed, models, ROWS, experts, CLASSES), 3)


def loss_of(tokens: Tensor, weights: Tensor, y: Tensor, pool: Literal["linear", "log"]) -> Tensor:
    mixed = LABELS.pooled(tokens, weights.log()[:, None], pool)
    return LABELS.losses(mixed, y.expand(len(tokens), -1)).mean(1)


def chosen(
    tokens: Tensor, y: Tensor, pool: Literal["linear", "log"] = "linear", *, spare: int = 0
) -> Tensor:
    available = torch.ones(tokens.shape[0], tokens.shape[2], dtype=torch.bool)
    available[:, tokens.shape[2] - spare :] = spare == 0
    weight = torch.full((len(tokens), ROWS), 1 / ROWS)
    return selected(tokens, y, weight, available, task=LABELS, pool=pool)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 200), experts=st.integers(1, 5), pool=st.sampled_from(["linear", "log"]))
def test_the_selection_is_never_worse_than_the_best_expert_alone(
    seed: int, experts: int, pool: Literal["linear", "log"]
) -> None:
    tokens, y = said(seed, experts), torch.arange(ROWS) % CLASSES
    weights = chosen(tokens, y, pool)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    alone = [loss_of(tokens, one.expand(2, -1), y, pool) for one in torch.eye(experts)]
    assert (loss_of(tokens, weights, y, pool) <= torch.stack(alone).min(0).values + 1e-5).all()


def test_an_expert_that_knows_is_all_that_is_taken() -> None:
    y = torch.arange(ROWS) % CLASSES
    tokens = said(0, 4)
    tokens[:, :, 2] = LABELS.said(8.0 * torch.nn.functional.one_hot(y, CLASSES), 1)
    torch.testing.assert_close(chosen(tokens, y), torch.eye(4)[2].expand(2, -1))


def test_two_that_know_a_half_each_are_both_taken() -> None:
    y = torch.arange(ROWS) % CLASSES
    knows = LABELS.said(4.0 * torch.nn.functional.one_hot(y, CLASSES), 1)
    blind = torch.full_like(knows, 1 / CLASSES).log()
    first = torch.arange(ROWS)[:, None] < ROWS // 2
    halves = [torch.where(first, knows, blind), torch.where(first, blind, knows), blind]
    weights = chosen(torch.stack(halves, dim=1)[None], y)
    assert (weights[0, :2] > 0.3).all()
    assert weights[0, 2] == 0


def test_an_expert_that_was_set_aside_is_not_taken_however_good_it_is() -> None:
    y = torch.arange(ROWS) % CLASSES
    tokens = said(1, 3)
    tokens[:, :, 2] = LABELS.said(8.0 * torch.nn.functional.one_hot(y, CLASSES), 1)
    assert (chosen(tokens, y, spare=1)[:, 2] == 0).all()


@pytest.mark.parametrize("weigh", [0, 1])
def test_only_rows_that_a_model_learns_from_count(weigh: int) -> None:
    y = torch.arange(ROWS) % CLASSES
    knows = LABELS.said(6.0 * torch.nn.functional.one_hot(y, CLASSES), 1)
    wrong = LABELS.said(6.0 * torch.nn.functional.one_hot((y + 1) % CLASSES, CLASSES), 1)
    early = torch.arange(ROWS)[:, None] < ROWS // 2
    tokens = torch.stack([torch.where(early, knows, wrong), torch.where(early, wrong, knows)], 1)
    weight = ((torch.arange(ROWS) < ROWS // 2) == (weigh == 0)).float()[None] / (ROWS // 2)
    every = torch.ones(1, 2, dtype=torch.bool)
    weights = selected(tokens[None], y, weight, every, task=LABELS, pool="linear")
    assert weights[0, weigh] == 1
