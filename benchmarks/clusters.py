"""Whom should a site hear: ``python benchmarks/clusters.py --task heart --sites 16``.

Where everybody hears everybody, a round of N sites costs N (N - 1) messages. In sqrt(N) clusters of
sqrt(N) sites it costs N * 2 (sqrt(N) - 1): a site hears its cluster, and one site of each other.
Three ways to spend as many messages stand between a ring and everybody:

* ``top-k``: those of use in the last round, and others by chance (``simulation.peers``).
* ``clusters``: a site's own cluster, and its counterpart in each other.
* ``hubs``: clusters of sites whose rows look alike, and the site of most rows in each other
  cluster, as in a prototype of hierarchical dFLMoE that relays through hubs.

All play on the same rows and seeds. Printed are scores, log-losses and how far each is from
``top-k``: means over seeds of paired differences, with 95 % intervals (Student's t over seeds).
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from dflmoe.baselines.d_psgd import ring
from dflmoe.baselines.local import LocalOnly
from dflmoe.bench.experiment import Condition, Partition, RunSetting, shipped_tasks
from dflmoe.bench.federation import Federation, federation
from dflmoe.bench.methods import OURS_BY_NAME
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.simulation.federation import play
from dflmoe.types import SiteId, generator

TOP_K = "top-k"
ARRANGEMENTS = ("everybody", TOP_K, "clusters", "hubs", "ring")
Hears = Mapping[SiteId, Sequence[SiteId]] | int | None


class Found(NamedTuple):
    """What came of one arrangement and seed; means over sites."""

    score: float
    loss: float
    bytes: float


def rooks(sites: Sequence[SiteId], hub: Mapping[SiteId, int] | None = None) -> Hears:
    """Return who hears whom in clusters of sqrt(N) sites that follow each other.

    Args:
        sites: All, a square number.
        hub: How much speaks for each as its cluster's hub; without it counterparts are heard.
    """
    side = math.isqrt(len(sites))
    rows = [sites[first : first + side] for first in range(0, len(sites), side)]
    hears = {}
    for row in rows:
        for k, site in enumerate(row):
            others = [other for other in rows if other is not row]
            far = [max(other, key=hub.__getitem__) if hub else other[k] for other in others]
            hears[site] = [peer for peer in row if peer != site] + far
    return hears


def alike(sites: Federation, seed: int) -> list[SiteId]:
    """Return the sites in the order of their mean features' first principal component."""
    means = []
    for name, data in sites.data.items():
        network = sites.shared[name]
        body = initial(network.body, 1, generator(seed, "body"))
        with torch.no_grad():
            features = stacked_call(network.body, body, data.x)[0]
        means.append(features[data.crossfit.fold[0] >= 0].mean(0).flatten())
    far = torch.stack(means)
    component = torch.linalg.svd(far - far.mean(0), full_matrices=False).U[:, 0]
    return [list(sites.data)[k] for k in component.argsort().tolist()]


def arrangements(sites: Federation, seed: int) -> dict[str, Hears]:
    """Return who hears whom, by the name of the arrangement."""
    names = list(sites.data)
    rng = random.Random(f"{seed}/clusters")  # noqa: S311 - no secret
    dealt = rng.sample(names, len(names))
    rows = {name: int((data.crossfit.fold >= 0).sum()) for name, data in sites.data.items()}
    return {
        "everybody": None,
        TOP_K: 2 * (math.isqrt(len(names)) - 1),
        "clusters": rooks(dealt),
        "hubs": rooks(alike(sites, seed), rows),
        "ring": ring(dealt),
    }


def settings(chosen: argparse.Namespace) -> list[RunSetting]:
    """Return a shipped task, dealt to so many sites, once for each seed."""
    task = shipped_tasks("same")[chosen.task]
    kind = "even" if task.partition.kind == "even" else "dirichlet"
    partition = Partition(kind=kind, sites=chosen.sites, alpha=chosen.alpha)
    task = task.model_copy(update={"partition": partition, "inner_folds": 2})
    return [
        RunSetting(
            experiment="clusters",
            task_name=chosen.task,
            task=task,
            method=chosen.method,
            condition=Condition(),
            seed=seed,
            quick=False,
            version="",
        )
        for seed in range(chosen.first, chosen.first + chosen.seeds)
    ]


def played(
    setting: RunSetting, rounds: int, root: Path | None, only: Sequence[str]
) -> dict[str, Found]:
    """Return what came of some arrangements, and of each site alone.

    Args:
        setting: Task, method and seed.
        rounds: In which heads are lent, with as many steps in all; a method that averages first has
            its own.
        root: Folder of data sets.
        only: The arrangements to play; all if empty.
    """
    sites, seed, learning = federation(setting, root), setting.seed, setting.task.learning
    ours, training = OURS_BY_NAME[setting.method], learning.training
    local: dict[SiteId, Algorithm] = {
        site: LocalOnly(network, training) for site, network in sites.networks.items()
    }
    alone = play(local, sites.data, rounds=1, seed=seed, purpose="alone")
    served = {site: outcomes[-1].served for site, outcomes in alone.outcomes.items()}
    found = {"alone": measured(sites, served, 0)}
    data = {site: replace(one, alone=served[site]) for site, one in sites.data.items()}
    dials, steps = ours.dials, replace(training, max_steps=training.max_steps // rounds)
    if ours.averages:
        dials, rounds = replace(dials, averaging=learning.rounds), learning.rounds + 1
        steps = learning.one_round
    lending: dict[SiteId, Algorithm] = {
        site: DFLMoE(network, dials, steps, training, body_seed=seed)
        for site, network in sites.shared.items()
    }
    for name, hears in arrangements(sites, seed).items():
        if name not in (only or (name,)):
            continue
        came = play(lending, data, rounds=rounds, seed=seed, purpose="bench", hears=hears)
        served = {site: outcomes[-1].served for site, outcomes in came.outcomes.items()}
        found[name] = measured(sites, served, sum(came.sent_bytes.values()))
    return found


def measured(sites: Federation, served: Mapping[SiteId, torch.Tensor], sent: int) -> Found:
    """Return means over sites of scores and losses on test rows, and of the bytes sent."""
    scores, losses = [], []
    for site, said in served.items():
        data = sites.data[site]
        test = data.crossfit.fold[0] < 0
        scores.append(float(sites.kind.row_scores(said[0, test], data.y[test]).mean()))
        losses.append(float(data.task.losses(said[:, test], data.y[test][None]).mean()))
    return Found(statistics.fmean(scores), statistics.fmean(losses), sent / len(served))


class Difference(NamedTuple):
    """Of two arrangements: mean of paired differences, standard error, half the 95 % interval."""

    mean: float
    se: float
    half: float


def difference(paired: Sequence[float]) -> Difference:
    """Return what paired differences of some seeds say."""
    n = len(paired)
    se = statistics.stdev(paired) / math.sqrt(n)
    return Difference(statistics.fmean(paired), se, se * float(stats.t.ppf(0.975, n - 1)))


def main() -> None:
    """Play every arrangement with every seed, and print them beside each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="heart", choices=["heart", "apnoea", "brain"])
    parser.add_argument("--sites", type=int, default=16, choices=[4, 9, 16, 25])
    parser.add_argument("--alpha", type=float, default=2.0, help="of a Dirichlet partition")
    parser.add_argument("--method", default="best", choices=["best", "once", "rounds"])
    parser.add_argument("--rounds", type=int, default=5, help="in which heads are lent")
    parser.add_argument("--seeds", type=int, default=5, help="two at least")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--only", nargs="*", default=[], choices=ARRANGEMENTS, help="and top-k")
    parser.add_argument("--data", type=Path, default=os.environ.get("DFLMOE_DATA"))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    only = [*chosen.only, TOP_K] if chosen.only else []
    runs = [played(setting, chosen.rounds, chosen.data, only) for setting in settings(chosen)]
    gains = {
        name: difference([100 * (run[name].score - run[TOP_K].score) for run in runs])
        for name in runs[0]
    }
    losses = {
        name: difference([run[name].loss - run[TOP_K].loss for run in runs]) for name in runs[0]
    }
    means = {
        name: Found(*map(statistics.fmean, zip(*(run[name] for run in runs), strict=True)))
        for name in runs[0]
    }
    if chosen.json:
        found = {
            name: {
                **mean._asdict(),
                "points_minus_top_k": gains[name]._asdict(),
                "loss_minus_top_k": losses[name]._asdict(),
            }
            for name, mean in means.items()
        }
        asked = {**vars(chosen), "data": str(chosen.data)}
        sys.stdout.write(json.dumps({**asked, "found": found}, indent=1) + "\n")
        return
    seeds = f"{chosen.seeds} seeds from {chosen.first}"
    what = f"{chosen.task}, {chosen.sites} sites, {chosen.method}, {seeds}"
    table = Table(title=what, title_justify="left")
    for column in ("who is heard", "score", "minus top-k", "log-loss", "minus top-k", "kB a site"):
        table.add_column(column, justify="right" if table.columns else "left")
    for name, mean in means.items():
        table.add_row(
            name,
            f"{100 * mean.score:.1f}",
            f"{gains[name].mean:+.2f} ± {gains[name].half:.2f}",
            f"{mean.loss:.3f}",
            f"{losses[name].mean:+.4f} ± {losses[name].half:.4f}",
            f"{mean.bytes / 1000:.0f}",
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
