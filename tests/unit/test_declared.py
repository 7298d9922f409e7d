"""What a site declares holds no number of its rows, and what does not fit is told with a remedy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflmoe.data.check import checked
from dflmoe.data.compared import Difference, compared
from dflmoe.data.declared import MOST_BYTES, Declared
from dflmoe.data.schema import Column
from dflmoe.data.source import Source
from dflmoe.errors import SchemaError

AGE, SEX = Column(centre=50, scale=10), Column(levels=(0, 1))
SCHEMA = """
title = "Hearts"
task = "disease"
site = "hospital"
label = "ill"
classes = ["no", "yes"]
[columns]
age = { centre = 50, scale = 10 }
sex = { levels = [0, 1] }
"""


def scan(name: str, **changed: Any) -> Declared:  # noqa: ANN401 - a field
    whole = {"kind": "image", "classes": ("no", "yes"), "shape": (1, 32, 32), "channels": 1,
             "what": "CT", "range": (-160.0, 240.0)}  # fmt: skip
    return Declared(name=name, **{**whole, **changed})


def table(name: str, **changed: Any) -> Declared:  # noqa: ANN401 - a field
    columns = {"age": AGE, "sex": SEX}
    whole = {"kind": "table", "classes": ("no", "yes"), "shape": (2,), "columns": columns}
    return Declared(name=name, **{**whole, **changed})


def told(differences: tuple[Difference, ...]) -> dict[str, Difference]:
    return {one.what: one for one in differences}


# --- what is declared ---


def frame(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ages = rng.integers(20, 90, 40) + rng.random(40)
    return pd.DataFrame({"age": ages, "sex": rng.integers(0, 2, 40), "ill": np.arange(40) % 2})


def declared(folder: Path, rows: pd.DataFrame, **settings: Any) -> Declared:  # noqa: ANN401
    path = folder / "rows.csv"
    rows.to_csv(path, index=False)
    made = checked(Source(path=path, label="ill", **settings), "ann").check.declared
    assert made is not None
    return made


def test_other_rows_of_the_same_columns_declare_the_same(tmp_path: Path) -> None:
    assert declared(tmp_path, frame(0)) == declared(tmp_path, frame(1).tail(30))


def test_columns_are_declared_as_their_schema_says_or_by_name_alone(tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA)
    described = declared(tmp_path, frame(0), schema=schema)
    assert described.columns == {"age": AGE, "sex": SEX}
    assert (described.shape, described.classes) == ((2,), ("no", "yes"))
    bare = declared(tmp_path, frame(0))
    assert bare.columns == {"age": None, "sex": None}
    assert bare.shape is None


def test_the_patient_and_the_label_are_no_columns(tmp_path: Path) -> None:
    named = declared(tmp_path, frame(0).assign(id=np.arange(40)), patient="id")
    assert named.columns is not None
    assert [*named.columns] == ["age", "sex"]


def test_names_that_nobody_can_print_are_not_declared(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    frame(0).rename(columns={"age": "a" * 300}).to_csv(path, index=False)
    check = checked(Source(path=path, label="ill"), "ann").check
    assert check.declared is None
    assert "declared" in {one.check for one in check.findings if one.verdict == "warning"}


def test_a_declaration_comes_back_as_it_was(tmp_path: Path) -> None:
    for one in (scan("ann"), table("bob"), scan("eve", what=None, range=None, shape=None)):
        path = tmp_path / "declared.json"
        path.write_text(one.model_dump_json())
        assert Declared.load(path) == one


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not json", id="not JSON"),
        pytest.param(b"[1]", id="a list"),
        pytest.param(b"{}", id="nothing in it"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b" " * (MOST_BYTES + 1), id="large"),
        pytest.param(scan("ann").model_dump_json().replace("-1", "-2").encode(), id="newer"),
        pytest.param(json.dumps({**json.loads(scan("a").model_dump_json()), "rows": 7}).encode(),
                     id="more than is declared"),
        pytest.param(scan("ann").model_dump_json().replace("CT", "\\u001b[2J").encode(),
                     id="a command to the terminal"),
        pytest.param(scan("ann").model_dump_json().replace("240.0", "NaN").encode(), id="NaN"),
    ],
)  # fmt: skip
def test_what_is_no_declaration_is_one_sentence(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "declared.json"
    path.write_bytes(payload)
    with pytest.raises(SchemaError, match=r"declared\.json") as caught:
        Declared.load(path)
    assert "\n" not in str(caught.value)


def test_a_declaration_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        Declared.load(tmp_path / "no.json")


# --- what differs ---


@given(st.permutations(["ann", "bob", "eve"]), st.sampled_from([scan, table]))
def test_the_same_fits_in_any_order(names: list[str], made: Any) -> None:  # noqa: ANN401
    assert compared([made(name) for name in names]) == ()
    assert compared([made(name) for name in names], made("charter", what=None)) == ()


@pytest.mark.parametrize(
    ("one", "other", "what", "mend"),
    [
        pytest.param(scan("a"), table("b"), "kind", "same sort", id="kind"),
        pytest.param(
            scan("a"), scan("b", classes=("yes", "no")), "classes", '["no", "yes"]', id="order"
        ),
        pytest.param(scan("a"), scan("b", classes=("no", "yes", "odd")), "classes", "odd", id="3"),
        pytest.param(scan("a"), scan("b", what="MR"), "what rows are", "one kind", id="MR"),
        pytest.param(
            scan("a"), scan("b", channels=3, shape=(3, 32, 32)), "channels", "channels", id="colour"
        ),
        pytest.param(scan("a"), scan("b", shape=(1, 64, 64)), "size", "size", id="size"),
        pytest.param(scan("a"), scan("b", shape=None, channels=None), "size", "size", id="none"),
        pytest.param(scan("a"), scan("b", range=None), "range", "range", id="range"),
        pytest.param(table("a"), table("b", columns={"age": AGE}), "columns", "schema", id="less"),
        pytest.param(
            table("a"), table("b", columns={"sex": SEX, "age": AGE}), "order of columns", "schema",
            id="order of columns",
        ),
        pytest.param(
            table("a"), table("b", columns={"age": None, "sex": None}), "meaning of columns",
            "schema", id="no schema",
        ),
        pytest.param(
            table("a"), table("b", columns={"age": Column(centre=60, scale=10), "sex": SEX}),
            "column age", "'age'", id="centre",
        ),
    ],
)  # fmt: skip
def test_what_differs_is_told_of_each_site_with_a_remedy(
    one: Declared, other: Declared, what: str, mend: str
) -> None:
    difference = told(compared([one, other]))[what]
    assert set(difference.found) == {"a", "b"}
    assert len(set(difference.found.values())) == 2
    assert mend in difference.mend
    assert compared([one, one, other])


def test_a_site_may_lack_a_class_of_the_charter_and_have_no_other() -> None:
    charter = scan("charter", classes=("no", "yes", "odd"), what=None, range=None)
    assert compared([scan("ann"), scan("bob", classes=("odd", "no"))], charter) == ()
    assert compared([scan("ann", classes=("0", "1", "2"))], charter) == ()
    found = told(compared([scan("ann", classes=("no", "perhaps"))], charter))
    assert '["no", "yes", "odd"]' in found["classes"].mend


def test_a_charter_says_what_size_to_bring_rows_to() -> None:
    charter = scan("charter", shape=(1, 28, 28), what=None, range=None)
    assert "[28, 28]" in told(compared([scan("ann")], charter))["size"].mend


def test_sites_of_one_name_are_told_apart() -> None:
    difference = told(compared([scan("ann"), scan("ann", what="MR"), scan("charter")]))
    assert set(difference["what rows are"].found) == {"ann", "ann (2)", "charter"}
    with_charter = told(compared([scan("charter", shape=(1, 8, 8))], scan("charter")))
    assert set(with_charter["size"].found) == {"charter", "charter (site)"}
