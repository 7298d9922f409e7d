"""Data sets: every layout is read from a tiny file of its own, and what is wrong is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dflmoe.data.rows import Rows, block_mean, noise
from dflmoe.data.sets import FOLDERS, READERS, load_set, other_people
from dflmoe.errors import DataFileError, DflmoeError, OptionError, PickleError

Files = dict[str, NDArray[Any]]
RNG = np.random.default_rng(0)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def codes(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def images(side: int) -> Files:
    x = pixels(6, side, side)
    x[5] = x[0]
    return {"x": x, "y": codes(0, 1, 0, 1, 0, 1), "class_names": np.array(["well", "ill"])}


def masked(names: str, **more: NDArray[Any]) -> Files:
    return {
        "image": pixels(4, 16, 16, 3),
        "mask": RNG.integers(0, 2, (4, 16, 16), dtype=np.uint8),
        "site": codes(0, 0, 1, 1),
        "site_names": np.array(["A", "B"]),
        names: more[names],
    }


def histology() -> Files:
    sharp = pixels(3, 32, 48, 3)
    coarse = {
        f"x_lr{k}": block_mean(np.moveaxis(sharp, 3, 1), k).round().astype(np.uint8)
        for k in (2, 4, 8)
    }
    return {
        "x": sharp,
        **{name: np.moveaxis(x, 1, 3) for name, x in coarse.items()},
        "site": codes(0, 0, 1),
        "site_names": np.array(["A", "B"]),
        "group": np.array(["slide", "slide", "image"]),
    }


def series(part: str, length: int) -> Files:
    time = {"epoch": np.arange(12)}
    return time | {
        "x": RNG.normal(0.9, 0.2, (12, length)).astype(np.float16),
        "y": codes(*[0, 1, 2] * 4),
        part: codes(*[0] * 8, *[1] * 4),
        f"{part}_names": np.array(["s1", "s2"]),
        "class_names": np.array(["W", "N1", "N2"]),
    }


def tcga() -> Files:
    return {
        "x": np.array([[60, 1], [75, 0], [45, 1]], dtype=np.float32),
        "event": codes(0, 1, 0),
        "site": codes(0, 1, 1),
        "site_names": np.array(["South", "West"]),
        "feature_names": np.array(["age_at_index", "race_white"]),
    }


def drive() -> Files:
    fov = np.ones((2, 21, 18), dtype=np.uint8)
    fov[:, :6, :6] = 0
    return {
        "image": pixels(2, 21, 18, 3),
        "mask": RNG.integers(0, 2, (2, 21, 18), dtype=np.uint8),
        "fov": fov,
        "image_id": codes(1, 2),
    }


MADE: dict[str, Callable[[], Files]] = {
    "tcga_brca": tcga,
    "pneumoniamnist": lambda: images(28),
    "busi": lambda: images(64) | {"x28": pixels(6, 28, 28)},
    "brain_tumor_mri": lambda: images(32) | {"x28": pixels(6, 28, 28)},
    "nuclei_dsb2018": lambda: masked("image_id", image_id=np.array(["b", "b", "a", "c"])),
    "drive": drive,
    "polyp_mini": lambda: masked(
        "image_name",
        image_name=np.array(["v/fine_3_1_f", "v/fine_3_2_f", "k/x_1.jpg", "k/x_2.jpg"]),
    ),
    "sleep_slpdb": lambda: series("subject", 300),
    "apnea_hr": lambda: series("record", 180),
    "apnea_beats": lambda: series("record", 180),
    "histology_sr": histology,
}
SIDES = {"drive": 8, "histology_sr": 16}


def written(root: Path, name: str, **other: NDArray[Any] | None) -> Path:
    """Write a set's file with some arrays replaced or, by None, left out."""
    arrays = MADE[name]() | other
    name = FOLDERS.get(name, name)
    (root / name).mkdir(exist_ok=True)
    kept: dict[str, Any] = {key: values for key, values in arrays.items() if values is not None}
    np.savez(root / name / f"{name}.npz", **kept)
    return root


def test_every_set_has_a_layout_here() -> None:
    assert set(READERS) == set(MADE)


@pytest.mark.parametrize("name", ["heart_disease", *READERS])
def test_each_set_loads_the_same_way_twice(name: str, tmp_path: Path) -> None:
    root = None if name == "heart_disease" else written(tmp_path, name)
    one = load_set(name, root, side=SIDES.get(name), per_group=2, seed=1)
    two = load_set(name, root, side=SIDES.get(name), per_group=2, seed=1)
    assert one.name == name
    assert one.x.dtype == np.float32
    assert (one.x == two.x).all()
    assert (one.y == two.y).all()
    assert np.bincount(one.group).max() <= 2
    assert one.labels.shape == (len(one),)
    kept = one.take(np.array([1, 0]))
    assert (kept.x[0] == one.x[1]).all()
    assert (kept.checked().group == one.group[[1, 0]]).all()


def test_the_embedded_hospitals_share_one_feature_space() -> None:
    rows = load_set("heart_disease", None)
    assert (len(rows), rows.grouped_by, len(rows.site_names)) == (920, "patient", 4)
    assert len(np.unique(rows.group)) == 920
    assert np.isfinite(rows.x).all()


def test_age_is_scaled_by_constants_and_flags_are_left(tmp_path: Path) -> None:
    rows = load_set("tcga_brca", written(tmp_path, "tcga_brca"))
    assert rows.x.tolist() == [[0, 1], [1, 0], [-1, 1]]  # (years - 60) / 15
    assert rows.y.tolist() == [0, 1, 0]


def test_images_are_block_means_in_minus_one_to_one(tmp_path: Path) -> None:
    root = written(tmp_path, "busi", x=np.full((6, 64, 64), 255, np.uint8))
    assert (load_set("busi", root, side=16).x == np.ones((6, 1, 16, 16))).all()
    small = load_set("busi", root, side=28).x  # the stored ones, which are noise
    assert small.shape == (6, 1, 28, 28)
    assert small.std() > 0.1


def test_copies_share_a_group_and_the_set_says_what_it_lacks(tmp_path: Path) -> None:
    rows = load_set("pneumoniamnist", written(tmp_path, "pneumoniamnist"), side=14)
    assert rows.group.tolist() == [0, 1, 2, 3, 4, 0]
    assert rows.grouped_by == "near-duplicates; no patient ids"


def test_masks_go_by_majority_and_crops_of_an_image_stay_together(tmp_path: Path) -> None:
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[:, :2, :2] = [[1, 1], [1, 0]]  # three of four
    mask[:, 2:4, :2] = [[1, 1], [0, 0]]  # a tie is background
    rows = load_set("nuclei_dsb2018", written(tmp_path, "nuclei_dsb2018", mask=mask), side=8)
    assert rows.y[0, :2, 0].tolist() == [1, 0]
    assert rows.y.sum() == 4
    assert rows.group.tolist() == [1, 1, 0, 2]
    assert rows.x.shape == (4, 3, 8, 8)


def test_frames_of_a_sequence_are_one_group(tmp_path: Path) -> None:
    group = load_set("polyp_mini", written(tmp_path, "polyp_mini")).group
    assert group[0] == group[1]
    assert len(np.unique(group)) == 3


def test_tiles_lie_inside_the_field_of_view(tmp_path: Path) -> None:
    root = written(tmp_path, "drive")
    rows = load_set("drive", root, side=8)
    # 2 x 2 tiles from row 2 and column 1 of 21 x 18 pixels; the first touches the dark corner
    assert np.bincount(rows.group).tolist() == [3, 3]
    with np.load(root / "drive" / "drive.npz") as file:
        assert (rows.y[0] == file["mask"][0, 2:10, 9:17]).all()
        tile = np.moveaxis(file["image"][0, 2:10, 9:17], 2, 0)
    assert np.allclose(rows.x[0], tile / 127.5 - 1, atol=1e-6)


def test_series_are_scaled_and_cut_by_constants(tmp_path: Path) -> None:
    x = np.full((12, 300), 1.1, dtype=np.float32)
    x[0] = 9.0
    rows = load_set("sleep_slpdb", written(tmp_path, "sleep_slpdb", x=x))
    assert rows.x.shape == (12, 1, 300)
    assert np.allclose(rows.x[1], 1)  # (1.1 - 0.9) / 0.2
    assert (rows.x[0] == 5).all()
    beats = np.full((12, 180), 85, dtype=np.float32)
    apnea = load_set("apnea_hr", written(tmp_path, "apnea_hr", x=beats))
    assert (apnea.x == 1).all()  # (85 - 70) / 15
    slow = load_set("apnea_beats", written(tmp_path, "apnea_hr", x=np.full((12, 180), 60.0)))
    assert slow.x.shape == (12, 1, 300)
    np.testing.assert_allclose(slow.x, 0.5, rtol=1e-5)  # a beat a second: (1 - 0.9) / 0.2
    assert (rows.grouped_by, apnea.grouped_by) == ("subject", "recording")


def test_rows_kept_of_a_series_are_spread_over_its_time(tmp_path: Path) -> None:
    x = np.repeat(np.arange(12, dtype=np.float32)[:, None] / 10, 300, axis=1)
    rows = load_set("sleep_slpdb", written(tmp_path, "sleep_slpdb", x=x), per_group=4)
    when = np.round((rows.x[:, 0, 0] * 0.2 + 0.9) * 10).astype(int)
    assert np.diff(when[:4]).tolist() == [2, 2, 2]  # four of the first subject's eight
    assert when[4:].tolist() == [8, 9, 10, 11]


def test_inputs_of_super_resolution_are_aligned_box_means(tmp_path: Path) -> None:
    rows = load_set("histology_sr", written(tmp_path, "histology_sr"), side=16)
    assert rows.classes == ()
    assert rows.y.shape == (3, 3, 16, 16)
    for factor, inputs in rows.coarse.items():
        assert np.abs(block_mean(rows.y, factor) - inputs).max() <= 0.5 / 255 + 1e-6
    assert (rows.x == rows.coarse[2]).all()
    assert rows.group[0] == rows.group[1] != rows.group[2]


FAULTS = [
    pytest.param("busi", {"x": None}, "no array 'x'", id="array missing"),
    pytest.param("busi", {"y": codes(0, 1)}, "y has 2 rows and the inputs 6", id="rows differ"),
    pytest.param("busi", {"y": codes(0, 1, 2, 0, 1, 0)}, "y holds 0 to 2", id="unnamed class"),
    pytest.param("busi", {"y": np.zeros(())}, r"y must be \[row\]", id="no axis"),
    pytest.param("busi", {"x": np.zeros((6, 64, 64), np.uint16)}, "must hold bytes", id="words"),
    pytest.param("busi", {"x": np.zeros((0, 8, 8), np.uint8)}, "x must be", id="no rows"),
    pytest.param("polyp_mini", {"mask": np.ones((4, 8, 8), np.uint8)}, "do not match", id="masks"),
    pytest.param("polyp_mini", {"mask": np.full((4, 16, 16), 7, np.uint8)}, "holds 7", id="values"),
    pytest.param("drive", {"fov": np.ones((2, 8, 8), np.uint8)}, "fov does not", id="fov"),
    pytest.param("apnea_hr", {"x": np.full((12, 180), np.nan)}, "NaN", id="NaN"),
    pytest.param("tcga_brca", {"feature_names": np.array(["a", "b"])}, "one age", id="no age"),
    pytest.param("histology_sr", {"x_lr4": pixels(3, 7, 12, 3)}, "x_lr4 .* not match", id="scale"),
]


@pytest.mark.parametrize(("name", "arrays", "sentence"), FAULTS)
def test_a_wrong_file_is_named(
    name: str, arrays: dict[str, NDArray[Any] | None], sentence: str, tmp_path: Path
) -> None:
    root = written(tmp_path, name, **arrays)
    with pytest.raises(DataFileError, match=sentence) as caught:
        load_set(name, root, side=SIDES.get(name))
    assert f"{name}.npz" in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="DFLMOE_DATA"):
        load_set("busi", None)
    with pytest.raises(DataFileError, match=r"busi\.npz is not there; set DFLMOE_DATA"):
        load_set("busi", tmp_path)
    path = written(tmp_path, "busi") / "busi" / "busi.npz"
    whole = path.read_bytes()
    for content in (b"", b"not a zip", whole[: len(whole) // 2], whole.replace(b"NUMPY", b"LUMPY")):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=r"busi\.npz is not a readable"):
            load_set("busi", tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))  # one array, not an archive
    with pytest.raises(DataFileError, match=r"busi\.npz is not a readable"):
        load_set("busi", tmp_path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(PickleError, match=r"busi\.npz"):
        load_set("busi", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("nuclei", {}, "choose one of heart_disease"),
        ("busi", {"side": 24}, "side 24 does not divide the 64 x 64 images"),
        ("busi", {"side": 0}, "side 0"),
        ("polyp_mini", {"side": 32}, "side 32 does not divide"),
        ("drive", {"side": 19}, "side 19 is more than"),
        ("histology_sr", {"side": 12}, "multiple of 8"),
        ("histology_sr", {"side": 64}, "up to 32"),
        ("apnea_hr", {"side": 8}, "are no images"),
        ("heart_disease", {"per_group": 0}, "per_group"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    name: str, options: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    root = written(tmp_path, name) if name in MADE else None
    with pytest.raises(OptionError, match=sentence):
        load_set(name, root, side=options.get("side"), per_group=options.get("per_group"))


def test_rows_stand_for_others_of_their_shape_and_series_are_cut(tmp_path: Path) -> None:
    written(tmp_path, "sleep_slpdb"), written(tmp_path, "busi")
    series = load_set("sleep_slpdb", tmp_path)
    assert (series.like((1, 180)).x == series.x[..., :180]).all()
    pictures = load_set("busi", tmp_path, side=28)
    assert pictures.like((1, 28, 28)).x.shape == pictures.x.shape
    for shape in ((1, 20, 28), (1, 28, 20), (3, 28, 28)):
        with pytest.raises(OptionError, match="name a set of the same shape"):
            pictures.like(shape)


def test_two_sets_of_one_file_are_of_the_same_people() -> None:
    assert other_people("sleep_slpdb", "apnea_hr") == "sleep_slpdb"
    for name in ("apnea_hr", "apnea_beats"):
        with pytest.raises(OptionError, match="the very patients of the sites"):
            other_people(name, "apnea_hr")


def test_rows_that_do_not_fit_each_other_are_refused() -> None:
    x, y, one = np.zeros((2, 3), np.float32), codes(0, 1), codes(0, 1)
    wrong = [
        Rows("made", "table", x, codes(0), one, "patient", ("a", "b")),
        Rows("made", "table", x, y, one, "patient", ("a",)),
        Rows("made", "image", x, y, one, "patient", ("a", "b")),
        Rows("made", "table", x * np.nan, y, one, "patient", ("a", "b")),
        Rows("made", "table", x, y, one, "patient", ("a", "b"), codes(0, 5), ("A",)),
        Rows(
            "made",
            "segmentation",
            np.zeros((2, 1, 4, 4), np.float32),
            np.zeros((2, 3, 3), np.int64),
            one,
            "image",
            ("a",),
        ),
    ]
    for rows in wrong:
        with pytest.raises(DflmoeError, match="data set 'made'"):
            rows.checked()


def test_noise_has_spread_one_and_in_pictures_falls_with_frequency() -> None:
    rng_ = np.random.default_rng(0)
    assert noise((2000, 3), rng_).std(0) == pytest.approx(1, abs=0.1)
    for shape in ((200, 1, 64), (200, 1, 16, 16)):
        rows = noise(shape, rng_)
        assert rows.shape == shape
        assert rows.std(tuple(range(2, len(shape)))) == pytest.approx(1, abs=1e-4)
        power = (np.abs(np.fft.fft(rows, axis=-1)) ** 2).reshape(200, -1, shape[-1]).mean((0, 1))
        half = power[1 : shape[-1] // 2]
        assert half[0] > 5 * half[-1]
