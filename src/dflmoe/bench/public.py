"""A public body for a task: the body of a network that was trained on another, public set."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from dflmoe.baselines.local import LocalOnly
from dflmoe.bench.experiment import Learning, RunSetting
from dflmoe.core.site import CrossFit, SiteData
from dflmoe.data import partitions
from dflmoe.data.sets import load_set, other_people
from dflmoe.errors import OptionError
from dflmoe.networks import build, splits
from dflmoe.simulation.federation import play
from dflmoe.types import Params

ROWS = 1000
"""Rows of the public set that the body may learn from or stop by, whole groups."""


def public_weights(
    setting: RunSetting, network: str, shape: tuple[int, ...], root: Path | None
) -> Params:
    """Return the weights of a body that learnt the set which the condition names.

    It is trained as a site's own network is, with the task's own steps.

    Args:
        setting: Of the run; its condition names the set.
        network: The site's network, by name.
        shape: Of one input of the task.
        root: The folder of data sets.

    Raises:
        OptionError: The set is of the sites' own patients, or its rows do not fit.
        DataError: The set is not there.
        NetworkError: The network does not fit.
    """
    task = setting.task
    name = other_people(setting.condition.public_body or "", task.set)
    return _trained(
        name=name,
        network=network,
        at=splits(network)[1] if setting.condition.lends == "block" else None,
        shape=shape,
        side=task.side,
        learning=task.learning,
        seed=setting.seed,
        root=root,
    )


@cache
def _trained(
    *,
    name: str,
    network: str,
    at: str | None,
    shape: tuple[int, ...],
    side: int | None,
    learning: Learning,
    seed: int,
    root: Path | None,
) -> Params:
    rows = load_set(name, root, side=side)
    rng = np.random.default_rng(seed)
    everywhere = np.zeros(len(rows), dtype=np.int64)
    kept = partitions.capped(everywhere, rows.group, rows.labels, ROWS, rng) == 0
    rows = rows.take(kept)
    if rows.y.ndim != 1:
        raise OptionError(f"rows of set {name!r} have no class each to learn; name another set")
    fold = partitions.hold_out(rows.labels, rows.group, 0.2, 2, rng, name=name)
    data = SiteData(
        torch.from_numpy(rows.like(shape).x)[None],
        torch.from_numpy(rows.y),
        CrossFit(torch.from_numpy(fold)[None]),
        torch.from_numpy(rows.group),
    )
    algorithm = LocalOnly(build(network, shape, len(rows.classes), at=at), learning.training)
    played = play({name: algorithm}, {name: data}, rounds=1, seed=seed, purpose="public body")
    body = data.crossfit.final(played.states[name].params["body"])
    return {part: p[0] for part, p in body.items()}
