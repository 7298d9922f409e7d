"""``dflmoe body`` as a user types it: from a hospital's own weights or rows to a body in use."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.data.pretraining import PATIENTS
from dflmoe.errors import (
    DataFileError,
    DflmoeError,
    NetworkError,
    OptionError,
    SettingsError,
    TrainingError,
)
from dflmoe.networks import build

pytestmark = pytest.mark.e2e

RUN = [sys.executable, "-m", "dflmoe.cli.main"]
SHAPE = (1, 12, 12)
FITS = ["--network", "resnet5", "--shape", "1,12,12"]


def dflmoe(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False)


def table(folder: Path) -> Path:
    rng, label = np.random.default_rng(0), np.arange(48) % 2
    site = np.repeat(["north", "south"], 24)
    path = folder / "data.csv"
    pd.DataFrame({"site": site, "label": label, "dose": rng.normal(size=48) + label}).to_csv(
        path, index=False
    )
    return path


def rows(folder: Path, **more: object) -> Path:
    """Write rows of two hospitals as a pilot reads them."""
    rng = np.random.default_rng(0)
    path = folder / "rows.npz"
    x = rng.integers(0, 256, (48, 12, 12), dtype=np.uint8)
    whole = {"x": x, "y": np.arange(48) % 2, "site": np.repeat(["north", "south"], 24)} | more
    np.savez(path, **{k: v for k, v in whole.items() if v is not None})  # type: ignore[arg-type]  # arrays, whatever they hold
    return path


def test_a_hospitals_own_weights_become_the_body_that_all_begin_with(tmp_path: Path) -> None:
    given, body, out = tmp_path / "model.pt", tmp_path / "body.safetensors", tmp_path / "out"
    own = {n: p.detach() for n, p in build("mlp", (1,), 2).body.named_parameters()}
    network = {f"module.encoder.{name}": p for name, p in own.items()}
    torch.save({"state_dict": {**network, "module.fc.bias": torch.ones(2)}, "epoch": 3}, given)
    pilot = ["pilot", str(table(tmp_path)), "--network", "mlp", "--folds", "2", "--repeats", "1"]

    refused = dflmoe(*pilot, "--public-body", str(given))
    assert refused.returncode == DataFileError.exit_code
    assert f"dflmoe body convert {given}" in refused.stderr

    fits = ["--network", "mlp", "--shape", "1"]
    done = dflmoe("body", "convert", str(given), *fits, "--prefix", "encoder.", "--out", str(body))
    assert done.returncode == 0, done.stderr
    assert "Left out: 'epoch', 'fc.bias'." in done.stdout
    digest = hashlib.sha256(body.read_bytes()).hexdigest()
    assert digest in done.stdout
    assert all(torch.equal(p, own[name]) for name, p in load_file(body).items())

    shown = json.loads(dflmoe("body", "show", str(body), *fits, "--json").stdout)
    assert (shown["sha256"], shown["fits"], shown["faults"]) == (digest, True, "")
    assert {one["name"] for one in shown["tensors"]} == set(own)
    assert shown["numbers"] == sum(p.numel() for p in own.values())

    used = dflmoe(*pilot, "--public-body", str(body), "--out", str(out))
    assert used.returncode == 0, used.stderr
    assert "begins with public weights and stays so" in (out / "report.json").read_text()


def test_a_body_learns_from_a_site_that_has_no_labels_yet(tmp_path: Path) -> None:
    rows(tmp_path, y=None)
    site = tmp_path / "site.toml"
    site.write_text('[data]\npath = "rows.npz"\n')
    files = [tmp_path / f"{name}.safetensors" for name in ("body", "again")]
    for file in files:
        done = dflmoe(
            "body", "pretrain", str(site), "--network", "resnet5", "--steps", "20",
            "--batch", "16", "--seed", "3", "--device", "cpu", "--out", str(file),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Learnt from 48 rows of shape [1, 12, 12], without labels." in done.stdout
        assert "(by chance: 50%)" in done.stdout
        assert PATIENTS in done.stdout
        assert "20 of 20 steps" in done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    shown = dflmoe("body", "show", str(files[0]), *FITS)
    assert re.search(r"fits resnet5 +│ yes", shown.stdout)
    said = json.loads(dflmoe("body", "show", str(files[0]), "--json").stdout)
    assert said["fits"] is None
    assert json.loads(said["origin"])["note"] == PATIENTS


def test_a_file_that_does_not_fit_says_what_and_no_name_in_it_hides_what_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"SHA-256": torch.ones(2, 3)}, path)
    shown = CliRunner().invoke(app, ["body", "show", str(path), *FITS, "--json"])
    said = json.loads(shown.output)
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["fits"] is False
    assert "have no 'stem.conv.weight'" in said["faults"]
    shown = CliRunner().invoke(app, ["body", "show", str(path), *FITS], env={"COLUMNS": "200"})
    assert said["sha256"] in shown.output
    assert "fits resnet5" in shown.output


def test_nothing_in_a_file_steers_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"\x1b[31m[bold]red": torch.ones(1)}, path, {"dflmoe": "\x1b[2J"})
    shown = CliRunner().invoke(app, ["body", "show", str(path)])
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output
    assert "?[31m[bold]red" in shown.output


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["convert", "no.pt"], DataFileError, "not there"),
        (["convert", "w.safetensors", "--network", "resnet5"], OptionError, "go together"),
        (["convert", "w.safetensors", "--shape", "1,12,12"], OptionError, "go together"),
        (["convert", "w.safetensors", *FITS[:3], "1,a"], OptionError, "give numbers"),
        (["convert", "w.safetensors", *FITS[:3], "1,0,2"], OptionError, "1 or more"),
        (["convert", "w.safetensors", *FITS], NetworkError, "have no 'stem.conv.weight'"),
        (["convert", "w.safetensors", "--prefix", "x."], DataFileError, "begin with 'w"),
        (["convert", "w.safetensors", *FITS, "--head-from", "x"], NetworkError, "no layer 'x'"),
        (["convert", "w.safetensors", *FITS, "--classes", "0"], NetworkError, "1 or more"),
        (["show", "no.safetensors"], DataFileError, "cannot be read"),
        (["show", "rows.npz"], DataFileError, "may hold code"),
        (["pretrain", "rows.npz", "--network", "no"], NetworkError, "no network 'no'"),
        (["pretrain", "rows.npz", "--network", "cnn1d"], NetworkError, "takes inputs"),
        (["pretrain", "no.npz", "--network", "resnet5"], DataFileError, "not there"),
        (["pretrain", "no.toml", "--network", "resnet5"], SettingsError, "cannot be read"),
        (["pretrain", "flat.npz", "--network", "resnet5"], TrainingError, "same of every row"),
        (["pretrain", "rows.npz", "--network", "resnet5", "--steps", "0"], OptionError, "1 or"),
        (["pretrain", "rows.npz", "--network", "resnet5", "--batch", "1"], OptionError, "2 or"),
        (["pretrain", "rows.npz", "--network", "resnet5", "--device", "x"], OptionError, "'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[DflmoeError],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.ones(1)}, "w.safetensors")
    rows(tmp_path)
    np.savez("flat.npz", x=np.zeros((30, *SHAPE), np.float32))
    if arguments[1] == "flat.npz":
        arguments = [*arguments, "--steps", "2"]
    told = CliRunner().invoke(app, ["body", *arguments])
    assert isinstance(told.exception, error)
    assert says in str(told.exception)
    assert "\n" not in str(told.exception)
    assert not Path("body.safetensors").exists()
