"""Workers beyond this process, and beyond this machine: tasks of Ray.

A task is half a round of a group of sites. What goes in (what never changes, and what moves) lies
in Ray's object store, not with the worker, so a worker that is killed costs what it was at: Ray
starts another and plays that half again, with the same outcome.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dflmoe.simulation.device import compute_on
from dflmoe.simulation.group import Group, Half, Seat
from dflmoe.simulation.machine import Machine
from dflmoe.types import SiteId

RETRIES = 20
"""How often a task is played again whose worker died, before all fails."""

Packed = dict[str, bytes]


class Cluster:
    """An executor on Ray; see ``simulation.group.Executor``.

    It joins the cluster that ``RAY_ADDRESS`` names or that this process is in; else it starts one
    on this machine, with as many workers as asked for, which ends with this process.
    """

    def __init__(self, groups: Sequence[Group], machine: Machine) -> None:
        import ray  # noqa: PLC0415 - an extra, which machine_named asks for

        self._ray: Any = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody what is played
        if not ray.is_initialized():
            joins = "RAY_ADDRESS" in os.environ
            if not joins:
                os.environ.setdefault("RAY_worker_niceness", "0")  # they are all there is to do
            ray.init(
                address=None if joins else "local",
                num_cpus=None if joins else machine.cores,
                include_dashboard=None if joins else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        self._played = self._ray.remote(
            num_cpus=1,
            num_gpus=1 if machine.device.type == "cuda" else 0,
            max_retries=RETRIES,
            num_returns=2,
        )(_played)
        self._groups = [self._ray.put(group) for group in groups]
        self._seats = [self._ray.put({}) for _ in groups]

    def each(self, half: Half, given: Sequence[Any]) -> Iterator[Any]:
        """See ``Executor``."""
        found = []
        for k, one in enumerate(given):
            self._seats[k], result = self._played.remote(half, self._groups[k], self._seats[k], one)
            found.append(result)
        while found:
            yield self._ray.get(found.pop(0))

    def seats(self) -> Iterator[tuple[SiteId, Seat]]:
        """See ``Executor``."""
        for group in self._seats:
            packed: Packed = self._ray.get(group)
            for site, raw in packed.items():
                yield site, Seat.of_bytes(raw)

    def close(self) -> None:
        """See ``Executor``: let go of what lies in the object store."""
        self._groups, self._seats = [], []


def _played(half: Half, group: Group, packed: Packed, given: object) -> tuple[Packed, object]:
    """Play half a round of a group in a worker."""
    torch.set_num_threads(1)
    compute_on(group.device, group.precision)
    seats = {site: Seat.of_bytes(raw) for site, raw in packed.items()}
    seats, found = half(group.there(), seats, given)
    return {site: seat.as_bytes() for site, seat in seats.items()}, found
