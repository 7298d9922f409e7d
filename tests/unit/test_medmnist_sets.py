"""Sets of MedMNIST: read from the publisher's own files at any size, or refused with a sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dflmoe.bench.experiment import Partition, TaskSetting
from dflmoe.data.layouts.medmnist import CLASSES
from dflmoe.data.sets import load_set
from dflmoe.errors import ColumnError, DataFileError, LabelError, OptionError

PARTS = {"train": 14, "val": 4, "test": 6}
GREY = {"breastmnist", "octmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist"}


def shipped(
    root: Path, name: str, size: int = 28, changed: Mapping[str, NDArray[Any] | None] | None = None
) -> Path:
    """Write a file as MedMNIST has it, of noise with all classes; the last two rows are copies."""
    path = root / "medmnist" / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz")
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    shape = (size, size) if name in GREY else (size, size, 3)
    arrays: dict[str, NDArray[Any] | None] = {}
    for part, rows in PARTS.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (rows, *shape), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(rows) % len(CLASSES[name])).astype(np.uint8)[:, None]
    copied = arrays["test_images"]
    assert copied is not None
    copied[-1] = copied[-2]
    there = {key: some for key, some in {**arrays, **(changed or {})}.items() if some is not None}
    np.savez(path, **there)  # type: ignore[arg-type]  # its stub takes no such mapping
    return path


def joined(path: Path) -> NDArray[np.float64]:
    with np.load(path) as file:
        images = np.concatenate([file[f"{part}_images"] for part in PARTS])
    if images.ndim == 4:
        images = np.moveaxis(images, 3, 1)
    return np.asarray(2 * (images.reshape(len(images), -1, *images.shape[-2:]) / 255) - 1)


@pytest.mark.parametrize("name", CLASSES)
def test_all_published_parts_are_rows_and_copies_are_one_group(name: str, tmp_path: Path) -> None:
    path = shipped(tmp_path, name)
    rows = load_set(name, tmp_path)
    np.testing.assert_allclose(rows.x, joined(path), atol=1e-6)
    assert rows.classes == CLASSES[name]
    assert rows.y.tolist() == [k % len(CLASSES[name]) for n in PARTS.values() for k in range(n)]
    assert rows.group.tolist() == [*range(23), 22]
    assert rows.grouped_by == "near-duplicates; no patient ids"


@pytest.mark.parametrize(("side", "size"), [(28, 28), (14, 28), (64, 64), (16, 64), (224, 224)])
def test_a_side_is_that_of_a_published_file_or_averaged_down(
    side: int, size: int, tmp_path: Path
) -> None:
    path = shipped(tmp_path, "retinamnist", size)
    rows = load_set("retinamnist", tmp_path, side=side)
    whole, times = joined(path), size // side
    boxes = whole.reshape(*whole.shape[:2], side, times, side, times)
    np.testing.assert_allclose(rows.x, boxes.mean((3, 5)), atol=1e-5)


def test_a_file_that_changes_is_grouped_anew(tmp_path: Path) -> None:
    shipped(tmp_path, "breastmnist")
    assert load_set("breastmnist", tmp_path).group.max() == 22
    same = np.zeros((14, 28, 28), np.uint8)
    shipped(tmp_path, "breastmnist", changed={"train_images": same})
    assert load_set("breastmnist", tmp_path).group.max() == 9


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"val_images": None}, ColumnError, "has no array 'val_images'"),
        ({"train_images": np.zeros((3, 28, 28), np.uint8)}, DataFileError, "3 train_images and 14"),
        (
            {f"{part}_images": np.zeros((n, 64, 64), np.uint8) for part, n in PARTS.items()},
            DataFileError,
            "pictures of .64, 64. pixels, and 28 a side are published",
        ),
        (
            {f"{part}_labels": np.zeros((n, 14), np.uint8) for part, n in PARTS.items()},
            LabelError,
            "14 labels a row",
        ),
        ({"test_labels": np.full((6, 1), 2)}, LabelError, "has 3 classes, and 2 are published"),
    ],
)
def test_a_file_that_is_not_whole_is_named(
    changed: dict[str, NDArray[Any] | None],
    error: type[Exception],
    sentence: str,
    tmp_path: Path,
) -> None:
    shipped(tmp_path, "breastmnist", changed=changed)
    with pytest.raises(error, match=sentence):
        load_set("breastmnist", tmp_path)


def test_half_a_file_and_another_file_are_named(tmp_path: Path) -> None:
    path = shipped(tmp_path, "breastmnist")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataFileError, match="is not a readable"):
        load_set("breastmnist", tmp_path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataFileError, match="has no pictures of MedMNIST"):
        load_set("breastmnist", tmp_path)
    with pytest.raises(DataFileError, match=r"breastmnist_64.npz is not there"):
        load_set("breastmnist", tmp_path, side=64)


def test_a_side_that_divides_no_published_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot have side 48; choose one that divides 28, 64"):
        load_set("bloodmnist", tmp_path, side=48)


def test_a_set_of_several_labels_is_refused_with_its_reason(tmp_path: Path) -> None:
    reason = "'chestmnist' has several labels a picture"
    with pytest.raises(OptionError, match=reason):
        load_set("chestmnist", tmp_path)
    with pytest.raises(ValueError, match=reason):
        TaskSetting(
            title="Chest",
            set="chestmnist",
            partition=Partition(kind="even", sites=2),
            networks=("resnet5",),
        )
