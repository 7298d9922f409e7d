"""``dflmoe bench`` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.made import experiment

pytestmark = pytest.mark.e2e

BENCH = [sys.executable, "-m", "dflmoe.cli.main", "bench"]
METHODS = ("local", "fedavg_tuned", "best")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    bare = {name: value for name, value in os.environ.items() if name != "DFLMOE_DATA"}
    return subprocess.run(
        [*BENCH, *arguments], capture_output=True, text=True, check=False, env=bare
    )


def test_a_run_prints_its_tables_and_writes_its_page(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=METHODS)
    done = bench("run", str(path), "--full", "--jobs", "1", "--out", str(tmp_path))
    assert done.returncode == 0
    assert "FedAvg + fine-tuning" in done.stdout
    assert f"Page: {tmp_path / 'tiny.html'}" in done.stdout
    assert done.stderr.count("seed") == 6  # a line a run, as this is no terminal

    docs = tmp_path / "docs" / "tiny.md"
    again = bench(
        "page", str(path), "--full", "--out", str(tmp_path), "--markdown", str(docs), "--json"
    )
    summary = json.loads(again.stdout)
    assert [row["method"] for row in summary["tables"][0]["rows"]] == list(METHODS)
    assert summary == json.loads((tmp_path / "tiny.json").read_text())
    assert "| FedAvg + fine-tuning |" in docs.read_text()
    assert (docs.parent / "tiny-gains.svg").is_file()


def test_a_quick_run_says_that_it_is_no_comparison(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=METHODS)
    path.write_text(path.read_text().replace("seeds = 2", 'quick_methods = ["local", "best"]'))
    done = bench("run", str(path), "--seeds", "1", "--jobs", "1", "--out", str(tmp_path), "--json")
    assert json.loads(done.stdout)["quick"]
    assert "not which method is better" in (tmp_path / "tiny.html").read_text()


def test_a_list_says_what_each_experiment_asks() -> None:
    asked = json.loads(bench("list", "--json").stdout)
    assert {"homogeneous", "heterogeneous", "robustness", "travels", "ablation"} <= asked.keys()
    assert "scarcity" in bench("list").stdout


def test_without_a_data_folder_a_set_that_is_not_embedded_is_named(tmp_path: Path) -> None:
    done = bench(
        "run", "homogeneous", "--tasks", "brain", "--methods", "local", "--jobs", "1",
        "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0  # the run failed, the bench did not
    assert "DFLMOE_DATA" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("run", "nothing"), 16, id="unknown experiment"),
        pytest.param(("run", "homogeneous", "--methods", "nothing"), 16, id="unknown method"),
        pytest.param(("run", "homogeneous", "--tasks", "nothing"), 16, id="unknown task"),
        pytest.param(("run", "homogeneous", "--jobs", "0"), 10, id="no process"),
        pytest.param(("page", "homogeneous", "--seeds", "0"), 10, id="no seed"),
        pytest.param(("run", "homogeneous", "--out", "/proc/nowhere"), 11, id="no folder"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_a_code(arguments: tuple[str, ...], code: int) -> None:
    done = bench(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def heeds_ctrl_c() -> None:
    """A shell lets what it runs in the background, tests perhaps, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=METHODS, steps=3000)
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 50"))
    process = subprocess.Popen(
        [*BENCH, "run", str(path), "--full", "--jobs", "2", "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heeds_ctrl_c,  # noqa: PLW1509 - nothing else runs in this child
    )  # fmt: skip
    while not list(tmp_path.glob("tiny/*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on where it was" in said
    assert "Traceback" not in said
