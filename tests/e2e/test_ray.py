"""Workers beyond this process: the very same report, and what a killed one costs."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

pytestmark = pytest.mark.e2e

RAY = ["--executor", "ray", "--workers", "2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, rows = np.random.default_rng(0), 150
    label = np.arange(rows) % 2
    frame = pd.DataFrame({"site": np.repeat(["north", "south", "west"], rows // 3), "label": label})
    for k in range(4):
        frame[f"x{k}"] = rng.normal(size=rows) + label * (k == 0)
    path = tmp_path_factory.mktemp("table") / "data.csv"
    frame.to_csv(path, index=False)
    return path


def command(table: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "dflmoe.cli.main", "pilot", str(table), "--folds", "2"),
        *("--repeats", "1", "--network", "mlp", "--out", str(out), *more),
    ]


def told(out: Path) -> dict[str, Any]:
    """Return the report but for its times."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert report.pop("seconds") > 0
    assert report["cost"].pop("compute_hours_per_site") > 0
    return report


@pytest.fixture(scope="module")
def expected(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("threads")
    subprocess.run(command(table, out), check=True, capture_output=True)
    return told(out)


def workers(of: int) -> list[psutil.Process]:
    """Return Ray's workers that descend from a process and are at a task."""
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process(of).children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] == ["ray::_played"]:
                    found.append(process)
    return found


def test_ray_gives_the_very_same_report(
    table: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    subprocess.run(command(table, tmp_path, *RAY), check=True, capture_output=True)
    assert told(tmp_path) == expected


def test_a_worker_that_is_killed_costs_its_task_only(
    table: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    with subprocess.Popen(
        command(table, tmp_path, *RAY), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        killed = 0
        while running.poll() is None:
            if killed < 3 and (at_work := workers(running.pid)):
                with suppress(psutil.Error):
                    at_work[0].kill()
                    killed += 1
            time.sleep(0.05)
    assert running.returncode == 0
    assert killed > 0
    assert told(tmp_path) == expected
