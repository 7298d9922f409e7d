"""A command whose extra is not installed says so; the others do not wait for it."""

import subprocess
import sys

from typer.testing import CliRunner

from dflmoe.cli.main import COMMANDS, app
from dflmoe.errors import MissingExtraError

WITHOUT_GRPC = """
import sys
sys.modules["grpc"] = None
sys.argv = ["dflmoe", "node", "run", "--once"]
from dflmoe.cli.main import main
main()
"""


def test_a_command_whose_extra_is_missing_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GRPC], capture_output=True, text=True, check=False
    )
    assert done.returncode == MissingExtraError.exit_code
    assert "needs grpc" in done.stderr
    assert "dflmoe[pilot,node]" in done.stderr


def test_every_command_is_listed_and_no_other_is_known() -> None:
    listed = CliRunner().invoke(app, ["--help"])
    assert all(name in listed.output for name in COMMANDS)
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2
