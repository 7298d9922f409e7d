"""What ``scripts/dist`` wrote is whole and can be made again; the pilot plays from it alone."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
RUNTIME = ROOT / "build/runtime/bin"
"""The environment that a site would make: made by ``scripts/dist`` from the lock and the wheel."""

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)


def one(pattern: str) -> Path:
    """Return the one file of this kind."""
    (found,) = DIST.glob(pattern)
    return found


def pins(name: str) -> dict[str, set[str]]:
    """Return the versions of each library in a file: a universal lock may have several."""
    found: dict[str, set[str]] = {}
    for library, version in PIN.findall((ROOT / name).read_text()):
        found.setdefault(library.lower().replace("_", "-"), set()).add(version)
    return found


def components() -> dict[str, dict[str, str]]:
    listed = json.loads(one("*.cdx.json").read_text())["components"]
    return {c["name"].lower().replace("_", "-"): c for c in listed}


def test_the_sums_are_those_of_all_files() -> None:
    said = dict(line.split()[::-1] for line in (DIST / "SHA256SUMS").read_text().splitlines())
    files = {path.name: path.read_bytes() for path in DIST.iterdir() if path.name != "SHA256SUMS"}
    assert said == {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}


def test_the_wheel_has_every_file_of_the_package_and_no_other() -> None:
    package = ROOT / "src"
    written = {
        str(path.relative_to(package))
        for path in (package / "dflmoe").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(one("*.whl")) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == written


def test_the_sdist_makes_the_same_wheel_again(tmp_path: Path) -> None:
    with tarfile.open(one("*.tar.gz")) as source:
        source.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    env = {**os.environ, "SOURCE_DATE_EPOCH": (ROOT / "build/epoch").read_text().strip()}
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "again", tree],
        check=True,
        capture_output=True,
        env=env,
    )
    (again,) = (tmp_path / "again").iterdir()
    assert again.read_bytes() == one("*.whl").read_bytes()


def test_the_lock_and_what_make_and_ci_use_are_one() -> None:
    lock, constraints = pins("requirements.lock"), pins("constraints.txt")
    assert len(lock) > 20
    assert {name: versions for name, versions in constraints.items() if name in lock} == lock
    assert "torch" not in lock
    assert "torch" in constraints


def test_the_list_of_components_has_all_that_is_installed_and_nothing_under_the_gpl() -> None:
    listed = components()
    assert {"torch", "numpy", "grpcio", "fastapi", "opacus"} <= listed.keys()
    freeze = subprocess.run(
        [RUNTIME / "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    installed = {
        p["name"].lower().replace("_", "-"): p["version"] for p in json.loads(freeze.stdout)
    }
    del installed["dflmoe"]  # what the list is of
    assert {name: part["version"] for name, part in listed.items()} == installed
    for part in listed.values():
        assert not re.search(r"\bA?GPL", json.dumps(part.get("licenses", []))), part["name"]


@pytest.mark.e2e
def test_the_wheel_plays_the_pilot_in_an_empty_environment(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    said = subprocess.run(
        [RUNTIME / "dflmoe", "--version", "--verbose", "--json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert json.loads(said.stdout)["libraries"]["opacus"]
    where = subprocess.run(
        [RUNTIME / "python", "-c", "import dflmoe; print(dflmoe.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert Path(where.stdout).is_relative_to(RUNTIME.parent)
    subprocess.run(
        [RUNTIME / "dflmoe", "pilot", "--out", "found"], check=True, cwd=tmp_path, env=env
    )
    report = json.loads((tmp_path / "found/report.json").read_text())
    assert len(report["sites"]) == 4
    assert report["mean"]["gain"]["value"] > 0
    assert (tmp_path / "found/report.html").stat().st_size > 10_000
