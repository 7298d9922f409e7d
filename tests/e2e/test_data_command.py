"""``dflmoe data`` as a user types it: before any site learns, and before any federation is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.security import CHARTER
from typer.testing import CliRunner, Result

from dflmoe.cli.main import app
from dflmoe.data.declared import Declared
from dflmoe.errors import (
    DataFileError,
    EnvelopeError,
    OptionError,
    OutputError,
    SchemaError,
    SettingsError,
    UnsoundError,
)
from dflmoe.node.home import Home
from dflmoe.wire.manifest import now

pytestmark = pytest.mark.e2e


def dflmoe(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in ("data", *arguments)])


def typed(*arguments: object) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "dflmoe.cli.main", "data", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def films(folder: Path, *, patients: bool = True, series: bool = False) -> Path:
    """Write arrays of small pictures or recordings; the ill ones are brighter."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    shape = (2, 64) if series else (1, 16, 16)
    x = rng.normal(size=(40, *shape)) + 4 * y.reshape(-1, *[1] * len(shape))
    named = {"patient": np.array([f"secret-{k}" for k in range(40)])} if patients else {}
    path = folder / "films.npz"
    np.savez(path, x=x.astype(np.float32), y=y, **named)  # type: ignore[arg-type]  # its stub
    return path


def cohort(folder: Path, name: str, **columns: object) -> Path:
    rng = np.random.default_rng(1)
    ill = np.arange(40) % 2
    frame = pd.DataFrame({"dose": rng.normal(size=40) + 4 * ill, "died": ill, "id": range(40)})
    path = folder / f"{name}.csv"
    frame.assign(**columns).to_csv(path, index=False)  # type: ignore[arg-type]  # a column's values
    return path


def test_sound_data_end_with_code_0_a_page_that_needs_nothing_and_a_declaration(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    done = typed("check", films(tmp_path), "--out", out)
    assert done.returncode == 0, done.stderr
    assert "label hints" in done.stdout
    page = (out / "check.html").read_text()
    assert "stays here" in page
    assert page.count("data:image/png;base64,") == 12  # six of each class
    assert not [word for word in ("http", "<script", "secret-") if word in page]
    assert Declared.load(out / "declared.json").shape == (1, 16, 16)


def test_recordings_are_drawn_as_lines(tmp_path: Path) -> None:
    done = dflmoe("check", films(tmp_path, series=True), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/check.html").read_text().count("<svg") == 12


def test_what_fails_is_named_and_ends_with_the_doctors_code(tmp_path: Path) -> None:
    path = cohort(tmp_path, "wards", died=np.arange(40) < 2)
    done = typed("check", path, "--label", "died", "--patient-column", "id", "--json")
    assert done.returncode == UnsoundError.exit_code
    assert done.stderr.strip().endswith("mend rows")
    found = json.loads(done.stdout)
    assert {one["check"]: one["verdict"] for one in found["findings"]}["rows"] == "failed"
    assert found["tables"]["classes"]["rows"][1][:2] == ["True", 2]


def test_a_site_is_checked_by_its_settings_and_options_count_more(tmp_path: Path) -> None:
    home = Home.made(tmp_path / "home", "ann", (), now())
    films(home.folder)
    settings = home.folder / "site.toml"
    settings.write_text('[data]\npath = "films.npz"\nclasses = ["well", "ill"]\n')
    told = json.loads(dflmoe("check", "--home", home.folder, "--json").stdout)
    assert told["name"] == "ann"
    assert told["declared"]["classes"] == ["well", "ill"]
    cohort(home.folder, "cohort")
    settings.write_text('[data]\npath = "cohort.csv"\n')
    assert isinstance(dflmoe("check", settings).exception, UnsoundError)
    assert dflmoe("check", settings, "--label", "died", "--patient-column", "id").exit_code == 0


def test_patients_are_named_only_if_asked(tmp_path: Path) -> None:
    copied = np.repeat(np.random.default_rng(0).normal(size=20), 2)
    ids = [f"secret-{k}" for k in range(40)]
    path = cohort(tmp_path, "wards", dose=copied, id=ids)
    call = ["check", path, "--label", "died", "--patient-column", "id", "--json"]
    assert "secret" not in dflmoe(*call).stdout
    assert "secret-3" in dflmoe(*call, "--show-patients").stdout


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        pytest.param(["check", "nowhere"], DataFileError, "not there", id="no data"),
        pytest.param(["check", "--home", "nowhere"], SettingsError, "cannot be read", id="no site"),
        pytest.param(["compare", "one.json"], OptionError, "two", id="one declaration"),
        pytest.param(["compare", "no.json", "no.json"], SchemaError, "no.json", id="none"),
        pytest.param(["compare", "one.json", "--charter", "no.toml"], EnvelopeError, "no.toml",
                     id="no charter"),
        pytest.param(["compare", "one.json", "--charter", "one.json"], EnvelopeError, "charter",
                     id="another document"),
        pytest.param(["check", "rows.npz", "--out", "one.json/out"], OutputError, "one.json",
                     id="no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[Exception],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    films(tmp_path).rename("rows.npz")
    Path("one.json").write_text(Declared(name="ann", kind="table").model_dump_json())
    result = dflmoe(*arguments)
    assert isinstance(result.exception, error)
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)


def test_declarations_are_compared_with_each_other_and_with_a_charter(tmp_path: Path) -> None:
    declared = []
    for name, column in (("ann", "dose"), ("bob", "dose"), ("eve", "mg")):
        path = cohort(tmp_path, name)
        pd.read_csv(path).rename(columns={"dose": column}).to_csv(path, index=False)
        out = tmp_path / f"{name}-out"
        call = ["check", path, "--label", "died", "--patient-column", "id", "--out", out]
        assert dflmoe(*call).exit_code == 0
        declared.append(out / "declared.json")
    same = dflmoe("compare", *declared[:2])
    assert same.exit_code == 0
    assert "fit" in same.stdout
    done = typed("compare", *declared)
    assert done.returncode == SchemaError.exit_code
    assert "schema" in done.stdout
    (found,) = json.loads(dflmoe("compare", *declared, "--json").stdout)
    assert found["found"]["eve"] == "lacks dose"
    charter = tmp_path / "charter.json"
    charter.write_bytes(CHARTER.model_copy(update={"kind": "image"}).signed())
    other = dflmoe("compare", declared[0], "--charter", charter)
    assert isinstance(other.exception, SchemaError)
    assert "kind" in str(other.exception)


def test_a_charter_as_its_founder_writes_it_is_compared(tmp_path: Path) -> None:
    charter = tmp_path / "charter.toml"
    charter.write_text(
        'name = "Doses"\ntask = "death"\nclasses = ["0", "1"]\nkind = "table"\nshape = [1]\n'
        'network = "plain"\ncolumns = """\ntitle = "Doses"\ntask = "death"\nsite = "hospital"\n'
        'label = "died"\nclasses = ["0", "1"]\n[columns]\ndose = { centre = 0, scale = 1 }\n"""\n'
    )
    cohort(tmp_path, "ann")
    out = tmp_path / "out"
    call = ["check", tmp_path / "ann.csv", "--label", "died", "--patient-column", "id"]
    assert dflmoe(*call, "--out", out).exit_code == 0
    done = dflmoe("compare", out / "declared.json", "--charter", charter)
    assert "meaning of columns" in str(done.exception)
    schema = tmp_path / "schema.toml"
    schema.write_text(
        'title = "Doses"\ntask = "death"\nsite = "hospital"\nlabel = "died"\n'
        'classes = ["0", "1"]\n[columns]\ndose = { centre = 0, scale = 1 }\n'
    )
    settings = tmp_path / "site.toml"
    settings.write_text('[data]\npath = "ann.csv"\nschema = "schema.toml"\n')
    assert dflmoe("check", settings, "--out", out).exit_code == 0
    assert dflmoe("compare", out / "declared.json", "--charter", charter).exit_code == 0
