"""Sites that play in company: what many of them have to do is done as one."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dflmoe.core.together import Parts, Stackable, asking
from dflmoe.simulation.device import PrecisionName, compute_on
from dflmoe.types import Params

T = TypeVar("T")

ELEMENTS = 2**24
"""Numbers that are stacked at once, at most: 64 MiB of them."""


class _Asked(NamedTuple):
    """What a site wants done, and where it waits for it."""

    do: Stackable
    given: Params
    rng: torch.Generator | None
    answer: "Future[Params]"

    @property
    def size(self) -> int:
        """How long its leading axis is."""
        return len(next(iter(self.given.values())))

    @property
    def kind(self) -> Hashable:
        """What it has in common with what may be stacked with it.

        Sizes may differ, but no axis is filled up to more than twice its own.
        """
        return self.do, tuple(
            (name, p.dtype, *(n.bit_length() for n in p.shape[1:]))
            for name, p in self.given.items()
        )


def in_company(
    calls: Sequence[Callable[[], T]], device: torch.device, precision: PrecisionName = "fp32"
) -> list[T]:
    """Return what every call returns: a thread for each, of which one runs at a time.

    Whatever they have done ``together`` waits until none can go on without, and is stacked. The
    outcome does not depend on which thread runs when.

    Args:
        calls: What each site has to do.
        device: Where.
        precision: What bodies compute in.
    """
    company = _Company(len(calls))
    with ThreadPoolExecutor(
        len(calls), initializer=compute_on, initargs=(device, precision)
    ) as pool:
        done = [pool.submit(company.take_part, k, call) for k, call in enumerate(calls)]
    return [one.result() for one in done]


class _Company:
    """Takes turns, and answers when all wait."""

    def __init__(self, count: int) -> None:
        self._turn = threading.Lock()
        self._playing = count
        self._asked: dict[int, _Asked] = {}

    def take_part(self, index: int, call: Callable[[], T]) -> T:
        """Do what one site has to do, when it has its turn."""

        def ask(do: Stackable, given: Params, rng: torch.Generator | None) -> Params:
            asked = _Asked(do, given, rng, Future())
            self._asked[index] = asked
            self._answer_if_all_wait()
            self._turn.release()
            try:
                return asked.answer.result()
            finally:
                self._turn.acquire()

        with self._turn:
            try:
                with asking(ask):
                    return call()
            finally:
                self._playing -= 1
                self._answer_if_all_wait()

    def _answer_if_all_wait(self) -> None:
        if not self._asked or len(self._asked) < self._playing:
            return
        kinds: dict[Hashable, list[_Asked]] = {}
        for _, asked in sorted(self._asked.items()):
            kinds.setdefault(asked.kind, []).append(asked)
        self._asked = {}
        for alike in kinds.values():
            numbers = sum(p.numel() for p in alike[0].given.values())
            at_once = max(1, ELEMENTS // numbers)
            for first in range(0, len(alike), at_once):
                _answer(alike[first : first + at_once])


def _answer(alike: Sequence[_Asked]) -> None:
    """Have done what several sites ask for, and give each its part."""
    chances = [asked.rng for asked in alike]
    before = [rng.get_state() if rng else None for rng in chances]
    parts = Parts([asked.size for asked in alike], chances)
    names = alike[0].given
    try:
        with torch.enable_grad():
            found = alike[0].do({n: stacked([a.given[n] for a in alike]) for n in names}, parts)
        split = {name: p.split(parts.sizes) for name, p in found.items()}
        if len(alike) > 1:  # a copy each, so that none keeps the memory of all
            split = {name: [p.clone() for p in each] for name, each in split.items()}
    except Exception as error:  # it is raised where it was asked for
        if len(alike) == 1:
            alike[0].answer.set_exception(error)
            return
        # One site's numbers must not cost the others theirs: each by itself.
        for asked, state in zip(alike, before, strict=True):
            if asked.rng is not None and state is not None:
                asked.rng.set_state(state)
            _answer([asked])
        return
    for k, asked in enumerate(alike):
        asked.answer.set_result({name: each[k] for name, each in split.items()})


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors along their first axis, the others filled up with zeros to one size."""
    if len(tensors) == 1:
        return tensors[0]
    shape = [max(sizes) for sizes in zip(*(p.shape[1:] for p in tensors), strict=True)]
    return torch.cat([_filled(p, shape) for p in tensors])


def _filled(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor with zeros behind it on every axis but the first."""
    missing = [want - n for n, want in zip(tensor.shape[1:], shape, strict=True)]
    if not any(missing):
        return tensor
    pads = [side for n in reversed(missing) for side in (0, n)]
    return F.pad(tensor, pads)
