"""On what a federation is played: how fast; but for rounding, only precision changes numbers."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch

from dflmoe.errors import MissingExtraError, OptionError
from dflmoe.simulation.cores import available_cores
from dflmoe.simulation.device import CPU, PrecisionName, device_named

ExecutorName = Literal["threads", "ray"]

MANY, COMPANY = 64, 32
"""From how many sites on they play in company, and how many of them each."""


@dataclass(frozen=True)
class Machine:
    """Cores, device and memory.

    Attributes:
        device: Where sites compute; what comes of it is on the CPU.
        precision: What bodies compute in; ``bf16`` halves what they move through memory, and all
            that comes after them stays in fp32.
        executor: ``threads`` of this process, or ``ray`` for processes of this machine or of a
            cluster (``simulation.cluster``).
        workers: How many, each on one core; as many as there are cores if not given.
        company: Sites whose small networks are trained together. If not given, each trains by
            itself, as in a hospital, and from ``MANY`` sites on ``COMPANY`` train together.
            Numbers agree but for rounding.
        pages: A folder for the state of sites that wait, instead of memory.
    """

    device: torch.device = CPU
    precision: PrecisionName = "fp32"
    executor: ExecutorName = "threads"
    workers: int | None = None
    company: int | None = None
    pages: Path | None = None

    @property
    def cores(self) -> int:
        """How many workers there are."""
        return self.workers or len(available_cores())

    def together(self, sites: int) -> int:
        """Return how many sites of a federation train together."""
        return self.company or (COMPANY if sites >= MANY else 1)


def machine_named(
    device: str, *, precision: str = "fp32", executor: str = "threads", workers: int | None = None
) -> Machine:
    """Return what a user names, if it is there.

    Args:
        device: See ``device_named``.
        precision: ``fp32`` or ``bf16``.
        executor: ``threads`` or ``ray``.
        workers: How many; as many as there are cores if not given.

    Raises:
        OptionError: There is no such device, precision or executor, or the workers are none.
        MissingExtraError: Ray is not installed.
    """
    if executor not in get_args(ExecutorName):
        raise OptionError(f"--executor is {executor!r}; it is threads or ray")
    if precision not in get_args(PrecisionName):
        raise OptionError(f"--precision is {precision!r}; it is fp32 or bf16")
    if workers is not None and workers < 1:
        raise OptionError(f"--workers is {workers}; it takes 1 or more")
    if executor == "ray" and find_spec("ray") is None:
        raise MissingExtraError(
            "the executor 'ray' is not installed; install it with: pip install 'dflmoe[ray]'"
        )
    return Machine(
        device_named(device),
        "bf16" if precision == "bf16" else "fp32",
        "ray" if executor == "ray" else "threads",
        workers,
    )
