"""From a pilot to predictions and exports, as a user types it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

import dflmoe
from dflmoe.data.study import SiteRows, Study
from dflmoe.model.export import export
from dflmoe.model.model import Model
from dflmoe.pilot.models import models
from dflmoe.pilot.plan import Options

pytestmark = pytest.mark.e2e

RUN = [sys.executable, "-m", "dflmoe.cli.main"]
ROWS = 1000


def types(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RUN, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600
    )


def cohort(path: Path, rows: int = 60) -> Path:
    rng = np.random.default_rng(0)
    ill = np.arange(3 * rows) % 2
    frame = pd.DataFrame(
        {
            "id": np.arange(3 * rows),
            "hospital": np.repeat(["North", "South", "St. Olav"], rows),
            "age": rng.normal(60, 10, 3 * rows) + 12 * ill,
            "smokes": np.where(rng.random(3 * rows) < 0.3 + 0.3 * ill, "yes", "no"),
            "died": ill,
        }
    )
    frame.to_csv(path, index=False)
    return path


def test_a_table_becomes_models_predictions_and_exports(tmp_path: Path) -> None:
    table, out = cohort(tmp_path / "cohort.csv"), tmp_path / "out"
    roles = ["--site-column", "hospital", "--label", "died", "--drop", "id"]
    done = types("pilot", table, *roles, "--repeats", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    model = out / "models" / "st-olav.safetensors"
    assert str(out / "models") in done.stdout
    said = tmp_path / "said.csv"
    new = types("predict", table, "--model", model, "--keep", "id", "--below", "0.6", "--out", said)
    assert new.returncode == 0, new.stderr
    rows = list(csv.DictReader(said.read_text().splitlines()))
    assert [row["id"] for row in rows] == [str(k) for k in range(180)]
    sure = [max(float(row["p 0"]), float(row["p 1"])) >= 0.6 for row in rows]
    assert [row["likely"] != "abstains" for row in rows] == sure
    assert any(sure)
    assert "North p 1" in rows[0] or "St. Olav p 1" in rows[0]
    for name in ("model.onnx", "model.pt2"):
        exported = types("export", "--model", model, "--out", tmp_path / name)
        assert exported.returncode == 0, exported.stderr
    assert "St. Olav" in (tmp_path / "MODELCARD.md").read_text()
    facts = json.loads(types("card", "--model", model, "--json").stdout)
    assert facts["site"] == "St. Olav"
    told = types("predict", table, "--model", model, "--json")
    assert len(json.loads(told.stdout)["rows"]) == 180
    loaded = dflmoe.load(model)
    assert loaded.told.columns is not None
    assert set(loaded.told.columns.columns) == {"age", "smokes"}


BAD = {
    "a column is gone": ("age,died\n50,1\n", 6, "smokes"),
    "a level that nobody knows": ("age,smokes\n50,perhaps\n", 6, "perhaps"),
    "a date": ("age,smokes\n2020-01-01,yes\n", 6, "not a number"),
    "no rows": ("age,smokes\n", 4, "no rows"),
}


def test_rows_that_a_model_cannot_take_are_refused_in_a_sentence(tmp_path: Path) -> None:
    table = cohort(tmp_path / "cohort.csv")
    rows = pd.read_csv(table).drop(columns="id")
    path = tmp_path / "model.safetensors"
    from dflmoe.data.tables import Roles, read_table  # noqa: PLC0415

    study = read_table(table, Roles("hospital", "died", drop=("id",)), frame=rows.assign(id=0))
    models(study, Options())["North"].save(path)
    for text, code, said in BAD.values():
        new = tmp_path / "new.csv"
        new.write_text(text)
        done = types("predict", new, "--model", path)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    wrong = types("predict", table, "--model", table)
    assert wrong.returncode == 35
    assert types("predict", table, "--model", path, "--below", "2").returncode == 10
    assert types("export", "--model", path, "--out", tmp_path / "model.h5").returncode == 10
    assert types("predict", table, "--home", tmp_path / "nobody").returncode == 28


def study(shape: tuple[int, ...], kind: str) -> Study:
    """Return two sites whose class shows in the mean of a row."""
    rng = np.random.default_rng(1)
    sites = []
    for name in ("north", "south"):
        y = (np.arange(60) % 2).astype(np.int64)
        x = rng.normal(size=(60, *shape)).astype(np.float32)
        x += (2 * y - 1).reshape(-1, *[1] * len(shape)).astype(np.float32)
        sites.append(SiteRows(name, x, y, np.arange(60)))
    return Study("made", "which", ("low", "high"), tuple(sites), kind)  # type: ignore[arg-type]


KINDS = {
    "table": ((7,), "table", Options()),
    "images": ((1, 30, 21), "image", Options()),
    "images, residual network": ((3, 32, 32), "image", Options(network="resnet8")),
    "series": ((2, 200), "series", Options()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_mixture_says_what_the_model_says(tmp_path: Path, kind: str) -> None:
    shape, rows, options = KINDS[kind]
    made = models(study(shape, rows), options)["north"]
    forced = Model(
        made.told.model_copy(update={"serves": "mixture"}),
        made.served,
    )
    forced.served.serves = "mixture"
    new = np.random.default_rng(2).normal(size=(ROWS, *shape)).astype(np.float32)
    said = forced.predict(new)
    assert len(said.opinions) >= 2
    path = tmp_path / "model.onnx"
    export(forced, path)
    session = onnxruntime.InferenceSession(path)
    probs, opinions = session.run(None, {"rows": new})
    np.testing.assert_allclose(probs, said.probs, atol=1e-5)
    for k, expert in enumerate(said.opinions.values()):
        np.testing.assert_allclose(opinions[:, k], expert, atol=1e-5)
    told = json.loads(session.get_modelmeta().custom_metadata_map["dflmoe"])
    assert told["classes"] == ["low", "high"]
    assert told["experts"] == forced.served.names
    program = tmp_path / "model.pt2"
    export(forced, program)
    found = torch.export.load(program).module()(torch.from_numpy(new))
    np.testing.assert_allclose(found[0].numpy(), said.probs, atol=1e-5)
