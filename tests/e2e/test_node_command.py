"""Nodes as processes: the demonstration, and hospitals that run on their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dflmoe.data.source import SETTINGS
from dflmoe.demo.founding import free_address
from dflmoe.demo.study import ARMS, demo_options, demo_study
from dflmoe.pilot.run import run
from dflmoe.report.schema import Report

pytestmark = pytest.mark.e2e

RUN = [sys.executable, "-m", "dflmoe.cli.main"]
PATIENCE_S = 120


def dflmoe(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RUN, *arguments], capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S
    )


def test_nodes_in_step_give_the_numbers_of_the_simulator(tmp_path: Path) -> None:
    """Over mutual TLS, in processes of their own, and with numbers that travel as int8."""
    done = dflmoe("demo", "--lockstep", "--dtype", "int8", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    nodes = Report.model_validate_json(done.stdout)
    simulated = run(demo_study(), demo_options(0, "int8"), arms=ARMS)
    assert simulated is not None
    assert [site.name for site in nodes.sites] == [site.name for site in simulated.sites]
    for node, site in zip(nodes.sites, simulated.sites, strict=True):
        assert node.arms == site.arms
        assert node.gain == site.gain
        assert node.gate_share == site.gate_share
        assert {arm for arm, value in node.arms.items() if value is None} == {"fedavg", "pooled"}
    for ran in nodes.operation:
        assert ran.sent_bytes > 0
        assert set(ran.peers) == {site.name for site in nodes.sites} - {ran.site}
        assert set(ran.peers.values()) <= {"lending", "used"}
        assert ran.missing == {}
        own = Report.model_validate_json((tmp_path / ran.site / "report.json").read_text())
        assert [site.name for site in own.sites] == [ran.site]
    assert "How it ran" in (tmp_path / "report.html").read_text()


def test_a_demonstration_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    call = [*RUN, "demo", "--sites", "2", "--rounds", "500", "--out", str(tmp_path / "out")]
    began = subprocess.Popen(
        call,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert began.stderr is not None
    for line in began.stderr:
        if "round 1" in line:
            break
    children = psutil.Process(began.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(began.pid, signal.SIGINT)  # as a terminal does: to all
    said = began.stderr.read()
    assert began.wait(PATIENCE_S) == 130
    began.stderr.close()
    assert "all nodes have ended" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert list(tmp_path.glob("dflmoe-demo-*")) == []


CHARTER = """
name = "Two hospitals"
task = "disease"
classes = ["no", "yes"]
kind = "table"
shape = [2]
network = "plain"
columns = '''
title = "Two hospitals"
task = "disease"
site = "site"
label = "ill"
classes = ["no", "yes"]
[columns]
age = { centre = 50, scale = 10 }
sex = { levels = [0, 1] }
'''
"""


def fingerprint(text: str) -> str:
    return text.split("Fingerprint:")[1].split(maxsplit=1)[0]


def test_two_hospitals_from_their_keys_to_predictions(tmp_path: Path) -> None:
    """Every step as two administrators would type it."""
    at = {"ann": free_address(), "bob": free_address()}

    def types(site: str, *words: str) -> str:
        done = dflmoe(*words, "--home", str(tmp_path / site))
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout + done.stderr

    told = {
        site: fingerprint(types(site, "site", "init", site, "--endpoint", address))
        for site, address in at.items()
    }
    paths = {name: str(tmp_path / f"{name}.json") for name in ("invitation", "request", "proposal")}
    (tmp_path / "charter.toml").write_text(CHARTER)
    types("ann", "federation", "create", str(tmp_path / "charter.toml"))
    types("ann", "federation", "invite", "bob", "--out", paths["invitation"])
    join = ("federation", "join", paths["invitation"], "--fingerprint", told["ann"])
    types("bob", *join, "--out", paths["request"])
    approve = ("federation", "approve", paths["request"], "--fingerprint", told["bob"], "--yes")
    types("ann", *approve, "--out", paths["proposal"])
    roster = str(tmp_path / "roster.json")
    types("bob", "federation", "approve", paths["proposal"], "--yes", "--out", roster)
    for site, address in at.items():
        types(site, "federation", "update", roster)
        ages = [30 + (7 * k + len(site)) % 50 for k in range(80)]
        rows = [f"{age},{k % 2},{int(age + 13 * (k % 3) > 62)}" for k, age in enumerate(ages)]
        (tmp_path / site / "rows.csv").write_text("\n".join(["age,sex,ill", *rows]))
        (tmp_path / site / SETTINGS).write_text(
            f'bind = "{address}"\nevery = 0.5\n[data]\npath = "rows.csv"\n'
        )
    ann = subprocess.Popen(
        [*RUN, "node", "run", "--home", str(tmp_path / "ann")], stderr=subprocess.PIPE, text=True
    )
    said = types("bob", "node", "run", "--until", "3")
    assert "round 3" in said
    assert "heard ann" in said
    until = time.monotonic() + PATIENCE_S
    while True:
        status = json.loads(types("ann", "node", "status", "--json"))
        (peer,) = status["peers"]
        if peer["state"] == "used" or peer["head_round"] == 3:
            break
        assert time.monotonic() < until
    assert status["pid"] == ann.pid
    second = dflmoe("node", "run", "--once", "--home", str(tmp_path / "ann"))
    assert second.returncode == 31
    assert "dflmoe node stop" in second.stderr
    types("ann", "node", "stop")
    assert ann.stderr is not None
    assert "goes on where it was" in ann.stderr.read()
    ann.stderr.close()
    assert ann.wait(PATIENCE_S) == 130
    assert "stopped" in types("ann", "node", "status")
    new, out = tmp_path / "new.csv", tmp_path / "predictions.csv"
    new.write_text("age,sex\n35,0\n75,1\n")
    types("ann", "predict", str(new), "--out", str(out))
    assert out.read_text().startswith("row,likely,p no,p yes,experts from,to,ann p no,ann p yes")
    shown = json.loads(types("ann", "predict", str(new), "--json"))
    assert [row["likely"] for row in shown["rows"]] == ["no", "yes"]
    assert "likely" in types("ann", "predict", str(new))
