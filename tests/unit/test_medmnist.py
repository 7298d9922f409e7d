"""Files of MedMNIST, and our own arrays as one site, are read or refused with a sentence."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dflmoe.data.arrays import read_arrays
from dflmoe.data.one_site import read_site, read_unlabelled
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import (
    ColumnError,
    DataError,
    DataFileError,
    DflmoeError,
    LabelError,
    PickleError,
)

ROWS = {"train": 5, "val": 2, "test": 3}
CLASSES = ("a", "b", "c")


def published(path: Path, *places: int, **changed: NDArray[Any] | None) -> Path:
    """Write a file as MedMNIST has it, of bytes that differ from row to row."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any] | None] = {}
    for part, rows in ROWS.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (rows, *(places or (4, 4))), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(rows) % 3).astype(np.uint8)[:, None]
    there = {name: some for name, some in {**arrays, **changed}.items() if some is not None}
    np.savez(path, **there)  # type: ignore[arg-type]  # its stub takes no such mapping
    return path


def read(path: Path, shape: tuple[int, ...]) -> SiteRows:
    return read_site(Source(path=path), "ann", classes=CLASSES, shape=shape, columns=None)


def joined(path: Path) -> NDArray[np.float64]:
    with np.load(path) as file:
        images = np.concatenate([file[f"{part}_images"] for part in ROWS])
    return np.asarray(2 * (images / 255) - 1)


def test_grey_images_of_all_parts_are_rows(tmp_path: Path) -> None:
    path = published(tmp_path / "breastmnist.npz")
    rows = read(path, (1, 4, 4))
    np.testing.assert_allclose(rows.x[:, 0], joined(path), atol=1e-6)
    assert rows.y.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1, 2]
    assert rows.patient.tolist() == list(range(10))


def test_colours_come_first(tmp_path: Path) -> None:
    path = published(tmp_path / "pathmnist.npz", 4, 4, 3)
    expected = np.moveaxis(joined(path), 3, 1)
    np.testing.assert_allclose(read(path, (3, 4, 4)).x, expected, atol=1e-6)


def test_slices_of_volumes_are_channels(tmp_path: Path) -> None:
    path = published(tmp_path / "organmnist3d.npz", 4, 4, 4)
    np.testing.assert_allclose(read(path, (4, 4, 4)).x, joined(path), atol=1e-6)


def test_rows_to_predict_may_be_of_medmnist(tmp_path: Path) -> None:
    path = published(tmp_path / "breastmnist.npz")
    x = read_unlabelled(path, shape=(1, 4, 4), columns=None)
    np.testing.assert_array_equal(x, read(path, (1, 4, 4)).x)


def test_a_file_of_medmnist_is_one_site_of_a_pilot(tmp_path: Path) -> None:
    study = read_arrays(published(tmp_path / "breastmnist.npz"))
    (site,) = study.sites
    assert (site.name, study.classes, study.kind) == ("breastmnist", ("0", "1", "2"), "image")
    assert not study.has_patients
    assert "joined" in study.warnings[0]
    assert read_arrays(tmp_path / "breastmnist.npz", at="ann").sites[0].name == "ann"


def test_our_own_arrays_are_one_site_of_a_pilot(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    x = np.random.default_rng(0).normal(size=(6, 2))
    np.savez(path, x=x, y=np.arange(6) % 2, patient=np.array(["p", "p", "q", "q", "r", "r"]))
    (site,) = read_arrays(path, at="ann").sites
    assert site.name == "ann"
    assert site.patient.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ColumnError, match="no array 'site'"):
        read_arrays(path)


def test_arrays_that_name_their_sites_keep_them(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=np.zeros((4, 2)), y=np.arange(4) % 2, site=np.array(["n", "n", "s", "s"]))
    assert [site.name for site in read_arrays(path, at="ann").sites] == ["n", "s"]


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        pytest.param({"val_images": None}, ColumnError, "no array 'val_images'", id="part"),
        pytest.param({"test_labels": None}, ColumnError, "no array 'test_labels'", id="labels"),
        pytest.param(
            {f"{part}_labels": np.zeros((rows, 14), np.uint8) for part, rows in ROWS.items()},
            LabelError, "14 labels a row", id="several labels",
        ),
        pytest.param(
            {"train_labels": np.zeros((4, 1), np.uint8)}, DataFileError, "5 train_images and 4",
            id="lengths",
        ),
        pytest.param(
            {"val_images": np.zeros((2, 4, 4), np.float32)}, DataFileError, "float32", id="floats"
        ),
        pytest.param(
            {"val_images": np.zeros((2, 5, 4), np.uint8)}, DataFileError, "val_images", id="size"
        ),
        pytest.param(
            {f"{part}_labels": np.zeros((rows, 1), np.uint8) for part, rows in ROWS.items()},
            LabelError, "two classes", id="one class",
        ),
        pytest.param(
            {"test_labels": np.array([[0], [1], [3]], np.uint8)}, LabelError, "0 to 2", id="a class"
        ),
        pytest.param(
            {"test_labels": np.array([[0], [1], [{}]], object)}, PickleError, "pickled", id="pickle"
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_medmnist_has_it_is_refused(
    tmp_path: Path, changed: dict[str, Any], error: type[DflmoeError], says: str
) -> None:
    path = published(tmp_path / "x.npz", **changed)
    with pytest.raises(error, match=says):
        read(path, (1, 4, 4))


def test_a_size_that_nobody_agreed_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="charter says"):
        read(published(tmp_path / "x.npz"), (1, 28, 28))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path / "x.npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(DataFileError, match=r"x\.npz is not a readable"):
            read(path, (1, 4, 4))


@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_file_with_wrong_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]], packed: bool
) -> None:
    path = published(tmp_path_factory.mktemp("flipped") / "x.npz")
    if packed:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez_compressed(path, **arrays)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert read(path, (1, 4, 4)).x.shape == (10, 1, 4, 4)


def test_an_encrypted_or_unknown_packing_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path / "x.npz")
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    for place, value in ((8, 1), (10, 99)):  # a flag, and the number of the method
        data = bytearray(whole)
        data[central + place] = value
        path.write_bytes(data)
        with pytest.raises(DataFileError, match=r"x\.npz is not a readable"):
            read(path, (1, 4, 4))
