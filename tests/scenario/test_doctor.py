"""The doctor names what is wrong, says what to do, and changes nothing."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.hospitals import Country
from tests.made import made_rows
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.data.findings import Finding
from dflmoe.data.source import SETTINGS
from dflmoe.demo.founding import free_address
from dflmoe.errors import UnsoundError
from dflmoe.node.doctor import examined
from dflmoe.node.home import KEYS, ROSTER, Home
from dflmoe.node.life import Life
from dflmoe.node.settings import Settings
from dflmoe.security.keys import new_keys, save_keys
from dflmoe.wire.manifest import now

AT = {"ann": "127.0.0.1:1", "bob": "127.0.0.1:1"}


@pytest.fixture
def country(tmp_path: Path) -> Country:
    at = {site: free_address() for site in AT}
    country = Country(tmp_path, "ann", "bob", dialled=at, real_time=True)
    for site, home in country.homes.items():
        rows = made_rows(site, 60, ord(site[0]))
        np.savez(home.folder / "rows.npz", x=rows.x, y=rows.y, patient=rows.patient)
        text = f'bind = "{at[site]}"\n[data]\npath = "rows.npz"\n'
        (home.folder / SETTINGS).write_text(text)
    return country


def found(home: Home, *, trial: bool = False) -> dict[str, Finding]:
    return {one.check: one for one in examined(home, trial=trial)}


def test_a_sound_site_passes_every_check(country: Country) -> None:
    bob = country.homes["bob"]
    country.replicas["bob"].store.close()
    with Life(bob, Settings.load(bob.folder / SETTINGS)).online():
        said = found(country.homes["ann"], trial=True)
    assert {one.verdict for one in said.values()} == {"ok"}, said
    assert "dials back" in said["peer bob"].found
    assert "AUC" in said["local baseline"].found
    assert "borrowed and mixed" in said["dummy round"].found


def test_a_peer_that_is_away_is_a_warning(country: Country) -> None:
    said = found(country.homes["ann"])["peer bob"]
    assert said.verdict == "warning"
    assert "refused" in said.found
    assert "firewall" in said.fix


def _short(home: Home, **changed: object) -> None:
    rows = made_rows("ann", 60, 1)
    whole = {"x": rows.x, "y": rows.y, **changed}
    np.savez(home.folder / "rows.npz", **whole)  # type: ignore[arg-type]  # no such mapping


def _expiring(home: Home) -> None:
    save_keys(new_keys("ann", now() - timedelta(days=85)), home.folder / KEYS)


def _expired(home: Home) -> None:
    save_keys(new_keys("ann", now() - timedelta(days=100)), home.folder / KEYS)


@pytest.mark.parametrize(
    ("spoil", "check", "verdict", "words"),
    [
        pytest.param(
            lambda h: (h.folder / KEYS).chmod(0o644), "keys", "failed", "chmod", id="open keys"
        ),
        pytest.param(_expiring, "certificate", "warning", "valid from", id="certificate ends soon"),
        pytest.param(_expired, "certificate", "failed", "and it is", id="certificate ended"),
        pytest.param(
            lambda h: (h.folder / SETTINGS).unlink(), "settings", "failed", "not there", id="none"
        ),
        pytest.param(
            lambda h: (h.folder / SETTINGS).write_text("every = 3"),
            "rows",
            "failed",
            "no section",
            id="no data",
        ),
        pytest.param(
            lambda h: (h.folder / SETTINGS).write_text('[data]\npath = "rows.npz"'),
            "address",
            "failed",
            "nothing listens",
            id="told to dial",
        ),
        pytest.param(
            lambda h: (h.folder / ROSTER).unlink(), "roster", "failed", "none yet", id="no roster"
        ),
        pytest.param(
            lambda h: (h.folder / ROSTER).write_text("{}"), "roster", "failed", "", id="bad roster"
        ),
        pytest.param(
            lambda h: _short(h, x=np.full((60, 4), np.nan)), "rows", "failed", "NaN", id="NaN"
        ),
        pytest.param(
            lambda h: _short(h, y=np.zeros(60, int)), "rows", "failed", "one class", id="one class"
        ),
        pytest.param(
            lambda h: _short(h, x=np.ones((60, 4))), "features", "failed", "same", id="constant"
        ),
        pytest.param(
            lambda h: _short(h, x=np.repeat(np.random.default_rng(0).normal(size=(30, 4)), 2, 0)),
            "duplicates",
            "warning",
            "60 rows",
            id="copies",
        ),
        pytest.param(
            lambda h: _short(
                h, x=np.random.default_rng(0).normal(size=(21, 4)), y=np.arange(21) % 2
            ),
            "rows",
            "warning",
            "fewer than",
            id="few rows",
        ),
    ],
)
def test_what_is_wrong_is_named(
    country: Country, spoil: Callable[[Home], object], check: str, verdict: str, words: str
) -> None:
    home = country.homes["ann"]
    spoil(home)
    one = found(home)[check]
    assert one.verdict == verdict, one
    assert words in one.found
    assert one.fix


def test_an_address_that_is_taken_is_told(country: Country) -> None:
    bob, ann = country.homes["bob"], country.homes["ann"]
    country.replicas["bob"].store.close()
    settings = Settings.load(bob.folder / SETTINGS)
    (ann.folder / SETTINGS).write_text(f'bind = "{settings.bind}"\n[data]\npath = "rows.npz"\n')
    with Life(bob, settings).online():
        assert found(ann)["port"].verdict == "failed"


def test_the_command_prints_a_table_or_json_and_ends_with_its_own_code(country: Country) -> None:
    home = country.homes["ann"]
    shutil.rmtree(home.folder / "store", ignore_errors=True)
    call = ["doctor", "--quick", "--home", str(home.folder)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "how to fix" in result.stdout
    (home.folder / SETTINGS).unlink()
    result = CliRunner().invoke(app, [*call, "--json"])
    assert isinstance(result.exception, UnsoundError)
    assert "settings" in str(result.exception)
    checks = {one["check"]: one["verdict"] for one in json.loads(result.stdout)}
    assert checks["settings"] == "failed"
    assert checks["keys"] == "ok"
