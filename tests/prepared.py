"""The folders that pages of the docs begin in, by the name that they give them."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tests.hospitals import Country

from dflmoe.data.source import SETTINGS
from dflmoe.node.home import Home
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint

RULES = """name = "Three wards"
task = "death within a year"
classes = ["0", "1"]
kind = "table"
shape = [2]
network = "plain"
columns = '''
title = "Three wards"
task = "death within a year"
site = "site"
label = "label"
classes = ["0", "1"]
[columns]
age = { centre = 60, scale = 15 }
lactate = { centre = 2, scale = 1 }
'''
"""


def cohort(rows: int, seed: int) -> pd.DataFrame:
    """Return patients of three hospitals and two wards."""
    rng = np.random.default_rng(seed)
    died = np.arange(rows) % 2
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "hospital": np.array(["north", "south", "west"])[np.arange(rows) // 2 % 3],
            "ward": np.array(["a", "b"])[np.arange(rows) // 2 % 2],
            "age": rng.normal(60, 10, rows) + 8 * died,
            "lactate": rng.normal(2, 1, rows) + 0.5 * died,
            "died": died,
        }
    )


def wards(rows: int, seed: int) -> pd.DataFrame:
    """Return the rows of one site: two numbers and the label."""
    return cohort(rows, seed)[["age", "lactate", "died"]].rename(columns={"died": "label"})


def _empty(folder: Path) -> Mapping[str, str]:
    return {"DFLMOE_HOME": str(folder / "home")}


def _cohort(folder: Path) -> Mapping[str, str]:
    cohort(180, 0).to_csv(folder / "cohort.csv", index=False)
    return _empty(folder)


def _site(folder: Path) -> Mapping[str, str]:
    cohort(120, 0).drop(columns="hospital").to_csv(folder / "cohort.csv", index=False)
    cohort(10, 5).drop(columns=["hospital", "died"]).to_csv(folder / "new.csv", index=False)
    (folder / "other").mkdir()
    cohort(60, 1).drop(columns=["hospital", "lactate"]).to_csv(folder / "rows.csv", index=False)
    checked = ["data", "check", "rows.csv", "--label", "died", "--out", "other"]
    _dflmoe(folder, *checked)
    (folder / "other/declared.json").replace(folder / "other.json")
    return _empty(folder)


def _by_hand(folder: Path) -> Mapping[str, str]:
    for seed, site in enumerate(("north", "south", "west")):
        (folder / site).mkdir()
        wards(60, seed).to_csv(folder / site / "rows.csv", index=False)
    (folder / "charter.toml").write_text(RULES)
    return _empty(folder)


def _three(folder: Path) -> Mapping[str, str]:
    """Let three sites be members, ann with rows and settings; ann is this machine's site."""
    rules = folder / "charter.toml"
    rules.write_text(RULES)
    country = Country(folder, "ann", "bob", "cleo", charter=Charter.found(rules), real_time=True)
    for replica in country.replicas.values():
        replica.learn(country.roster().bundle)
        replica.store.close()
    home = country.homes["ann"].folder
    wards(60, 3).to_csv(home / "rows.csv", index=False)
    (home / SETTINGS).write_text('every = 1\n[data]\npath = "rows.csv"\n')
    wards(10, 4).drop(columns="label").to_csv(folder / "new.csv", index=False)
    return {"DFLMOE_HOME": str(home)}


def _played(folder: Path) -> Mapping[str, str]:
    """Let ann have played a round, too."""
    env = _three(folder)
    _dflmoe(folder, "node", "run", "--once", "--home", "ann")
    return env


def _newcomer(folder: Path) -> Mapping[str, str]:
    """Let ann have invited a site that is called relay."""
    _three(folder)
    _dflmoe(folder, "federation", "invite", "relay", "--out", "invitation.json", "--home", "ann")
    return {**_empty(folder), "INVITER": fingerprint(Home(folder / "ann").keys.public)}


def _piloted(folder: Path) -> Mapping[str, str]:
    _dflmoe(folder, "pilot", "--quick")
    return _empty(folder)


def _films(folder: Path) -> Mapping[str, str]:
    """Let there be films of three views, and what two sites have declared of theirs."""
    rng, told = np.random.default_rng(0), []
    (folder / "films").mkdir()
    for k in range(40):
        shade = rng.integers(0, 100, (8, 8)) + 80 * (k // 2 % 2)
        Image.fromarray(shade.astype(np.uint8)).save(folder / "films" / f"{k}.png")
        told.append({"file": f"{k}.png", "label": ("well", "ill")[k // 2 % 2], "id": k})
    pd.DataFrame(told).to_csv(folder / "labels.csv", index=False)
    rules, _, _ = RULES.partition("columns")
    for table, film in (("table", "image"), ("[2]", "[1, 8, 8]"), ('"0", "1"', '"ill", "well"')):
        rules = rules.replace(table, film)
    (folder / "charter.toml").write_text(rules)
    for site in ("st-olav", "charite"):
        _dflmoe(folder, "data", "check", "films", "--labels", "labels.csv", "--out", site)
        (folder / site / "declared.json").replace(folder / f"{site}.json")
    return _empty(folder)


START: Mapping[str, Callable[[Path], Mapping[str, str]]] = {
    "empty": _empty,
    "cohort": _cohort,
    "site": _site,
    "by hand": _by_hand,
    "three": _three,
    "member": _three,
    "played": _played,
    "newcomer": _newcomer,
    "piloted": _piloted,
    "films": _films,
}
"""What makes each folder; it returns what stands in the environment there."""


def _dflmoe(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "dflmoe.cli.main", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(folder)},
    )
