"""Kinds of prediction: losses and scores, worked by hand."""

import math
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tests.made import made_masks, made_pictures, noise, pixels
from torch import Tensor, nn

from dflmoe.core.task import LABELS, Labels, Task
from dflmoe.errors import MissingExtraError
from dflmoe.tasks import TASKS, UNITS, classification, scored_by, segmentation, super_resolution
from dflmoe.tasks.segmentation import Pixels
from dflmoe.tasks.super_resolution import Images
from dflmoe.types import generator

SEEDS = st.integers(0, 2**16)
law = settings(max_examples=10, deadline=None)


def found(*masks: list[list[int]], classes: int = 2) -> Tensor:
    """Return log probabilities that are sure of these masks."""
    chosen = nn.functional.one_hot(torch.tensor(masks), classes).movedim(-1, 1)
    return (0.98 * chosen + 0.01).log()


# What a head puts out.


@law
@given(seed=SEEDS, task=st.sampled_from([LABELS, Pixels(), Images()]), dim=st.sampled_from([2, 3]))
def test_saying_it_twice_changes_nothing(seed: int, task: Task, dim: int) -> None:
    once = task.said(noise(seed, 2, 3, 4, 5, 2), dim)
    torch.testing.assert_close(task.said(once, dim), once)


@law
@given(seed=SEEDS, dim=st.sampled_from([2, 3]))
def test_classes_are_said_as_a_distribution_along_their_axis(seed: int, dim: int) -> None:
    for task in (LABELS, Pixels()):
        total = task.said(noise(seed, 2, 3, 4, 5, 2), dim).exp().sum(dim)
        torch.testing.assert_close(total, torch.ones_like(total))


@law
@given(seed=SEEDS)
def test_a_loss_is_the_same_of_what_a_head_puts_out_and_of_what_is_said(seed: int) -> None:
    raw, y = noise(seed, 2, 3, 4, 5, 5), noise(seed + 1, 2, 3, 4, 5, 5)
    classes = y[:, :, 0].abs().long().clamp(max=3)
    for task, target in ((LABELS, classes), (Pixels(), classes), (Images(), y)):
        torch.testing.assert_close(task.losses(task.said(raw, 2), target), task.losses(raw, target))


@law
@given(seed=SEEDS)
def test_the_loss_of_a_class_is_minus_its_log_softmax(seed: int) -> None:
    raw = noise(seed, 2, 3, 4)
    y = torch.randint(4, (2, 3), generator=generator(seed))
    losses = LABELS.losses(raw, y)
    for m, n in product(range(2), range(3)):
        scores = raw[m, n].double().exp()
        expected = -math.log(float(scores[y[m, n]] / scores.sum()))
        assert float(losses[m, n]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_loss_of_a_mask_worked_by_hand() -> None:
    # Foreground is there in the left column, and said with 0.5 and 0.8 there, 0.5 and 0.2 beside.
    foreground = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    said = torch.stack([1 - foreground, foreground]).log()[None, None]
    y = torch.tensor([[1, 0], [1, 0]])[None, None]

    entropy = -(math.log(0.5) + math.log(0.5) + math.log(0.8) + math.log(0.8)) / 4
    # Soft Dice, one added above and below: overlap 0.5 + 0.8, sizes 2 and 2.
    dice = (2 * 1.3 + 1) / (2 + 2 + 1)

    assert float(Pixels().losses(said, y)) == pytest.approx(entropy + 1 - dice, rel=1e-5)


@law
@given(seed=SEEDS)
def test_the_loss_of_three_classes_equals_a_plain_loop_over_pixels(seed: int) -> None:
    raw = noise(seed, 2, 2, 3, 2, 3)
    y = torch.randint(3, (2, 2, 2, 3), generator=generator(seed))
    losses = Pixels().losses(raw, y)
    for m, n in product(range(2), range(2)):
        entropy, overlap, sizes = 0.0, [0.0] * 3, [0.0] * 3
        for h, w in pixels(raw):
            probs = raw[m, n, :, h, w].double().softmax(0).tolist()
            true = int(y[m, n, h, w])
            entropy -= math.log(probs[true]) / 6
            overlap[true] += probs[true]
            sizes = [s + p + (k == true) for k, (s, p) in enumerate(zip(sizes, probs, strict=True))]
        dice = [(2 * o + 1) / (s + 1) for o, s in zip(overlap, sizes, strict=True)]
        expected = entropy + 1 - (dice[1] + dice[2]) / 2
        assert float(losses[m, n]) == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_an_image_is_in_percent_of_the_range() -> None:
    y = torch.tensor([[[0.2, 0.4], [0.6, 0.8]]])[None, None]
    off = torch.tensor([[[0.1, -0.1], [0.3, 0.1]]])  # 0.6 over four pixels
    torch.testing.assert_close(Images().losses(y + off, y), torch.tensor([[15.0]]))


# The scores that people read.


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        # Two pixels found, both of four that are there: Dice 2 * 2 / (2 + 4), overlap 2 of 4.
        pytest.param([[1, 1, 0], [0, 0, 0], [0, 0, 0]], (2 / 3, 1 / 2, 7 / 9), id="half found"),
        # Four found, two of them there: Dice 2 * 2 / (4 + 4), overlap 2 of 6.
        pytest.param([[0, 1, 1], [0, 1, 1], [0, 0, 0]], (1 / 2, 1 / 3, 5 / 9), id="beside it"),
        pytest.param([[1, 1, 0], [1, 1, 0], [0, 0, 0]], (1, 1, 1), id="found"),
        pytest.param([[0, 0, 0], [0, 0, 0], [0, 0, 0]], (0, 0, 5 / 9), id="not found"),
    ],
)
def test_the_overlap_of_a_mask_worked_by_hand(
    mask: list[list[int]], expected: tuple[float, float, float]
) -> None:
    y = torch.tensor([[[1, 1, 0], [1, 1, 0], [0, 0, 0]]])
    said = found(mask)
    scores = segmentation.scores(said, y)
    assert segmentation.dice(said, y).tolist() == pytest.approx([expected[0]])
    assert scores["iou"] == pytest.approx(expected[1])
    assert scores["pixel_accuracy"] == pytest.approx(expected[2])


def test_a_class_that_is_neither_there_nor_found_counts_one_and_a_false_alarm_nothing() -> None:
    nothing = torch.zeros(2, 2, 2, dtype=torch.int64)
    said = found([[0, 0], [0, 0]], [[0, 1], [0, 0]])
    assert segmentation.dice(said, nothing).tolist() == [1, 0]
    assert segmentation.scores(said, nothing)["iou"] == 0.5


def test_the_dice_of_three_classes_is_the_mean_of_both_that_are_not_background() -> None:
    # Class 1: one of two found, Dice 2 * 1 / (1 + 2). Class 2: found two, one there, Dice 2 / 3.
    # In the second image class 1 is found to its only pixel, class 2 is neither there nor found.
    y = torch.tensor([[[1, 1, 2], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]])
    said = found([[1, 2, 2], [0, 0, 0]], [[1, 1, 0], [0, 0, 0]], classes=3)
    # Second image, class 1: two found, one there.
    assert segmentation.dice(said, y).tolist() == pytest.approx([2 / 3, (2 / 3 + 1) / 2])


def test_a_tenth_off_everywhere_is_twenty_decibels() -> None:
    y = torch.full((2, 3, 4, 4), 0.5)
    off = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)  # mean squares of 0.01 and 0.0001
    assert super_resolution.psnr(y + off, y).tolist() == pytest.approx([20, 40], rel=1e-4)


def test_what_is_brighter_than_white_is_white() -> None:
    y = torch.full((1, 1, 4, 4), 0.9)
    # 5.0 is shown as 1.0, a tenth off.
    assert super_resolution.psnr(torch.full_like(y, 5.0), y).tolist() == pytest.approx([20.0])


def test_an_image_is_similar_to_itself_and_less_to_another() -> None:
    _, y = made_pictures(2, 0, side=16)
    assert super_resolution.scores(y, y)["ssim"] == pytest.approx(1)
    other = super_resolution.scores(made_pictures(2, 1, side=16)[1], y)["ssim"]
    assert other is not None
    assert other < 0.5


def sure(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


def test_the_scores_of_four_rows_worked_by_hand() -> None:
    # Said class 0, 1, 1, 1 where 0, 0, 1, 1 is true.
    said = sure((0.75, 0.25), (0.25, 0.75), (0.25, 0.75), (0.25, 0.75))
    y = torch.tensor([0, 0, 1, 1])
    scores = classification.scores(said, y)
    assert classification.right(said, y).tolist() == [1, 0, 1, 1]
    # Class 0: precision 1, recall 1/2; class 1: precision 2/3, recall 1.
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # Pairs of a 1 and a 0: 0.75 against 0.25 twice, and twice a tie.
    assert scores["auroc"] == pytest.approx((2 + 2 * 0.5) / 4)
    assert scores["log_loss"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    # All rows say 0.75, and three in four are right.
    assert scores["ece"] == pytest.approx(0, abs=1e-6)


def test_calibration_is_the_gap_between_what_is_said_and_what_is_right() -> None:
    # Two rows say 0.95 and one of them is right; two say 0.65 and both are right.
    said = sure((0.95, 0.05), (0.95, 0.05), (0.35, 0.65), (0.35, 0.65))
    scores = classification.scores(said, torch.tensor([0, 1, 1, 1]))
    assert scores["ece"] == pytest.approx((0.95 - 0.5) / 2 + (1 - 0.65) / 2)


@law
@given(seed=SEEDS)
def test_the_area_under_the_curve_of_three_classes_counts_pairs(seed: int) -> None:
    y = torch.randint(3, (12,), generator=generator(seed))
    y[:2] = torch.tensor([0, 2])
    said = LABELS.said(noise(seed, 12, 3), 1)
    areas = []
    for label in set(y.tolist()):
        pairs = product(said[y == label, label].tolist(), said[y != label, label].tolist())
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
        areas.append(sum(wins) / len(wins))
    expected = sum(areas) / len(areas)
    assert classification.scores(said, y)["auroc"] == pytest.approx(expected, abs=1e-6)


def test_a_single_class_has_no_area_under_the_curve_and_all_other_scores() -> None:
    scores = classification.scores(sure((0.9, 0.1), (0.8, 0.2)), torch.tensor([0, 0]))
    assert scores["auroc"] is None
    assert scores["macro_f1"] == 1
    assert scores["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)


def test_a_class_that_no_row_has_does_not_pull_the_average_down() -> None:
    said = sure((0.8, 0.1, 0.1), (0.1, 0.8, 0.1))
    scores = classification.scores(said, torch.tensor([0, 1]))
    assert scores["macro_f1"] == 1
    assert scores["auroc"] == 1


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("torchmetrics.functional.classification",
         lambda: classification.scores(sure((0.5, 0.5)), torch.tensor([0])), "torchmetrics"),
        ("torchmetrics.functional",
         lambda: super_resolution.psnr(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)),
         "torchmetrics"),
        ("torchmetrics.functional",
         lambda: super_resolution.scores(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)),
         "torchmetrics"),
        ("monai",
         lambda: segmentation.dice(found([[0]]), torch.zeros(1, 1, 1, dtype=torch.int64)),
         "MONAI"),
        ("monai",
         lambda: segmentation.scores(found([[0]]), torch.zeros(1, 1, 1, dtype=torch.int64)),
         "MONAI"),
    ],
)  # fmt: skip
def test_a_score_whose_library_is_not_there_says_what_to_install(
    module: str, call: Callable[[], object], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{extra}.*dflmoe\[bench\]"):
        call()


def test_in_every_kind_of_task_the_truth_scores_best() -> None:
    classes = torch.arange(6) % 2
    masks = made_masks(6, 0)[1]
    images = made_pictures(6, 0)[1]
    cases = [
        ("table", (nn.functional.one_hot(classes, 2) + 0.01).log(), classes),
        ("segmentation", (nn.functional.one_hot(masks, 2).movedim(-1, 1) + 0.01).log(), masks),
        ("super_resolution", images + 0.01, images),
    ]
    for name, truth, y in cases:
        kind = TASKS[name]
        best, other = (kind.row_scores(said, y) for said in (truth, truth.flip(0)))
        assert best.shape == (6,)
        assert best.mean() > other.mean()
        losses = [kind.task.losses(said[None], y[None]).mean() for said in (truth, truth.flip(0))]
        assert losses[0] < losses[1]


@settings(deadline=None)
@given(seed=st.integers(0, 300))
def test_the_parts_of_an_area_under_the_curve_have_it_as_their_mean(seed: int) -> None:
    said = LABELS.said(noise(seed, 30, 2).round(decimals=1), 1)
    y = (noise(seed + 1, 30) > 0.5).long()
    parts = classification.auroc(said, y)
    if y.unique().numel() < 2:
        assert (parts == 0.5).all()
    else:
        assert parts.mean() == pytest.approx(roc_auc_score(y, said[:, 1]))


def test_the_parts_of_an_area_have_its_spread() -> None:
    """The spread of a mean of parts is that of the area over fresh samples, to first order."""
    areas, spreads = [], []
    for seed in range(300):
        y = torch.arange(60) % 3 // 2
        score = noise(seed, 60) + y
        parts = classification.auroc(LABELS.said(torch.stack([-score, score], 1), 1), y)
        areas.append(parts.mean())
        spreads.append(parts.std(ddof=1) / math.sqrt(60))
    assert np.mean(spreads) == pytest.approx(np.std(areas), rel=0.15)


def test_another_metric_replaces_the_kinds_own_and_nothing_else() -> None:
    kind = scored_by(TASKS["table"], "auroc")
    assert (kind.metric, kind.task) == ("AUROC", Labels(ranks=True))
    assert UNITS[kind.metric] == TASKS["table"].unit
    assert scored_by(TASKS["table"], None) is TASKS["table"]


# What people judge by, as the guard sees it.


@law
@given(seed=SEEDS, classes=st.sampled_from([2, 3]))
def test_a_score_is_the_metric_of_training_rows_only(seed: int, classes: int) -> None:
    said = LABELS.said(noise(seed, 2, 40, classes), 2)
    y = torch.randint(classes, (40,), generator=generator(seed)).expand(2, -1)
    fold = torch.zeros(2, 40, dtype=torch.long)
    fold[:, 30:] = -1
    right = (said.argmax(2) == y)[:, :30].double().mean(1)
    torch.testing.assert_close(LABELS.score(said, y, fold), right)
    area = classification.scores(said[0, :30], y[0, :30])["auroc"]
    assert float(Labels(ranks=True).score(said, y, fold)[0]) == pytest.approx(area)


def test_the_area_of_a_score_never_compares_rows_that_different_fits_predicted() -> None:
    said = LABELS.said(noise(0, 1, 40, 2), 2)
    y = (torch.arange(40) % 2)[None]
    fold = (torch.arange(40) // 20)[None]
    ranks = Labels(ranks=True)
    moved = said + torch.where(fold == 1, 5.0, 0.0)[..., None] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(ranks.score(moved, y, fold), ranks.score(said, y, fold))
    by_fold = [classification.scores(said[0, k : k + 20], y[0, k : k + 20]) for k in (0, 20)]
    mean = np.mean([found["auroc"] for found in by_fold if found["auroc"] is not None])
    assert float(ranks.score(said, y, fold)) == pytest.approx(mean)
    assert float(ranks.score(said, torch.zeros_like(y), fold)) == 0.5


def test_pictures_are_judged_by_their_loss() -> None:
    for task, y in ((Pixels(), noise(1, 1, 3, 4, 4) > 0), (Images(), noise(1, 1, 3, 2, 4, 4))):
        target = y.long() if y.dtype == torch.bool else y
        said = task.said(noise(0, 1, 3, 2, 4, 4), 2)
        fold = torch.tensor([[0, 1, -1]])
        expected = -task.losses(said, target)[:, :2].mean(1)
        torch.testing.assert_close(task.score(said, target, fold), expected)
