"""Workers in this process: threads that share its memory, so that nothing is copied to them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dflmoe.simulation.device import compute_on, with_own_modules
from dflmoe.simulation.group import Group, Half, Seat, Seats
from dflmoe.simulation.machine import Machine
from dflmoe.types import SiteId


class Threads:
    """An executor; see ``simulation.group.Executor``."""

    def __init__(self, groups: Sequence[Group], machine: Machine) -> None:
        torch.set_num_threads(1)
        # Workers must not share modules: a functional call swaps a module's parameters for a
        # moment. Sites of one group share theirs, so that they are known to be alike.
        self._groups = [
            replace(g, algorithms=with_own_modules(g.algorithms)).there() for g in groups
        ]
        self._seats: dict[int, Seats] | _Pages = (
            {} if machine.pages is None else _Pages(machine.pages)
        )
        self._pool = ThreadPoolExecutor(
            machine.cores, initializer=compute_on, initargs=(machine.device, machine.precision)
        )

    def each(self, half: Half, given: Sequence[Any]) -> Iterator[Any]:
        """See ``Executor``; the first that fails fails all."""
        tasks = [self._pool.submit(self._one, half, k, one) for k, one in enumerate(given)]
        try:
            while tasks:  # what was handed on is let go of
                yield tasks.pop(0).result()
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    def _one(self, half: Half, index: int, given: object) -> object:
        seats, found = half(self._groups[index], self._seats.get(index, {}), given)
        self._seats[index] = seats
        return found

    def seats(self) -> Iterator[tuple[SiteId, Seat]]:
        """See ``Executor``."""
        for index in range(len(self._groups)):
            yield from self._seats.get(index, {}).items()

    def close(self) -> None:
        """See ``Executor``."""
        self._pool.shutdown(cancel_futures=True)


class _Pages:
    """Seats of groups that wait on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[int, list[SiteId]] = {}

    def get(self, index: int, default: Seats) -> Seats:
        """Return the seats of a group."""
        if index not in self._names:
            return default
        names = enumerate(self._names[index])
        return {site: Seat.of_bytes(self._page(index, k).read_bytes()) for k, site in names}

    def __setitem__(self, index: int, seats: Seats) -> None:
        self._names[index] = list(seats)
        for k, seat in enumerate(seats.values()):
            self._page(index, k).write_bytes(seat.as_bytes())

    def _page(self, index: int, place: int) -> Path:
        return self._folder / f"{index}-{place}.seat"
