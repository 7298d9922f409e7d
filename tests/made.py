"""Small sites that are made up, for tests."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dflmoe.bench.experiment import Experiment, RunSetting, load
from dflmoe.bench.runner import plan
from dflmoe.core.site import CrossFit, SiteData
from dflmoe.core.task import Task
from dflmoe.data.splits import repeated_splits
from dflmoe.data.study import SiteRows, Study
from dflmoe.types import generator


def made_rows(
    name: str, rows: int, seed: int, features: int = 4, classes: int = 2, signal: float = 1.5
) -> SiteRows:
    """Return rows whose class shows in the first feature."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    x = rng.normal(size=(rows, features))
    x[:, 0] += signal * y
    return SiteRows(name, x.astype(np.float32), y.astype(np.int64), np.arange(rows))


def made_study(rows: int = 60, sites: int = 3, features: int = 4, classes: int = 2) -> Study:
    """Return a study of sites that have one and the same task."""
    made = [made_rows(f"site{k}", rows, k, features, classes) for k in range(sites)]
    return Study(
        title="made up",
        task="which half",
        classes=tuple(f"class {k}" for k in range(classes)),
        sites=tuple(made),
        kind="table",
    )


def made_data(site: SiteRows, folds: int = 2, inner_folds: int = 3, seed: int = 0) -> SiteData:
    """Return a site's rows with their splits."""
    splits = repeated_splits(
        site.y, site.patient, folds=folds, inner_folds=inner_folds, train_rows=None, seed=seed
    )
    x = torch.from_numpy(site.x).expand(folds, *site.x.shape)
    return SiteData(x, torch.from_numpy(site.y), splits.crossfit, torch.from_numpy(site.patient))


def one_split(rows: int, folds: int = 3) -> CrossFit:
    """Return a single split that trains on everything."""
    return CrossFit((torch.arange(rows) % folds)[None])


def dense_data(x: torch.Tensor, y: torch.Tensor, task: Task, tested: int = 3) -> SiteData:
    """Return one split of a site's pictures in two folds; the last rows are tested."""
    fold = torch.arange(len(x)) % 2
    fold[len(x) - tested :] = -1
    return SiteData(x[None], y, CrossFit(fold[None]), torch.arange(len(x)), task=task)


def made_masks(rows: int, seed: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy pictures of one bright square each, and where it is."""
    rng = generator(seed, "masks")
    y = torch.zeros(rows, side, side, dtype=torch.int64)
    for row, (top, left) in enumerate(torch.randint(side // 2, (rows, 2), generator=rng).tolist()):
        y[row, top : top + side // 2, left : left + side // 2] = 1
    return (y + 0.3 * torch.randn(y.shape, generator=rng))[:, None], y


def made_pictures(rows: int, seed: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dim pictures and what they are with the light on, all within 0 and 1."""
    y = torch.rand(rows, 1, side, side, generator=generator(seed, "pictures"))
    return y / 2, y


TINY = """
title = "Tiny"
question = "Does it run?"
tasks = ["tiny"]
methods = {methods}
seeds = 2

[own_tasks.tiny]
set = "heart_disease"
title = "Hearts"
partition = {{ kind = "even", sites = 3 }}
networks = ["{network}"]
lend_from = "{lend_from}"
max_rows = 60
inner_folds = 2
anchors = 20
learning = {{ steps = {steps}, rounds = 2, batch = 16 }}
"""


def experiment(
    folder: Path,
    *,
    methods: tuple[str, ...] = ("local", "best", "d_psgd"),
    network: str = "mlp",
    lend_from: str = "model",
    steps: int = 20,
) -> Path:
    """Write an experiment of seconds on the embedded hospitals; return its path."""
    path = folder / "tiny.toml"
    path.write_text(
        TINY.format(methods=json.dumps(methods), network=network, lend_from=lend_from, steps=steps)
    )
    return path


def planned(path: Path) -> tuple[Experiment, list[RunSetting]]:
    """Return an experiment and its runs."""
    chosen = load(str(path))
    return chosen, plan(chosen, quick=False)


def noise(seed: int, *shape: int) -> Tensor:
    """Return numbers that are always the same for a seed."""
    return torch.randn(*shape, generator=generator(seed, "noise"))


def pixels(values: Tensor) -> Iterator[tuple[int, int]]:
    """Return the place of every pixel."""
    return product(range(values.shape[-2]), range(values.shape[-1]))
