"""Rounds: of averaging, of nothing, and of dFLMoE, each beside what it could be without us."""

import copy
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from statistics import median

import compare
import run_dflmoe
import torch
import workload

from conftest import Speed
from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import CrossFit, Network, SiteData
from dflmoe.core.training import Training
from dflmoe.simulation.federation import play
from dflmoe.simulation.machine import Machine

ROUNDS = 2
DATA = {name: run_dflmoe.data_of(number) for number, name in enumerate(run_dflmoe.NAMES)}


def averaging(workers: int) -> None:
    """Play rounds of FedAvg in our simulator."""
    clock = workload.Clock()
    sites = {
        name: run_dflmoe.Averaged(k, workload.network(), clock)
        for k, name in enumerate(run_dflmoe.NAMES)
    }
    play(
        sites, DATA, rounds=ROUNDS, seed=0, purpose="speed", server=run_dflmoe.averaged,
        machine=Machine(workers=workers),
    )  # fmt: skip


def plain_averaging() -> None:
    """Play them as a plain loop."""
    net = workload.network()
    for played in range(ROUNDS):
        workload.plain_round(net, played)


def test_averaging_with_one_worker(speed: Speed) -> None:
    what = "2 rounds of FedAvg, 8 sites, one worker; beside a plain loop"
    speed.beside(what, lambda: averaging(1), plain_averaging, target=0.75)


def test_averaging_with_two_workers(speed: Speed) -> None:
    what = "the same, two workers"
    speed.beside(what, lambda: averaging(2), plain_averaging, target=0.5)


def test_averaging_beside_two_busy_processes(speed: Speed) -> None:
    busy = [sys.executable, "-c", "while True: pass"]

    def disturbed() -> None:
        others = [subprocess.Popen(busy) for _ in range(2)]  # noqa: S603 - Python itself
        try:
            averaging(2)
        finally:
            for other in others:
                other.kill()
                other.wait()

    what = "the same, beside two busy processes; beside without them"
    speed.beside(what, disturbed, lambda: averaging(2), target=3, rounds=3)


def test_an_empty_round(speed: Speed) -> None:
    def asked() -> float:
        command = [sys.executable, str(Path(run_dflmoe.__file__)), "0", "2", "empty"]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
        return float(json.loads(ran.stdout)["empty_ms"])

    speed.told("a round of 8 sites in which nothing is done", asked, "ms", 10)


@cache
def runs() -> list[compare.Run]:
    """Return what whole runs in processes of their own needed."""
    return [compare.measured(compare.Way("", "dflmoe", 2), Path(), 600) for _ in range(3)]


def test_from_the_start_to_the_first_step(speed: Speed) -> None:
    what = "from the start of a process to its first training step"
    speed.told(what, lambda: median(run.start for run in runs()), "s", 2.5, times=1)


def test_importing_pytorch_alone(speed: Speed) -> None:
    def took() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        return time.perf_counter() - began

    speed.told("of which importing PyTorch takes", took, "s")


def test_memory(speed: Speed) -> None:
    what = "20 rounds of FedAvg: memory at its peak"
    speed.told(what, lambda: median(run.peak_mib for run in runs()), "MiB", 450, times=1)


# dFLMoE: two fits of a fold and the last, in 25 steps each.

FOLDS = 2
STEPS = Training(
    weight_decays=(1e-4,), learning_rate=1e-3, max_steps=25, judge_every=25, batch=workload.BATCH,
    early_stopping=False,
)  # fmt: skip


def folded(number: int) -> SiteData:
    """Return the rows of a site in folds."""
    x, y = workload.site(number)
    return SiteData(
        x[None], y, CrossFit((torch.arange(len(y)) % FOLDS)[None]), torch.arange(len(y))
    )


FOLDED = {name: folded(number) for number, name in enumerate(run_dflmoe.NAMES)}


def whole() -> Network:
    """Return the network of a site: its convolutions are the body."""
    net = workload.network()
    return Network(net[:7], net[7:], run_dflmoe.FEATURES, workload.CLASSES)


def frozen() -> Network:
    """Return it with a body that does not learn."""
    network = copy.deepcopy(whole())
    network.body.requires_grad_(requires_grad=False)
    return Network(network.body, network.head, network.width, network.classes, common=True)


def round_of(method: Algorithm) -> None:
    """Play a round of a method."""
    sites = dict.fromkeys(FOLDED, method)
    play(sites, FOLDED, rounds=1, seed=0, purpose="speed", machine=Machine(workers=1))


def test_the_published_method(speed: Speed) -> None:
    alone, ours = LocalOnly(whole(), STEPS), DFLMoE(whole(), Dials.paper(), STEPS)
    what = "a round of dFLMoE as published, 8 sites; beside local only"
    speed.beside(what, lambda: round_of(ours), lambda: round_of(alone), target=1.6, rounds=3)


def test_a_frozen_body(speed: Speed) -> None:
    alone, ours = LocalOnly(whole(), STEPS), DFLMoE(frozen(), Dials(), STEPS)
    what = "a round of dFLMoE on a frozen body; beside local only"
    speed.beside(what, lambda: round_of(ours), lambda: round_of(alone), target=1.3, rounds=3)


def test_a_frozen_body_beside_its_head_alone(speed: Speed) -> None:
    alone, ours = LocalOnly(frozen(), STEPS), DFLMoE(frozen(), Dials(), STEPS)
    what = "a round of dFLMoE on a frozen body; beside training the head only"
    speed.beside(what, lambda: round_of(ours), lambda: round_of(alone), rounds=3)
