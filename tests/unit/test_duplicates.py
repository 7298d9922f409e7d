"""Copies and near copies share a group; unlike images do not."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dflmoe.data.duplicates import near_duplicates
from dflmoe.errors import MissingExtraError


def pictures(rows: int, seed: int = 0, side: int = 32) -> NDArray[np.uint8]:
    """Return unlike images: coarse noise, so that each has a shape of its own."""
    coarse = np.random.default_rng(seed).integers(0, 200, (rows, 8, 8))
    return coarse.repeat(side // 8, 1).repeat(side // 8, 2).astype(np.uint8)


def grouped(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return near_duplicates(images, max_bits=10, max_distance=0.05)


def test_unlike_images_have_a_group_each() -> None:
    assert grouped(pictures(12)).tolist() == list(range(12))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(0, 64))
def test_exact_copies_always_share_a_group(which: list[int], bits: int) -> None:
    images = pictures(6)[which]
    group = near_duplicates(images, max_bits=bits, max_distance=0.0)
    for k in set(which):
        assert len(set(group[np.array(which) == k].tolist())) == 1


def test_brighter_and_noisy_copies_share_a_group() -> None:
    one = pictures(1)[0].astype(float)
    noise = np.random.default_rng(1).normal(0, 4, one.shape)
    copies = [one, one * 0.8 + 20, np.clip(one + noise, 0, 255)]
    images = np.concatenate([np.array(copies).astype(np.uint8), pictures(3, seed=2)])
    assert grouped(images).tolist() == [0, 0, 0, 1, 2, 3]


def test_both_measures_must_agree() -> None:
    one = pictures(1)[0]
    images = np.stack([one, np.clip(one.astype(float) + 15, 0, 255).astype(np.uint8)])
    other = pictures(2)
    assert grouped(images).tolist() == [0, 0]
    assert near_duplicates(other, max_bits=64, max_distance=0.05).tolist() == [0, 1]
    assert near_duplicates(other, max_bits=3, max_distance=2.0).tolist() == [0, 1]
    assert near_duplicates(other, max_bits=64, max_distance=2.0).tolist() == [0, 0]


def test_blank_images_are_copies_of_each_other_and_of_nothing_else() -> None:
    images = np.concatenate([np.zeros((2, 32, 32), np.uint8), pictures(2)])
    assert grouped(images).tolist() == [0, 0, 1, 2]


def test_images_smaller_than_the_embedding_are_grouped_too() -> None:
    images = pictures(3, side=8)
    assert grouped(np.concatenate([images, images])).tolist() == [0, 1, 2, 0, 1, 2]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dflmoe\[bench\]'"):
        grouped(pictures(2))
