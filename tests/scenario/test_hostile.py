"""A member that means harm: the others end no worse than alone, and say why they set it aside."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.hospitals import Country
from tests.made import made_data, made_rows

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.training import Training
from dflmoe.errors import HeadError
from dflmoe.networks import plain
from dflmoe.node.exchange import MemoryExchange
from dflmoe.node.node import Node, RoundSummary
from dflmoe.node.store import BLOBS
from dflmoe.types import SiteId

METHOD = DFLMoE(
    plain(4, 2),
    Dials(restart="consensus"),
    Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40),
)
ROWS = 60
TOLERANCE = 0.02
"""Of a loss: what chance may move within the rows of one site."""

Lie = Callable[[Lent, int], Lent]


def scaled(factor: float) -> Lie:
    def lie(lent: Lent, _: int) -> Lent:
        return replace(lent, tensors={n: factor * p for n, p in lent.tensors.items()})

    return lie


def noise(lent: Lent, number: int) -> Lent:
    rng = torch.Generator().manual_seed(number)
    drawn = {n: torch.randn(p.shape, generator=rng) for n, p in lent.tensors.items()}
    return replace(lent, tensors=drawn)


def turned(lent: Lent, number: int) -> Lent:
    """Be honest until the others have learnt to trust, then say the opposite."""
    return scaled(-1.0 if number > 2 else 1.0)(lent, number)


def fickle(lent: Lent, number: int) -> Lent:
    return scaled(-1.0 if number % 2 else 1.0)(lent, number)


def data_of(site: SiteId, rows: int = ROWS) -> SiteData:
    return made_data(made_rows(site, rows, ord(site[0]))).only(0)


class Play:
    """Two honest sites and one that lends what a lie makes of its head."""

    def __init__(self, folder: Path, lie: Lie, rows: int = ROWS) -> None:
        self.country, self.lie = Country(folder, "ann", "bob", "eve"), lie
        self.nodes = {
            site: Node(
                replica,
                MemoryExchange(
                    replica, [r for r in self.country.replicas.values() if r is not replica]
                ),
                METHOD,
                data_of(site, rows),
            )
            for site, replica in self.country.replicas.items()
        }

    def round(self, number: int) -> dict[SiteId, RoundSummary]:
        """Play a round at the honest sites, once eve has lent; returns what they say of it."""
        rng = torch.Generator().manual_seed(number)
        state = METHOD.init("eve", data_of("eve"), rng)
        _, lent = METHOD.prepare(state, data_of("eve"), rng)
        lent = self.lie(replace(lent, round=number), number)
        with suppress(HeadError):  # its own software may refuse to lend that
            self.country.replicas["eve"].lend(lent, ROWS)
        said = {}
        for site in ("ann", "bob"):
            ((summary, outcome),) = list(self.nodes[site].rounds(until=number))
            seen = self.nodes[site].data.crossfit.fold[0] >= 0
            truth = self.nodes[site].data.y[seen]
            served, own = (
                torch.nn.functional.nll_loss(log[0][seen].double(), truth)
                for log in (outcome.served, outcome.own)
            )
            assert served <= own + TOLERANCE, f"{site} is harmed in round {number}"
            said[site] = summary
        return said


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(scaled(-1.0), id="the opposite"),
        pytest.param(noise, id="noise, another in every round"),
        pytest.param(scaled(3.0), id="x 3"),
        pytest.param(scaled(100.0), id="x 100"),
        pytest.param(scaled(1000.0), id="x 1000"),
        pytest.param(turned, id="swapped after it was trusted"),
        pytest.param(fickle, id="honest every other round"),
    ],
)
def test_whatever_a_member_lends_the_others_end_no_worse_than_alone(
    tmp_path: Path, lie: Lie
) -> None:
    play = Play(tmp_path, lie)
    for number in range(1, 5):
        play.round(number)


def test_who_lies_is_set_aside_with_a_reason_and_serves_again_when_it_behaves(
    tmp_path: Path,
) -> None:
    play = Play(tmp_path, scaled(-1.0), rows=400)
    said = play.round(1)
    assert all("eve" in one.quarantined for one in said.values())
    play.lie = scaled(1.0)
    said = play.round(2)
    assert not any("eve" in one.quarantined for one in said.values())
    ann = play.country.replicas["ann"].store
    (aside,) = ann.entries("quarantined")
    assert aside.told == {"site": "eve", "round": 1, "why": "evidence of harm"}
    assert [entry.told["site"] for entry in ann.entries("released")] == ["eve"]


def test_a_flood_of_heads_costs_one_head_of_room(tmp_path: Path) -> None:
    country = Country(tmp_path, "ann", "bob", "eve")
    ann, eve = country.replicas["ann"], country.replicas["eve"]
    rng = torch.Generator().manual_seed(0)
    _, lent = METHOD.prepare(METHOD.init("eve", data_of("eve"), rng), data_of("eve"), rng)
    for number in range(100):
        eve.lend(noise(lent, number), ROWS)
        held = eve.held("eve")
        assert held is not None
        assert ann.take(held.envelope, held.payload)
        assert not ann.take(held.envelope, held.payload)  # once is enough
    assert list(ann.store.heads()) == ["eve"]
    assert len(list((ann.store.folder / BLOBS).iterdir())) == 1
    assert len(ann.store.receipts()) == 1
