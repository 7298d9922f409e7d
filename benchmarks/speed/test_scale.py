"""Many sites: time of each, and memory."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from conftest import Speed

SCALE = Path(__file__).parents[1] / "scale.py"


@cache
def played(sites: int) -> dict[str, float]:
    """Return what so many sites took, in a process of their own."""
    command = [sys.executable, str(SCALE), "--one", "--sites", str(sites)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def test_time_of_a_thousand_sites(speed: Speed) -> None:
    what = "a round of 1,000 sites with heads of 9,610 numbers and 8 peers"
    speed.told(what, lambda: played(1000)["round_s"], "s", 60, times=1)


def test_memory_of_a_thousand_sites(speed: Speed) -> None:
    what = "the same: memory at its peak"
    speed.told(what, lambda: played(1000)["peak_mib"], "MiB", 4096, times=1)


def test_time_of_one_site_among_many(speed: Speed) -> None:
    def ratio() -> float:
        return played(1000)["ms_a_site"] / played(100)["ms_a_site"]

    speed.told("time of a site among 1,000, beside one among 100", ratio, "x", 1.2, times=1)
