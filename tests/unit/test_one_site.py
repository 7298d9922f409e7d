"""The rows of one site are read as the charter describes them, or refused with a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dflmoe.data.one_site import read_site, read_unlabelled
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import (
    ColumnError,
    DataFileError,
    DflmoeError,
    LabelError,
    SchemaError,
    SiteError,
)

CLASSES = ("no", "yes")
COLUMNS = """
title = "Hearts"
task = "disease"
site = "hospital"
label = "ill"
patient = "id"
classes = ["no", "yes"]
[columns]
age = { centre = 50, scale = 10 }
sex = { levels = [0, 1] }
"""


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"age": [40, 50, 60, 70], "sex": [0, 1, 0, 1], "ill": [0, 1, 1, 0], "id": [7, 7, 8, 9]}
    )


def read(path: Path, columns: str | None = COLUMNS, shape: tuple[int, ...] = (2,)) -> SiteRows:
    return read_site(Source(path=path), "ann", classes=CLASSES, shape=shape, columns=columns)


def table(folder: Path, **changed: Any) -> Path:  # noqa: ANN401 - a column
    path = folder / "rows.csv"
    frame().assign(**changed).to_csv(path, index=False)
    return path


def arrays(folder: Path, **changed: object) -> Path:
    whole = {"x": np.zeros((4, 2), np.float32), "y": np.array([0, 1, 1, 0])}
    given = {name: value for name, value in {**whole, **changed}.items() if value is not None}
    path = folder / "rows.npz"
    np.savez(path, **given)  # type: ignore[arg-type]  # its stub takes no such mapping
    return path


def test_a_table_needs_no_site_column_at_its_site(tmp_path: Path) -> None:
    rows = read(table(tmp_path))
    np.testing.assert_allclose(rows.x, [[-1, -1], [0, 1], [1, -1], [2, 1]])
    assert rows.y.tolist() == [0, 1, 1, 0]
    assert rows.patient.tolist() == [0, 0, 1, 2]


def test_of_a_table_of_several_sites_only_the_own_rows_are_read(tmp_path: Path) -> None:
    rows = read(table(tmp_path, hospital=["ann", "bob", "ann", "ann"]))
    assert rows.y.tolist() == [0, 1, 0]


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = read(arrays(tmp_path, patient=np.array([5, 5, 6, 6])), columns=None)
    assert rows.x.dtype == np.float32
    assert rows.patient.tolist() == [0, 0, 1, 1]
    assert len(np.unique(read(arrays(tmp_path), columns=None).patient)) == 4


def test_rows_to_predict_need_no_label(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    frame().drop(columns=["ill", "id"]).to_csv(path, index=False)
    assert read_unlabelled(path, shape=(2,), columns=COLUMNS).shape == (4, 2)
    only_x = arrays(tmp_path, y=None)
    assert read_unlabelled(only_x, shape=(2,), columns=None).shape == (4, 2)
    with pytest.raises(SchemaError, match="says"):
        read_unlabelled(path, shape=(3,), columns=COLUMNS)


@pytest.mark.parametrize(
    ("made", "error", "says"),
    [
        pytest.param(lambda f: f / "no.csv", DataFileError, "not there", id="missing"),
        pytest.param(
            lambda f: table(f, hospital="bob"), SiteError, "none of ann", id="another site"
        ),
        pytest.param(lambda f: table(f, ill=[0, 1, 2, 0]), LabelError, "classes", id="a class"),
        pytest.param(lambda f: table(f, sex=3), ColumnError, "levels", id="a level"),
        pytest.param(lambda f: arrays(f, x=None), ColumnError, "'x'", id="no x"),
        pytest.param(lambda f: arrays(f, y=None), ColumnError, "'y'", id="no y"),
        pytest.param(
            lambda f: arrays(f, x=np.zeros((4, 3))), DataFileError, "charter says", id="a shape"
        ),
        pytest.param(
            lambda f: arrays(f, x=np.full((4, 2), np.nan)), DataFileError, "NaN", id="NaN"
        ),
        pytest.param(
            lambda f: arrays(f, y=np.array([0, 1, 2, 0])), LabelError, "0 to 1", id="a label"
        ),
        pytest.param(
            lambda f: arrays(f, y=np.array([0.0, 1, 1, 0])), LabelError, "whole", id="a fraction"
        ),
        pytest.param(
            lambda f: arrays(f, patient=np.arange(3)), DataFileError, "3 patients", id="patients"
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, made: Callable[[Path], Path], error: type[DflmoeError], says: str
) -> None:
    with pytest.raises(error, match=says):
        read(made(tmp_path))


@pytest.mark.parametrize(
    ("columns", "shape", "says"),
    [
        pytest.param(None, (2,), "names no columns", id="none"),
        pytest.param("title =", (2,), "malformed", id="no TOML"),
        pytest.param('title = "x"', (2,), "malformed", id="half"),
        pytest.param(COLUMNS, (5,), "make rows of", id="another shape"),
        pytest.param(COLUMNS.replace('["no", "yes"]', '["a", "b"]'), (2,), "other classes", id="c"),
    ],
)
def test_columns_that_contradict_the_charter_are_refused(
    tmp_path: Path, columns: str | None, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(SchemaError, match=says):
        read(table(tmp_path), columns, shape)
