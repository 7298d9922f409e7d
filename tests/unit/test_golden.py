"""What earlier versions wrote is read by this one, and says what it said."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.golden.reading import DIGESTED, GOLDEN, READERS, SIGNED

from dflmoe import __version__
from dflmoe.node.node import RoundSummary
from dflmoe.node.store import BLOBS, DATABASE, MIGRATIONS, Store
from dflmoe.security.audit import broken
from dflmoe.simulation.group import Seat

VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if path.name[0].isdigit())
FILES = [path for version in VERSIONS for path in sorted((GOLDEN / version).glob("*.*"))]


def named(path: Path) -> str:
    return str(path.relative_to(GOLDEN))


def test_every_document_of_this_version_is_kept_for_the_next() -> None:
    kept = {path.name for path in (GOLDEN / __version__).glob("*.*")}
    assert kept == SIGNED.keys() | READERS.keys()


def says_all(now: Any, then: Any) -> bool:  # noqa: ANN401 - parsed JSON
    """Return whether every field that was written is still there with its value."""
    if isinstance(then, dict):
        return all(key in now and says_all(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return len(now) == len(then) and all(map(says_all, now, then))
    return bool(now == then)


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_document_of_an_earlier_version_says_what_it_said(file: Path) -> None:
    raw = file.read_bytes()
    if file.name in READERS:
        assert READERS[file.name](file) is not None
        return
    again = SIGNED[file.name].read(raw, "it").signed()
    assert says_all(json.loads(again), json.loads(raw))
    assert again == raw or file.name not in DIGESTED


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_an_earlier_version_keeps_all_that_it_held(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(GOLDEN / version / "store", folder)
    with closing(Store(folder)) as store:
        assert store.check() == []
        assert broken(store.entries(), "ann") == []
        assert store.heads()["bob"].seq == 7
        assert store.convicted() == {"cleo"}
        assert store.last_lent() == store.heads()["bob"].blob
        assert RoundSummary.read(store.rounds()[0].encode(), "it").share["bob"] == 0.3
        assert Seat.of_bytes(store.state() or b"").state.round == 3
        assert [refusal.reason for refusal in store.refusals()] == ["envelope"]
        assert sum(store.traffic().values()) == 100


def schema(database: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(database)) as db:
        return db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def rows(db: sqlite3.Connection, tables: list[str]) -> dict[str, list[tuple[object, ...]]]:
    return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # noqa: S608


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_store_of_every_schema_is_brought_to_the_newest_with_its_rows(
    version: int, tmp_path: Path
) -> None:
    values = {"TEXT": "x", "INTEGER": 1, "BLOB": b"x", "REAL": 0.5}
    old, new = tmp_path / "old", tmp_path / "new"
    (old / BLOBS).mkdir(parents=True)
    with closing(sqlite3.connect(old / DATABASE)) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        tables = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = db.execute(f"PRAGMA table_info({table})").fetchall()
            row = [values[kind] for _, _, kind, *_ in columns]
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
        before = rows(db, tables)
    for folder in (old, new):
        Store(folder).close()
    with closing(sqlite3.connect(old / DATABASE)) as db:
        after = rows(db, tables)
        for table, held in before.items():  # columns are added at the end, and have a default
            assert [row[: len(old)] for row, old in zip(after[table], held, strict=True)] == held
    assert schema(old / DATABASE) == schema(new / DATABASE)
