"""Versions are told; what a newer one wrote is named as such, what an older one wrote is read."""

import json
import sys
from importlib.metadata import version
from typing import ClassVar

import pytest
import torch
from tests.security import CHARTER
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.cli.version import lines
from dflmoe.errors import EnvelopeError, OptionError
from dflmoe.security.charter import Charter
from dflmoe.wire.manifest import Document

RUNNER = CliRunner()


class Before(Document):
    name: str


class After(Document):
    later: ClassVar[frozenset[str]] = frozenset({"limit"})

    name: str
    limit: int = 5


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("dflmoe-charter-2", "the charter has the format dflmoe-charter-2, .* upgrade it"),
        ("dflmoe-charter-12", "newer than this version"),
        ("dflmoe-charter-0", "cannot be read: format"),
        ("dflmoe-card-2", "cannot be read: format"),
        ("charter", "cannot be read: format"),
        ("", "cannot be read: format"),
    ],
)
def test_a_newer_format_is_told_from_a_wrong_one(written: str, sentence: str) -> None:
    raw = CHARTER.signed().replace(b"dflmoe-charter-1", written.encode())
    with pytest.raises(EnvelopeError, match=sentence):
        Charter.read(raw, "the charter")


def test_a_field_that_came_later_is_written_only_where_it_says_something() -> None:
    assert After(name="x").signed() == Before(name="x").signed()
    assert After.read(Before(name="x").signed(), "it").limit == 5
    assert After.read(After(name="x", limit=6).signed(), "it").limit == 6


def test_the_version_is_told() -> None:
    said = RUNNER.invoke(app, ["--version"])
    assert (said.exit_code, said.output.strip()) == (0, version("dflmoe"))
    assert json.loads(RUNNER.invoke(app, ["--version", "--json"]).output) == {
        "dflmoe": version("dflmoe")
    }


def test_a_bug_report_has_all_that_a_fault_may_hang_on_and_nothing_of_the_site() -> None:
    found = json.loads(RUNNER.invoke(app, ["--version", "--verbose", "--json"]).output)
    assert found["dflmoe"] == version("dflmoe")
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["torch"].startswith(torch.__version__)
    assert found["formats"]["model"] == "dflmoe-model-1"
    assert found["libraries"]["numpy"] == version("numpy")
    said = RUNNER.invoke(app, ["--version", "--verbose"]).output
    assert lines({"libraries": {"numpy": "2", "atheris": None}}) == (
        "libraries:\n  numpy 2\n  atheris not installed"
    )
    assert f"  numpy {version('numpy')}" in said


@pytest.mark.parametrize("option", ["--verbose", "--json"])
def test_what_goes_with_the_version_alone_is_refused(option: str) -> None:
    said = RUNNER.invoke(app, [option])
    assert isinstance(said.exception, OptionError)
    assert "go with --version" in str(said.exception)
