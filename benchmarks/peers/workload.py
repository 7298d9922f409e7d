"""The workload that simulators are compared on: rows, network, a local epoch, and what is told.

8 sites with 800 rows of 28 x 28 and skewed labels, a CNN of 96,938 parameters, batch 32, one local
epoch of SGD, FedAvg of all sites, 20 rounds. Every runner imports this file, each in an environment
of its own: it needs numpy and PyTorch alone.
"""

import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

SITES, ROWS, TEST_ROWS, CLASSES = 8, 800, 2000, 10
BATCH, RATE, ROUNDS = 32, 0.05, 20
SKEW = 0.3
NOISE = 3.0
SEED = 20260101


class Rows(NamedTuple):
    """Images ``[row, 1, 28, 28]`` and their classes."""

    x: Tensor
    y: Tensor


@cache
def site(number: int) -> Rows:
    """Return the rows of a site, whose classes are as frequent as a Dirichlet draw says."""
    rng = np.random.default_rng((SEED, number))
    return _drawn(rng, rng.dirichlet(np.full(CLASSES, SKEW)), ROWS)


@cache
def test_rows() -> Rows:
    """Return rows that no site has, all classes alike."""
    rng = np.random.default_rng((SEED, SITES))
    return _drawn(rng, np.full(CLASSES, 1 / CLASSES), TEST_ROWS)


def _drawn(rng: np.random.Generator, frequency: NDArray[np.float64], rows: int) -> Rows:
    """Return rows: the coarse pattern of a class, shifted a little, under noise."""
    coarse = np.random.default_rng(SEED).standard_normal((CLASSES, 7, 7))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)
    y = rng.choice(CLASSES, rows, p=frequency)
    shifts = rng.integers(-2, 3, (rows, 2))
    x = np.stack([np.roll(patterns[k], s, (0, 1)) for k, s in zip(y, shifts, strict=True)])
    x += NOISE * rng.standard_normal(x.shape)
    return Rows(torch.from_numpy(x).float().unsqueeze(1), torch.from_numpy(y))


def network() -> nn.Sequential:
    """Return the network with the initial weights that every runner starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 160), nn.ReLU(), nn.Linear(160, CLASSES),
        )  # fmt: skip


def order(number: int, played: int) -> Tensor:
    """Return the order of a site's rows in the epoch that follows some rounds."""
    return torch.randperm(ROWS, generator=torch.Generator().manual_seed(SITES * played + number))


def batches(rows: Rows, picked: Tensor) -> Iterator[Rows]:
    """Yield rows in an order, batch by batch."""
    for pick in picked.split(BATCH):
        yield Rows(rows.x[pick], rows.y[pick])


def epoch(net: nn.Module, number: int, played: int) -> None:
    """Let a network learn from a site's rows once, in plain PyTorch."""
    optimiser = torch.optim.SGD(net.parameters(), RATE)
    for x, y in batches(site(number), order(number, played)):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()


def plain_round(net: nn.Module, played: int) -> None:
    """Play a round of FedAvg as a plain loop over sites; the network becomes the average."""
    local = network()
    mean = {name: torch.zeros_like(p) for name, p in net.state_dict().items()}
    for number in range(SITES):
        local.load_state_dict(net.state_dict())
        epoch(local, number, played)
        for name, p in local.state_dict().items():
            mean[name] += p / SITES
    net.load_state_dict(mean)


def accuracy(net: nn.Module) -> float:
    """Return the accuracy of a network on the test rows."""
    rows = test_rows()
    with torch.no_grad():
        said = torch.cat([net.eval()(part) for part in rows.x.split(10 * BATCH)])
    return float((said.argmax(1) == rows.y).float().mean())


class Clock:
    """When rounds began, and the first training step: seconds since 1970, in whatever process."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.first_step: float | None = None

    def mark(self) -> None:
        """A round begins, or the last one has ended."""
        self.marks.append(time.time())

    def stepping(self, now: float | None = None) -> None:
        """A training step begins, now or when it is said; only the first counts."""
        if self.first_step is None:
            self.first_step = now or time.time()


def cores() -> int:
    """Return how many cores to use: the second argument of every runner."""
    return int(sys.argv[2])


def tell(clock: Clock, net: nn.Module, package: str) -> None:
    """Print what was measured, as a line of JSON, for ``compare.py`` to read.

    Args:
        clock: Its start is compared with the runner's first argument: when it was started.
        net: The last average.
        package: The distribution that played.
    """
    rounds = np.diff(clock.marks).tolist()
    if len(rounds) != ROUNDS or clock.first_step is None:
        raise SystemExit(f"{len(rounds)} rounds were measured, not {ROUNDS}")
    told = {
        "package": package,
        "version": version(package),
        "rounds": rounds,
        "start": clock.first_step - float(sys.argv[1]),
        "accuracy": accuracy(net),
    }
    print("\n" + json.dumps(told), flush=True)
