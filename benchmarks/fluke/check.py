"""Compare our local-only training and eight rivals with fluke-fl's: docs/explanation/crosscheck.md.

Run it as ``make fluke``, or as ``python benchmarks/fluke/check.py --python PYTHON`` with the Python
of an environment that has fluke-fl. It leaves with 1 if any mean differs by more than the limit.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dflmoe.baselines.aim import adam, common
from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.dfedavgm import HeavyBall
from dflmoe.baselines.fedproto import FedProto
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.rival import Budget
from dflmoe.bench import experiment
from dflmoe.bench.federation import Federation, federation
from dflmoe.bench.methods import LOCAL, rival
from dflmoe.bench.record import software
from dflmoe.cli.bench import DATA
from dflmoe.cli.progress import bar
from dflmoe.core.algorithm import Algorithm, Outcome, alone_outcome
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.errors import DflmoeError
from dflmoe.simulation.federation import play
from dflmoe.types import SiteId, generator

METHODS = (
    LOCAL,
    "fedavg",
    "fedrep",
    "fedper",
    "lg_fedavg",
    "fedprox",
    "ditto",
    "scaffold",
    "fedproto",
)
DIALS: Mapping[str, float] = {"fedprox": 0.1, "ditto": 1.0, "scaffold": 0.1}
"""FedProx's mu, Ditto's lambda, and the rate of SCAFFOLD's steps, which are plain ones in fluke."""
SEEDS = {"heart": 40, "pneumonia": 20}
COLUMNS = "seeds,ours %,fluke %,difference,std. error,same class %,limit,"
FLUKE = Path(__file__).with_name("run_fluke.py")

Said = Mapping[SiteId, NDArray[np.int64]]
"""The class that each test row of a site is given."""


@dataclass(frozen=True)
class Steps:
    """How a site trains between two averages.

    Attributes:
        title: For people.
        rounds: Averages taken.
        epochs: Optimiser steps are as many as this many passes over a site's rows take.
        full: Every step sees all rows of the site; else a batch of the task's size.
        limit: Points of accuracy that the two means may differ by.
        most_seeds: Played at most; where no chance is left a few say it all.
    """

    title: str
    rounds: int
    epochs: int
    full: bool
    limit: float
    most_seeds: int


STEPS = (
    Steps("all rows", rounds=3, epochs=10, full=True, limit=0.5, most_seeds=5),
    Steps("a batch", rounds=20, epochs=2, full=False, limit=1.5, most_seeds=1000),
)


@dataclass(frozen=True)
class Case:
    """One comparison at one seed.

    Attributes:
        sites: Rows, splits and networks.
        learning: Rate, decay, batch; the first weight decay of rounds is taken.
        steps: How a site trains.
        method: What is compared.
        seed: Of everything.
    """

    sites: Federation
    learning: experiment.Learning
    steps: Steps
    method: str
    seed: int

    def training(self, data: SiteData) -> Training:
        """Return one round of a site's training, that keeps its last step."""
        rows = int((data.crossfit.fold >= 0).sum())
        batch = None if self.steps.full else self.learning.batch
        steps = self.steps.epochs * math.ceil(rows / (batch or rows))
        whole = replace(self.learning.one_round, batch=batch, max_steps=steps, judge_every=steps)
        return replace(whole, weight_decays=whole.weight_decays[:1])

    def algorithm(self, site: SiteId) -> Algorithm:
        """Return one site's algorithm, the one that the bench plays."""
        network, training = self.sites.networks[site], self.training(self.sites.data[site])
        rounds = self.steps.rounds
        if self.method == LOCAL:
            steps = rounds * training.max_steps
            return LocalOnly(network, replace(training, max_steps=steps, judge_every=steps))
        built = rival(self.method).build(network, Budget(training, training, rounds, self.seed))
        if not isinstance(built, Averaging) or self.method not in DIALS:
            return built
        plain = partial(HeavyBall, momentum=0.0) if self.method == "scaffold" else adam
        aim = replace(built.aim, dials=(DIALS[self.method],), optimiser=plain)
        return replace(built, aim=aim)


@dataclass(frozen=True)
class Watched:
    """An algorithm from a known start; one that averages serves its last model, not its best.

    Attributes:
        algorithm: As the bench plays it.
        start: The state that it starts from.
        rounds: The number of the last round.
    """

    algorithm: Algorithm
    start: SiteState
    rounds: int

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:  # noqa: ARG002
        """See ``Algorithm.init``."""
        return self.start

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """See ``Algorithm.prepare``."""
        return self.algorithm.prepare(state, data, rng)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """See ``Algorithm.absorb``."""
        state, outcome = self.algorithm.absorb(state, inbox, data, rng)
        home = self._home()
        if home is not None and state.round == self.rounds:
            x = data.x.repeat_interleave(data.crossfit.fits, dim=0)
            with torch.no_grad():
                served = home.aim.serves(state.params["model"])
                logits = home.logits(served, x)
            said = data.crossfit.out_of_fold(data.task.said(logits, 2))
            outcome = alone_outcome(said, state, data)
        return state, outcome

    def _home(self) -> Averaging | None:
        """Return what trains rounds at a site; ``None`` for local only."""
        if isinstance(self.algorithm, FedProto):
            return self.algorithm.budget.at_home(self.algorithm.network)
        return self.algorithm if isinstance(self.algorithm, Averaging) else None


class Fluke:
    """fluke-fl, in a process of its own; ``versions`` is what it runs with."""

    def __init__(self, to: IO[str], back: IO[str], folder: Path) -> None:
        self._to, self._back, self._folder = to, back, folder
        self.versions: dict[str, str] = self._heard()

    def said(self, case: Case, starts: Mapping[SiteId, SiteState]) -> Said:
        """Return what fluke's models say after training from the same start."""
        if case.method != LOCAL:
            return dict(zip(starts, self._trained(case, starts), strict=True))
        return {name: self._trained(case, {name: starts[name]})[0] for name in starts}

    def _trained(self, case: Case, starts: Mapping[SiteId, SiteState]) -> list[NDArray[np.int64]]:
        rows = self._folder / "rows.npz"
        export(rows, {name: case.sites.data[name] for name in starts}, starts)
        alone, learning = case.method == LOCAL, case.learning
        first = next(iter(starts))
        run = {
            "rows": str(rows),
            "algorithm": "fedavg" if alone else case.method,
            "dial": DIALS.get(case.method, 0.0),
            "network": case.sites.names[first],
            "classes": case.sites.networks[first].classes,
            "rounds": 1 if alone else case.steps.rounds,
            "epochs": case.steps.epochs * (case.steps.rounds if alone else 1),
            "batch": 0 if case.steps.full else learning.batch,
            "learning_rate": learning.learning_rate,
            "weight_decay": learning.round_decays[0],
            "seed": case.seed,
        }
        self._to.write(json.dumps(run) + "\n")
        self._to.flush()
        return [np.array(site, dtype=np.int64) for site in self._heard()]

    def _heard(self) -> Any:  # noqa: ANN401 - parsed JSON
        if not (line := self._back.readline()):
            raise SystemExit(f"fluke stopped:\n{(self._folder / 'log').read_text()[-2000:]}")
        return json.loads(line)


@contextmanager
def fluke(python: Path) -> Iterator[Fluke]:
    """Start fluke-fl, and end it."""
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("w") as log:
        command = [str(python.absolute()), str(FLUKE.absolute())]
        with subprocess.Popen(  # noqa: S603 - the user names the program
            command, cwd=name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process:
            if process.stdin and process.stdout:  # they are: they were asked for
                yield Fluke(process.stdin, process.stdout, Path(name))


def export(path: Path, data: Mapping[SiteId, SiteData], starts: Mapping[SiteId, SiteState]) -> None:
    """Write the rows of some sites and the initial weights of the first one's last fit."""
    sites, params = list(data.values()), starts[next(iter(data))].params
    parts = [common(params["model"])] if "model" in params else [params["body"], params["head"]]
    weights = [p[-1].flatten() for part in parts for p in part.values()]
    np.savez(
        path,
        x=torch.cat([site.x[0] for site in sites]).numpy(),
        y=torch.cat([site.y for site in sites]).numpy(),
        test=torch.cat([site.crossfit.fold[0] < 0 for site in sites]).numpy(),
        site=np.repeat(np.arange(len(sites)), [len(site.y) for site in sites]),
        weights=torch.cat(weights).numpy(),
    )


def ours(case: Case, algorithms: Mapping[SiteId, Watched]) -> Said:
    """Return what our models say, played as the bench plays them."""
    data, alone = case.sites.data, case.method == LOCAL
    played = play(
        algorithms,
        data,
        rounds=1 if alone else case.steps.rounds,
        seed=case.seed,
        purpose="crosscheck",
        server=None if alone else rival(case.method).server,
    )
    return {
        name: played.outcomes[name][-1].served[0, one.crossfit.fold[0] < 0].argmax(1).numpy()
        for name, one in data.items()
    }


def scores(case: Case, other: Fluke) -> tuple[float, float, float]:
    """Return our accuracy, fluke's, and how often they say the same: means over sites."""
    algorithms: dict[SiteId, Watched] = {}
    for name, data in case.sites.data.items():
        algorithm = case.algorithm(name)
        start = algorithm.init(name, data, generator(case.seed, "crosscheck", name))
        algorithms[name] = Watched(algorithm, start, case.steps.rounds)
    mine = ours(case, algorithms)
    theirs = other.said(case, {name: one.start for name, one in algorithms.items()})
    each = []
    for name, data in case.sites.data.items():
        y, a, b = data.y[data.crossfit.fold[0] < 0].numpy(), mine[name], theirs[name]
        each.append([(a == y).mean(), (b == y).mean(), (a == b).mean()])
    a, b, same = np.mean(each, axis=0).tolist()
    return a, b, same


@dataclass(frozen=True)
class Row:
    """One line of the table: accuracies and their difference in points, over seeds."""

    task: str
    steps: str
    method: str
    seeds: int
    ours: float
    fluke: float
    difference: float
    standard_error: float
    same_ratio: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the means are as near as they must be."""
        return abs(self.difference) <= self.limit


def row(task: str, steps: Steps, method: str, runs: Sequence[tuple[float, float, float]]) -> Row:
    """Return means over seeds."""
    a, b, same = np.array(runs).T
    points = 100 * (a - b)
    return Row(
        task,
        steps.title,
        method,
        seeds=len(points),
        ours=round(100 * float(a.mean()), 2),
        fluke=round(100 * float(b.mean()), 2),
        difference=round(float(points.mean()), 2),
        standard_error=round(float(points.std(ddof=1)) / math.sqrt(len(points)), 2),
        same_ratio=round(float(same.mean()), 4),
        limit=steps.limit,
    )


def tasks(root: Path | None) -> dict[str, experiment.TaskSetting]:
    """Return what is compared on: the bench's tasks, with a network that both sides have."""
    known = experiment.shipped_tasks("same")
    chosen = {"heart": known["heart"].model_copy(update={"inner_folds": 2})}
    if root is not None:
        chosen["pneumonia"] = experiment.TaskSetting(
            set="pneumoniamnist",
            title="Pneumonia on chest films, four sites (image)",
            partition=experiment.Partition(kind="dirichlet", sites=4, alpha=1.0),
            networks=("small_cnn",),
            side=28,
            max_rows=200,
            test_ratio=0.5,
            inner_folds=2,
            learning=experiment.Learning(batch=32, learning_rate=0.003, round_decays=(0.01,)),
        )
    return chosen


def dealt(name: str, task: experiment.TaskSetting, seed: int, root: Path | None) -> Federation:
    """Return the sites of a task, as the bench deals them."""
    setting = experiment.RunSetting(
        experiment="crosscheck",
        task_name=name,
        task=task,
        method="",
        condition=experiment.Condition(),
        seed=seed,
        quick=False,
        version="",
    )
    return federation(setting, root)


def compared(
    python: Path, root: Path | None, seeds: int | None, methods: Sequence[str] = METHODS
) -> tuple[dict[str, str], list[Row]]:
    """Return fluke's versions and the table."""
    runs: dict[tuple[str, Steps, str], list[tuple[float, float, float]]] = {}
    plan = [
        (name, task, seed, [steps for steps in STEPS if seed < steps.most_seeds])
        for name, task in tasks(root).items()
        for seed in range(seeds or SEEDS[name])
    ]
    total = sum(len(methods) * len(some) for *_, some in plan)
    with fluke(python) as other, bar(Console(stderr=True)) as progress:
        job = progress.add_task("comparing", total=total)
        for name, task, seed, some in plan:
            sites = dealt(name, task, seed, root)
            for steps, method in product(some, methods):
                progress.update(job, description=f"{name}, {steps.title}, {method}, seed {seed}")
                case = Case(sites, task.learning, steps, method, seed)
                runs.setdefault((name, steps, method), []).append(scores(case, other))
                progress.advance(job)
        return other.versions, [row(*key, found) for key, found in runs.items()]


def shown(rows: Sequence[Row]) -> Table:
    """Return the table for people."""
    table = Table("data set", "a step sees", "method", box=None)
    for title in COLUMNS.split(","):
        table.add_column(title, justify="right")
    for one in rows:
        numbers = f"{one.ours:.2f}", f"{one.fluke:.2f}", f"{one.difference:+.2f}"
        said = f"{one.standard_error:.2f}", f"{100 * one.same_ratio:.2f}"
        verdict = f"{one.limit:.1f}", "pass" if one.passed else "FAIL"
        table.add_row(one.task, one.steps, one.method, str(one.seeds), *numbers, *said, *verdict)
    return table


def main() -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of fluke's environment")
    parser.add_argument("--data", type=Path, help="folder of data sets; else DFLMOE_DATA")
    parser.add_argument("--seeds", type=int, help=f"of each data set; else {SEEDS}")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    asked = parser.parse_args()
    root = asked.data or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if asked.seeds is not None and asked.seeds < 2:
        parser.error("--seeds takes 2 or more, as their spread is reported")
    try:
        versions, rows = compared(asked.python, root, asked.seeds, asked.methods.split(","))
    except (DflmoeError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if asked.json:
        table = [{**asdict(one), "passed": one.passed} for one in rows]
        print(json.dumps({"ours": software(), "fluke": versions, "rows": table}, indent=1))
    else:
        Console(highlight=False).print(shown(rows))
    return 0 if all(one.passed for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
