import gc
import weakref

import torch
from torch import Tensor

from dflmoe.core.remembered import NUMBERS, remembered


class Body:
    def __init__(self) -> None:
        self.runs = 0

    def of(self, x: Tensor, *weights: Tensor) -> Tensor:
        def compute() -> Tensor:
            self.runs += 1
            return x * torch.stack([w.sum() for w in weights]).sum()

        return remembered(x, weights, compute)


def test_what_has_not_changed_is_computed_once() -> None:
    body, x, weight = Body(), torch.ones(3), torch.full((2,), 2.0)
    assert body.of(x, weight) is body.of(x, weight)
    assert body.runs == 1


def test_other_rows_or_weights_of_the_same_numbers_are_other_rows_and_weights() -> None:
    body, x, weight = Body(), torch.ones(3), torch.ones(2)
    for rows, made_by in ((x, [weight]), (x.clone(), [weight]), (x, [weight.clone()])):
        body.of(rows, *made_by)
    assert body.runs == 3
    body.of(x, weight, weight)
    assert body.runs == 4


def test_what_was_changed_in_place_is_computed_anew() -> None:
    body, x, weight = Body(), torch.ones(3), torch.ones(2)
    assert body.of(x, weight).tolist() == [2.0] * 3
    weight += 1
    assert body.of(x, weight).tolist() == [4.0] * 3
    x[0] = 5
    assert body.of(x, weight).tolist() == [20.0, 4.0, 4.0]


def test_it_is_forgotten_with_its_rows() -> None:
    body, x, weight = Body(), torch.ones(3), torch.ones(2)
    found = weakref.ref(body.of(x, weight))
    assert found() is not None
    del x
    gc.collect()
    assert found() is None


def test_what_is_too_large_is_not_kept() -> None:
    body, x, weight = Body(), torch.ones(NUMBERS + 1), torch.ones(2)
    body.of(x, weight)
    body.of(x, weight)
    assert body.runs == 2
