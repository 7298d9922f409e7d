"""A database is asked and never changed; what it cannot answer is told without its password."""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from dflmoe.data.one_site import read_site
from dflmoe.data.source import Source, read_settings
from dflmoe.data.study import SiteRows
from dflmoe.data.tables import asked, frame_of
from dflmoe.errors import (
    ColumnError,
    DataFileError,
    DflmoeError,
    LabelError,
    MissingExtraError,
    SiteError,
)

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
EVERYBODY = "SELECT age, sex, ill, id FROM visits ORDER BY age"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cohort.db"
    frame = pd.DataFrame(
        {
            "age": [40, 50, 60, 70],
            "sex": [0, 1, 0, 1],
            "ill": [0, 1, 1, 0],
            "id": [7, 7, 8, 9],
            "ward": ["a", "", "a", "b"],
        }
    )
    connection = sqlite3.connect(path)
    frame.to_sql("visits", connection, index=False)
    connection.close()
    return path


def source(file: Path, query: str = EVERYBODY) -> Source:
    return Source(path=f"sqlite:///{file}", query=query)


def read(file: Path, query: str = EVERYBODY) -> SiteRows:
    return read_site(source(file, query), "ann", classes=("no", "yes"), shape=(2,), columns=COLUMNS)


def test_rows_of_a_database_are_those_of_its_table(file: Path) -> None:
    rows = read(file)
    np.testing.assert_allclose(rows.x, [[-1, -1], [0, 1], [1, -1], [2, 1]])
    assert rows.y.tolist() == [0, 1, 1, 0]
    assert rows.patient.tolist() == [0, 0, 1, 2]


def test_a_query_chooses_rows_and_names_columns(file: Path) -> None:
    query = "SELECT age, sex, ill, id, 'ann' AS hospital FROM visits WHERE age > 40"
    assert read(file, query).y.tolist() == [1, 1, 0]
    with pytest.raises(SiteError, match="holds rows of bob, and none of ann"):
        read(file, query.replace("'ann'", "'bob'"))


def test_signs_of_a_query_are_taken_as_they_are(file: Path) -> None:
    query = "SELECT age, '10:30 %s :age' AS note FROM visits WHERE ward LIKE '%a%'"
    frame = asked(source(file, query))
    assert frame["age"].tolist() == [40, 60]
    assert frame["note"].tolist() == ["10:30 %s :age"] * 2


def test_nothing_and_an_empty_text_are_missing(file: Path) -> None:
    frame = frame_of(source(file, "SELECT ward, nullif(age, 50) AS age FROM visits ORDER BY id"))
    assert frame["ward"].isna().tolist() == [False, True, False, False]
    assert frame["age"].isna().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "DROP TABLE visits",
        "UPDATE visits SET ill = 1",
        "INSERT INTO visits (age) VALUES (80) RETURNING age",
        "WITH one AS (SELECT 1) DELETE FROM visits",
        "CREATE TABLE more (age)",
        "PRAGMA user_version = 7",
        "VACUUM",
        "SELECT 1; DROP TABLE visits",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'other.db'",
    ],
)
def test_a_query_that_writes_leaves_the_database_as_it_was(
    file: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    before = hashlib.sha256(file.read_bytes()).digest()
    with pytest.raises(DataFileError, match=r"cohort\.db does not answer"):
        asked(source(file, query))
    assert hashlib.sha256(file.read_bytes()).digest() == before
    assert [one.name for one in file.parent.iterdir()] == ["cohort.db"]


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        pytest.param("SELEC age", DataFileError, 'near "SELEC": syntax error', id="no SQL"),
        pytest.param("SELECT * FROM ward", DataFileError, "no such table: ward", id="table"),
        pytest.param("SELECT bmi FROM visits", DataFileError, "no such column: bmi", id="column"),
        pytest.param("", DataFileError, "must begin with SELECT", id="empty"),
        pytest.param(f"{EVERYBODY} LIMIT 0", DataFileError, "returns no rows", id="no rows"),
        pytest.param(
            "SELECT age, sex AS age FROM visits", ColumnError, "two columns 'age'", id="twice"
        ),
        pytest.param(
            "SELECT age, ill, id FROM visits", ColumnError, "cohort.db has no column", id="sex"
        ),
        pytest.param(
            "SELECT age, sex, id, nullif(ill, 0) AS ill FROM visits",
            LabelError, "empty in 2 rows", id="missing labels",
        ),
    ],
)  # fmt: skip
def test_a_query_that_gives_no_rows_of_the_charter_is_refused(
    file: Path, query: str, error: type[DflmoeError], says: str
) -> None:
    with pytest.raises(error, match=says) as refusal:
        read(file, query)
    assert "\n" not in str(refusal.value)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"cohort\.db is not there"):
        asked(source(tmp_path / "cohort.db"))
    assert not list(tmp_path.iterdir())


def test_a_damaged_database_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 15, 99, 4096, 5000, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DataFileError, match=r"cohort\.db does not answer") as refusal:
            asked(source(file))
        assert "\n" not in str(refusal.value)
    file.write_text("age,sex\n40,1\n" * 99)
    with pytest.raises(DataFileError, match="file is not a database"):
        asked(source(file))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://dora:geheim@localhost:1/cohort",
        "postgresql://dora:geheim@localhost:port/cohort",
        "postgresql://dora:ge@heim@localhost",
        "postgresql://dora:ge/heim?@localhost",
        "postgresql://localhost/cohort?user=dora&password=geheim",
        "mysql+pymysql://dora:geheim@localhost/cohort",
        "mssql+pyodbc:///?odbc_connect=UID%3Ddora%3BPWD%3Dgeheim",
        "nowhere://dora:geheim@localhost",
        "sqlite://dora:geheim@localhost/cohort.db",
    ],
)
def test_a_password_is_never_shown(address: str) -> None:
    one = Source(path=address, query="SELECT 1")
    with pytest.raises((DataFileError, MissingExtraError)) as refusal:
        asked(one)
    for text in (str(refusal.value), one.shown, str(one.where)):
        assert "heim" not in text
        assert "dora" not in text


def test_a_column_that_a_server_lacks_is_told_without_its_password() -> None:
    one = Source(path="postgresql://dora:geheim@clinic.example/cohort?sslmode=require", query="x")
    assert one.shown == "postgresql://clinic.example/cohort"
    assert str(one.where) == "cohort"


def test_a_file_of_a_database_is_beside_its_settings(file: Path) -> None:
    settings = file.parent / "site.toml"
    settings.write_text(f'[data]\npath = "sqlite:///cohort.db"\nquery = "{EVERYBODY}"\n')
    assert len(asked(read_settings(settings))) == 4
    settings.write_text(f'[data]\npath = "sqlite:///{file}"\nquery = "{EVERYBODY}"\n')
    assert len(asked(read_settings(settings))) == 4


def test_a_database_needs_a_query_and_nothing_else_has_one(tmp_path: Path) -> None:
    for given in ({"path": "sqlite:///a.db"}, {"path": tmp_path / "a.csv", "query": "SELECT 1"}):
        with pytest.raises(ValidationError, match="asked by a query"):
            Source.model_validate(given)
