"""A node plays on whatever happens around it, and goes on where it was stopped."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from tests.hospitals import Country
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import run_round
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Expert, Lent, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.errors import ExchangeError, StoreError
from dflmoe.networks import plain
from dflmoe.node.exchange import Exchange, MemoryExchange, Synced
from dflmoe.node.node import PURPOSE, Node, RoundSummary
from dflmoe.simulation.federation import play
from dflmoe.types import Params, SiteId, generator
from dflmoe.wire.state import state_bytes, state_of

QUICK = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40)
SITES = ("ann", "bob", "cleo")
METHOD = DFLMoE(plain(4, 2), Dials(restart="consensus"), QUICK)


class Silence:
    """An exchange that reaches nobody."""

    def sync(self) -> Synced:
        raise ExchangeError("the cable is cut")


def data_of(site: SiteId) -> SiteData:
    data = made_data(made_rows(site, 60, len(site) + ord(site[0])))
    return data.only(0)


def node(country: Country, site: SiteId, exchange: Exchange) -> Node:
    return Node(country.replicas[site], exchange, METHOD, data_of(site))


def together(country: Country) -> dict[SiteId, Node]:
    """Nodes that reach each other in memory."""
    every = country.replicas
    return {
        site: node(country, site, MemoryExchange(one, [r for r in every.values() if r is not one]))
        for site, one in every.items()
    }


@pytest.fixture
def country(tmp_path: Path) -> Country:
    return Country(tmp_path, *SITES)


def same(one: SiteState, other: SiteState) -> bool:
    return state_bytes(one) == state_bytes(other)


def test_rounds_are_played_stored_and_told(country: Country) -> None:
    nodes = together(country)
    for number in (1, 2):
        for one in nodes.values():
            ((summary, _),) = list(one.rounds(until=number))
            assert summary.number == number
            assert summary.outage is None
    told = [
        RoundSummary.model_validate_json(text) for text in country.replicas["ann"].store.rounds()
    ]
    assert [one.number for one in told] == [1, 2]
    assert set(told[-1].heard) == {"bob", "cleo"}
    assert sum(told[-1].share.values()) == pytest.approx(1)
    assert list(nodes["ann"].rounds(until=2)) == []


def test_a_node_and_the_simulator_play_the_same_round(country: Country) -> None:
    """In step, and over the real wire, a hospital's numbers are those of the simulator."""
    played = play(
        dict.fromkeys(SITES, METHOD),
        {site: data_of(site) for site in SITES},
        rounds=1,
        seed=0,
        purpose=PURPOSE,
    )
    nodes = together(country)
    for one in nodes.values():  # everybody's head is there before anybody absorbs
        state = one.state()
        rng = generator(0, PURPOSE, one.site, state.round)
        _, lent = METHOD.prepare(state, one.data, rng)
        one.replica.lend(lent, 40)
    for one in nodes.values():
        one.exchange.sync()
    for site, one in nodes.items():
        ((_, outcome),) = list(one.rounds(until=1))
        assert torch.equal(outcome.served, played.outcomes[site][0].served)
        assert same(one.state(), played.states[site])


def test_a_peer_that_is_away_costs_no_round_and_its_head_serves_on(country: Country) -> None:
    nodes = together(country)
    for one in nodes.values():
        list(one.rounds(until=1))
    alone = node(country, "ann", Silence())
    ((summary, outcome),) = list(alone.rounds(until=2))
    assert summary.outage == "the cable is cut"
    assert set(summary.heard) == {"bob", "cleo"}
    assert torch.isfinite(outcome.served).all()


def test_a_site_that_nobody_answers_is_what_it_is_alone(country: Country) -> None:
    ((summary, outcome),) = list(node(country, "ann", Silence()).rounds(until=1))
    assert summary.heard == ()
    assert summary.share == {"ann": 1.0}
    assert torch.isfinite(outcome.served).all()
    assert summary.mixture_loss == pytest.approx(summary.own_loss, rel=0.05)


def test_a_removed_site_goes_on_alone(country: Country) -> None:
    nodes = together(country)
    bundle = country.dismiss("cleo")
    country.replicas["cleo"].learn(bundle)
    ((summary, _),) = list(nodes["cleo"].rounds(until=1))
    assert summary.outage is not None
    assert "no longer belongs" in summary.outage


@dataclass
class CutError(Exception):
    """The power goes."""


@dataclass(frozen=True)
class Failing(DFLMoE):
    """A method during which the power goes at a named point."""

    at: str = ""

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        if self.at == "before training":
            raise CutError
        done = super().prepare(state, data, rng)
        if self.at == "after training":
            raise CutError
        return done

    def absorb(self, *_: object, **__: object) -> NoReturn:
        raise CutError


@pytest.mark.parametrize("at", ["before training", "after training", "after lending"])
def test_a_round_that_was_cut_off_is_played_again_as_if_nothing_had_happened(
    tmp_path: Path, at: str
) -> None:
    whole, cut = (Country(tmp_path / name, *SITES) for name in ("whole", "cut"))
    for country in (whole, cut):
        nodes = together(country)
        for one in nodes.values():
            list(one.rounds(until=2))
    failing = Failing(METHOD.network, METHOD.dials, METHOD.training, at=at)
    with pytest.raises(CutError):
        list(replace(together(cut)["ann"], algorithm=failing).rounds(until=3))
    cut.replicas["ann"].store.close()
    cut.replicas["ann"] = cut.replica("ann")  # started again
    for country in (whole, cut):
        list(together(country)["ann"].rounds(until=3))
    states = [together(country)["ann"].state() for country in (whole, cut)]
    assert states[0].round == 3
    assert same(*states)
    numbers = [len(country.replicas["ann"].offers()) for country in (whole, cut)]
    assert numbers[0] == numbers[1]


def test_the_same_head_of_the_same_round_is_lent_once(country: Country) -> None:
    ann = together(country)["ann"]
    _, lent = METHOD.prepare(ann.state(), ann.data, generator(0, "x"))
    first = ann.replica.lend(lent, 40)
    assert ann.replica.lend(lent, 40) == first
    assert ann.replica.lend(replace(lent, round=2), 40).seq > first.seq


def test_a_state_comes_back_bit_for_bit_and_in_its_order() -> None:
    rng = torch.Generator().manual_seed(0)
    head: Params = {
        "z": torch.randn(1, 2, generator=rng),
        "a/b": torch.tensor([[float("nan"), float("inf"), -0.0]]),
    }
    state = SiteState(
        "ann",
        7,
        {"head": head, "mixture": {}, "training": {"steps": torch.tensor([[3]])}},
        {
            "bob": Expert(head, 4, 6, anchors=torch.randn(1, 3, 2, generator=rng)),
            "cleo": Expert({"w": torch.ones(1, 2).t()}, 2, 5, opinion=torch.ones(1, 1, 1)),
        },
    )
    back = state_of(state_bytes(state))
    assert same(back, state)
    assert (back.site, back.round) == ("ann", 7)
    assert [list(p) for p in back.params.values()] == [["z", "a/b"], [], ["steps"]]
    assert back.params["training"]["steps"].dtype == torch.int64
    assert list(back.experts) == ["bob", "cleo"]
    assert back.experts["bob"].opinion is None
    assert back.experts["cleo"].anchors is None


@pytest.mark.parametrize("raw", [b"", b"x" * 99, state_bytes(SiteState("a", 1, {}))[:-3]])
def test_a_state_that_was_cut_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreError, match="restore a backup"):
        state_of(raw)


def test_only_the_newest_state_is_kept_on_disk(country: Country) -> None:
    nodes = together(country)
    for one in nodes.values():
        list(one.rounds(until=4))
    store = country.replicas["ann"].store
    heads = {one.blob for one in store.heads().values()}
    files = {path.name for path in (store.folder / "blobs").iterdir()}
    assert len(files - heads) <= 1 + len(SITES)  # one state, and heads not yet swept
    country.replicas["ann"].store.close()
    again = country.replica("ann")
    assert {p.name for p in (store.folder / "blobs").iterdir()} - heads != set()
    assert again.store.check() == []
    assert again.store.state() is not None


def test_a_round_by_hand_equals_a_round_of_the_node(country: Country) -> None:
    ann = together(country)["ann"]
    state = ann.state()
    rng = generator(0, PURPOSE, "ann", 0)
    by_hand, _ = run_round(METHOD, state, lambda _: [], ann.data, rng)
    list(ann.rounds(until=1))
    assert same(ann.state(), by_hand)
