"""Rows in: what is read, what is refused, and that no site's rows touch another's features."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.made import made_rows

from dflmoe.data.arrays import read_arrays
from dflmoe.data.schema import Schema
from dflmoe.data.splits import draw_rows, repeated_splits
from dflmoe.data.study import Study, standardised
from dflmoe.data.tables import Roles, embedded_study, read_frame, read_table, read_with_schema
from dflmoe.errors import ColumnError, DataFileError, LabelError, SchemaError

ROLES = Roles("site", "label")


def table(rows: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "site": ["north", "south"] * (rows // 2),
            "label": [0, 0, 1, 1] * (rows // 4),
            "dose": rng.normal(size=rows),
            "ward": rng.choice(["a", "b", "c"], rows),
            "smoker": rng.choice(["yes", "no"], rows),
        }
    )


def written(frame: pd.DataFrame, folder: Path, name: str = "data.csv") -> Path:
    path = folder / name
    frame.to_csv(path, index=False)
    return path


def test_the_embedded_hospitals_are_those_of_the_archive() -> None:
    study = embedded_study()
    counts = {s.name: np.bincount(s.y).tolist() for s in study.sites}
    assert counts == {
        "Cleveland": [164, 139],
        "Budapest": [188, 106],
        "Switzerland": [8, 115],
        "Long Beach": [51, 149],
    }
    assert study.own_scale is None
    assert set(study.sites[0].subgroups) == {"sex", "age"}


def test_zero_cholesterol_is_missing_and_flagged() -> None:
    study = embedded_study()
    swiss = study.sites[2]
    assert swiss.x.shape[1] == study.sites[0].x.shape[1]
    flagged = np.isnan(swiss.x).all(0)
    assert flagged.any()  # all of Switzerland's cholesterol
    assert (swiss.x[:, np.flatnonzero(flagged)[0] + 1] == 1).all()


def test_a_parquet_file_reads_as_its_csv(tmp_path: Path) -> None:
    frame = table()
    frame.to_parquet(tmp_path / "data.parquet")
    first = read_table(written(frame, tmp_path), ROLES)
    second = read_table(tmp_path / "data.parquet", ROLES)
    for a, b in zip(first.sites, second.sites, strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=1e-6)


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["2020-01-31", "2020-02-01", "2021-12-24", "2022-05-06"], id="ISO"),
        pytest.param(["31.01.2020", "1.2.2020", "24.12.21", "6.5.22"], id="with points"),
        pytest.param(["01/31/2020", "02/01/2020", None, "05/06/2022"], id="with slashes"),
        pytest.param(
            ["2020-01-31 10:00", "2020-02-01 11:30", "2021-12-24T08:15", None], id="times"
        ),
        pytest.param(list(pd.date_range("2020-01-31", periods=4)), id="dates of Parquet"),
    ],
)
def test_dates_are_no_categories(tmp_path: Path, texts: list[object]) -> None:
    table().assign(seen=pd.Series(texts * 10)).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ColumnError, match=r"'seen' .* dates.*leave it out with --drop 'seen'"):
        read_table(tmp_path / "data.parquet", ROLES)
    kept = read_table(tmp_path / "data.parquet", Roles("site", "label", drop=("seen",)))
    assert kept.sites[0].x.shape == read_table(written(table(), tmp_path), ROLES).sites[0].x.shape


def test_free_text_is_no_category_and_not_shown(tmp_path: Path) -> None:
    frame = table().assign(note=[f"Mrs Smith, visit {k}" for k in range(40)])
    with pytest.raises(ColumnError, match=r"'note' .* free text .*\(40 different") as refusal:
        read_table(written(frame, tmp_path), ROLES)
    assert "Smith" not in str(refusal.value)


def test_a_text_of_blanks_is_missing_however_it_is_kept(tmp_path: Path) -> None:
    frame = table().assign(ward=["a", " ", "b", "", "c"] * 8)
    frame.to_parquet(tmp_path / "data.parquet")
    kept, text = read_frame(tmp_path / "data.parquet"), read_frame(written(frame, tmp_path))
    assert kept["ward"].isna().tolist() == text["ward"].isna().tolist() == [0, 1, 0, 1, 0] * 8
    frame["label"] = ["ill", "", "well", "well"] * 10
    frame.to_parquet(tmp_path / "data.parquet")
    with pytest.raises(LabelError, match="empty in 10 rows"):
        read_table(tmp_path / "data.parquet", ROLES)


def test_a_patient_without_a_name_is_refused(tmp_path: Path) -> None:
    table().assign(who=["p", ""] * 20).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ColumnError, match=r"'who' .* empty cells"):
        read_table(tmp_path / "data.parquet", Roles("site", "label", "who"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("site,label,dose,dose\nnorth,0,1,2\nsouth,1,2,3\n")
    with pytest.raises(ColumnError, match="two columns 'dose'"):
        read_frame(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_with_wrong_bytes_is_read_or_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data.{ending}"
    table().to_csv(path, index=False) if ending == "csv" else table().to_parquet(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole[: rng.integers(len(whole)) + 1])
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(DataFileError, ColumnError):
            assert len(read_frame(path))


def features(study: Study, site: int) -> np.ndarray:
    """Return the features that a network of this site sees."""
    one = study.sites[site]
    learns = np.ones((1, len(one.y)), dtype=bool)
    learns[0, ::3] = False
    return np.array(standardised(one.x, study.own_scale, learns))


def test_changing_one_sites_rows_changes_no_other_sites_features(tmp_path: Path) -> None:
    frame = table()
    before = read_table(written(frame, tmp_path), ROLES)
    other = frame.copy()
    north = other["site"] == "north"
    other.loc[north, "dose"] = 1000 * other.loc[north, "dose"] + 7
    other.loc[north, "ward"] = "a"
    after = read_table(written(other, tmp_path), ROLES)
    assert not np.allclose(before.sites[0].x, after.sites[0].x)
    np.testing.assert_array_equal(features(before, 1), features(after, 1))


def test_the_embedded_features_come_from_constants_alone() -> None:
    study = embedded_study()
    learns = np.ones((1, len(study.sites[0].y)), dtype=bool)
    fewer = learns.copy()
    fewer[0, :200] = False
    x = study.sites[0].x
    np.testing.assert_array_equal(standardised(x, None, learns), standardised(x, None, fewer))


def test_a_test_row_has_no_say_in_how_rows_are_scaled() -> None:
    x = made_rows("a", 30, 0).x
    learns = np.ones((1, 30), dtype=bool)
    learns[0, 0] = False
    changed = x.copy()
    changed[0] = 1e6
    own_scale = np.ones(4, dtype=bool)
    a, b = (standardised(v, own_scale, learns)[0, 1:] for v in (x, changed))
    np.testing.assert_array_equal(a, b)
    assert np.abs(standardised(changed, own_scale, learns)).max() <= 6


def test_missing_numbers_stand_at_the_centre() -> None:
    x = np.array([[1.0], [3.0], [np.nan]], dtype=np.float32)
    scaled = standardised(x, np.array([True]), np.ones((1, 3), dtype=bool))
    np.testing.assert_allclose(scaled[0, :, 0], [-1, 1, 0])


def test_every_row_is_tested_once_and_no_patient_is_divided() -> None:
    y = np.repeat(np.arange(60) % 2, 2)
    patient = np.repeat(np.arange(60), 2)
    splits = repeated_splits(y, patient, folds=5, inner_folds=3, train_rows=None, seed=1)
    test, fold = splits.test.numpy(), splits.crossfit.fold.numpy()
    assert (test.sum(0) == 1).all()
    assert (fold[test] == -1).all()
    for values in (test, fold):
        assert (values[:, ::2] == values[:, 1::2]).all()


def test_few_labelled_rows_are_a_stratified_draw_with_two_of_each_class() -> None:
    y = np.array([0] * 90 + [1] * 10)
    drawn = draw_rows(y, np.arange(100), 10, np.random.default_rng(0))
    assert np.bincount(y[drawn]).tolist() == [8, 2]
    drawn = draw_rows(y, np.arange(100), 40, np.random.default_rng(0))
    assert np.bincount(y[drawn]).tolist() == [36, 4]
    assert len(draw_rows(y, np.arange(100), 500, np.random.default_rng(0))) == 100


def test_images_and_tables_are_read_from_arrays(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    y = np.arange(40) % 2
    np.savez(path, x=x, y=y, site=np.repeat([0, 1], 20), site_names=np.array(["north", "south"]))
    study = read_arrays(path)
    assert [s.name for s in study.sites] == ["north", "south"]
    assert study.sites[0].x.shape == (20, 1, 8, 8)
    assert study.kind == "image"
    assert -1 <= study.sites[0].x.min() < study.sites[0].x.max() <= 1

    numbers = np.random.default_rng(0).normal(size=(40, 3))
    numbers[0, 1] = np.nan
    np.savez(path, x=numbers, y=y[:, None], site=np.repeat(["n", "s"], 20), patient=np.arange(40),
             class_names=np.array(["well", "ill"]))  # fmt: skip
    study = read_arrays(path)
    assert study.sites[0].x.shape == (20, 4)  # one flag for the column with a gap
    assert study.classes == ("well", "ill")
    assert study.has_patients


SCHEMA = """
title = "t"
task = "t"
site = "site"
label = "label"
classes = ["no", "yes"]
[columns]
dose = { centre = 0, scale = 1 }
ward = { levels = ["a", "b", "c"] }
"""


def test_a_schema_vouches_for_the_features(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(SCHEMA)
    study = read_with_schema(written(table(), tmp_path), Schema.load(path))
    assert study.own_scale is None
    assert study.sites[0].x.shape[1] == 4
    assert study.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('title = "t"', "", id="title missing"),
        pytest.param("scale = 1", "scale = 0", id="scale of zero"),
        pytest.param("centre = 0, scale = 1", "centre = 0", id="no scale"),
        pytest.param("[columns]", "colour = 1\n[columns]", id="unknown key"),
        pytest.param("[columns]", "[columns", id="not TOML"),
    ],
)
def test_a_malformed_schema_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(SCHEMA.replace(old, new))
    with pytest.raises(SchemaError, match=r"schema\.toml"):
        Schema.load(path)
