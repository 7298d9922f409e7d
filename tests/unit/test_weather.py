"""What the network does to messages, who goes on, and what was sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made import made_data, made_rows, noise

from dflmoe.baselines import d_psgd, fedavg
from dflmoe.baselines.d_psgd import ring
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.rival import Budget
from dflmoe.core.algorithm import SERVER, Algorithm, Outcome, alone_outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.errors import OptionError
from dflmoe.networks import mlp, plain
from dflmoe.simulation.faults import (
    DEAD,
    FAIR,
    LATE,
    SCALE,
    Fault,
    Lie,
    LinkFault,
    Spell,
    Weather,
    churn,
    lied,
    misled,
)
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.in_step import InStep
from dflmoe.types import SiteId
from dflmoe.wire.payload import ENVELOPE_BYTES, encode

NAMES = ("ann", "bob", "cyd", "dan")
ANYTHING = made_data(made_rows("a", 12, 0))
law = settings(max_examples=10, deadline=None)


@dataclass(frozen=True)
class Roll:
    """An algorithm that learns nothing: each site sends its own power of two.

    What it hears is in the outcome: the sum of what arrived, so that one number says who was heard.
    """

    number: int

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:  # noqa: ARG002
        return SiteState(site, 0, {})

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator  # noqa: ARG002
    ) -> tuple[SiteState, Lent]:  # fmt: skip
        state = replace(state, round=state.round + 1)
        number = torch.full((1, 1), 2.0**self.number)
        return state, Lent(state.site, state.round, "head", 1, {"number": number})

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator  # noqa: ARG002
    ) -> tuple[SiteState, Outcome]:  # fmt: skip
        said = torch.zeros(2, len(data.y), 2) - 0.7
        heard = sum((float(lent.tensors["number"]) for lent in inbox), 0.0)
        share = {state.site: torch.full((2,), heard)}
        return state, replace(alone_outcome(said, state, data), share=share)


def total(lents: Sequence[Lent]) -> Lent:
    """Answer all sites with the sum of what was heard."""
    number = torch.stack([lent.tensors["number"] for lent in lents]).sum(0)
    return replace(lents[0], site=SERVER, tensors={"number": number})


def rolled(
    weather: Weather = FAIR,
    names: Sequence[str] = NAMES,
    rounds: int = 3,
    *,
    server: bool = False,
    faults: Mapping[SiteId, Fault] | None = None,
    hears: Mapping[SiteId, Sequence[SiteId]] | None = None,
) -> Played:
    return play(
        {name: Roll(k) for k, name in enumerate(names)}, dict.fromkeys(names, ANYTHING),
        rounds=rounds, seed=0, purpose="t", server=total if server else None, faults=faults,
        weather=weather, hears=hears,
    )  # fmt: skip


def heard(played: Played, site: SiteId) -> list[set[SiteId]]:
    """Return whom a site heard, round by round; through a server, whom the server heard."""
    numbers = [int(outcome.share[site][0]) for outcome in played.outcomes[site]]
    return [{name for k, name in enumerate(NAMES) if number >> k & 1} for number in numbers]


weathers = st.builds(
    Weather,
    lost=st.floats(0, 0.9),
    gone=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4)),
    seed=st.integers(0, 999),
)


# Messages.


def test_in_fair_weather_everything_arrives() -> None:
    played = rolled()
    for name in NAMES:
        assert heard(played, name) == [set(NAMES) - {name}] * 3


@law
@given(weather=weathers)
def test_a_site_hears_exactly_the_peers_whose_messages_arrive(weather: Weather) -> None:
    played = rolled(weather)
    for name in NAMES:
        assert heard(played, name) == [
            {peer for peer in NAMES if peer != name and weather.arrives(number, peer, name)}
            for number in (1, 2, 3)
        ]


@law
@given(weather=weathers)
def test_a_server_hears_what_arrives_and_its_answer_may_be_lost_too(weather: Weather) -> None:
    played = rolled(weather, server=True)
    for number in (1, 2, 3):
        arrived = {name for name in NAMES if weather.arrives(number, name, SERVER)}
        for name in NAMES:
            answered = weather.arrives(number, SERVER, name)
            assert heard(played, name)[number - 1] == (arrived if answered else set())


def test_an_answer_is_lost_to_one_site_and_reaches_the_others() -> None:
    weather = Weather(lost=0.3, seed=1)
    told = [[weather.arrives(number, SERVER, name) for name in NAMES] for number in range(1, 20)]
    number = next(k for k, answers in enumerate(told, 1) if sum(answers) == 3)
    lost = NAMES[told[number - 1].index(False)]
    played = rolled(weather, rounds=number, server=True)
    assert heard(played, lost)[-1] == set()
    assert all(heard(played, name)[-1] for name in NAMES if name != lost)


@given(weather=weathers, number=st.integers(1, 9), pair=st.permutations(NAMES))
def test_the_weather_of_a_seed_is_always_the_same(
    weather: Weather, number: int, pair: list[str]
) -> None:
    twin = Weather(weather.lost, dict(weather.gone), weather.seed)
    assert weather.arrives(number, *pair[:2]) == twin.arrives(number, *pair[:2])


@given(weather=weathers, number=st.integers(1, 9), pair=st.permutations(NAMES))
def test_what_is_lost_in_bad_weather_is_lost_in_worse(
    weather: Weather, number: int, pair: list[str]
) -> None:
    worse = replace(weather, lost=(1 + weather.lost) / 2)
    assert weather.arrives(number, *pair[:2]) or not worse.arrives(number, *pair[:2])


@pytest.mark.parametrize("lost", [0.1, 0.5, 0.75])
def test_about_the_share_that_is_asked_for_is_lost(lost: float) -> None:
    weather = Weather(lost=lost)
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b]
    arrived = [weather.arrives(number, *pair) for number in range(1, 201) for pair in pairs]
    # 2400 draws: the standard error is at most 0.0102; four of them are allowed.
    assert abs(1 - sum(arrived) / len(arrived) - lost) < 0.041


def test_both_ways_rounds_and_seeds_are_lost_independently() -> None:
    weather, other = Weather(lost=0.5), Weather(lost=0.5, seed=1)
    numbers = range(1, 401)
    there = torch.tensor([weather.arrives(k, "ann", "bob") for k in numbers]).float()
    others = {
        "back": [weather.arrives(k, "bob", "ann") for k in numbers],
        "next round": [weather.arrives(k + 1, "ann", "bob") for k in numbers],
        "other receiver": [weather.arrives(k, "ann", "cyd") for k in numbers],
        "other seed": [other.arrives(k, "ann", "bob") for k in numbers],
    }
    for name, arrived in others.items():
        correlation = torch.corrcoef(torch.stack([there, torch.tensor(arrived).float()]))[0, 1]
        # Of 400 independent pairs it has a standard error of 0.05; four of them are allowed.
        assert abs(float(correlation)) < 0.2, name


def test_a_message_that_is_lost_one_way_may_arrive_the_other_way() -> None:
    played = rolled(Weather(lost=0.5), rounds=12)
    ann, bob = heard(played, "ann"), heard(played, "bob")
    ways = {("bob" in a, "ann" in b) for a, b in zip(ann, bob, strict=True)}
    assert {(True, False), (False, True)} <= ways


def test_a_site_that_is_gone_neither_sends_nor_receives_from_its_round_on() -> None:
    weather = Weather(gone={"bob": 3, "dan": 2})
    played = rolled(weather, rounds=4)
    assert heard(played, "ann") == [{"bob", "cyd", "dan"}, {"bob", "cyd"}, {"cyd"}, {"cyd"}]
    assert heard(played, "bob") == [{"ann", "cyd", "dan"}, {"ann", "cyd"}, set(), set()]
    served = rolled(weather, rounds=4, server=True)
    assert heard(served, "ann") == [set(NAMES), {"ann", "bob", "cyd"}] + [{"ann", "cyd"}] * 2
    assert heard(served, "bob") == [set(NAMES), {"ann", "bob", "cyd"}, set(), set()]


def test_when_everybody_is_gone_nobody_is_answered() -> None:
    played = rolled(Weather(gone=dict.fromkeys(NAMES, 2)), server=True)
    assert all(heard(played, name) == [set(NAMES), set(), set()] for name in NAMES)


# Spells: scripts of faults.


def struck(fault: LinkFault) -> Played:
    return rolled(Weather(spells=[Spell("bob", fault, 2, 3)]), rounds=5)


@pytest.mark.parametrize("fault", sorted(DEAD))
def test_a_dead_link_brings_nothing_while_the_spell_lasts_and_all_afterwards(
    fault: LinkFault,
) -> None:
    played, others = struck(fault), {"cyd", "dan"}
    assert heard(played, "ann") == [others | {"bob"}, others, others, *[others | {"bob"}] * 2]
    assert heard(played, "bob") == [{"ann", *others}, set(), set(), *[{"ann", *others}] * 2]


def test_over_a_half_open_link_a_site_is_heard_and_hears_nothing() -> None:
    played = struck("half open")
    assert heard(played, "ann") == [{"bob", "cyd", "dan"}] * 5
    assert [bool(found) for found in heard(played, "bob")] == [True, False, False, True, True]


@pytest.mark.parametrize("fault", sorted(LATE))
def test_over_a_slow_link_what_was_sent_comes_a_round_later(fault: LinkFault) -> None:
    exchange = InStep(["ann", "bob"], weather=Weather(spells=[Spell("bob", fault, 2, 3)]))
    for number, comes in zip(range(1, 6), (1, 1, 2, 4, 5), strict=True):
        said = {"number": torch.ones(1, 1)}
        exchange.begin()
        for site in ("ann", "bob"):
            exchange.send(site, Lent(site, number, "head", 1, said), 1)
        for site, peer in (("ann", "bob"), ("bob", "ann")):
            assert [heard.round for heard in exchange.heard(site, [peer], number)] == [comes]


def test_a_link_that_loses_loses_half_of_its_site_s_messages_only() -> None:
    played = rolled(Weather(spells=[Spell("bob", "loss", 1, 200)]), rounds=200)
    came = sum("bob" in found for found in heard(played, "ann"))
    assert 70 < came < 130  # of 200, with a standard error of 7
    assert all({"cyd", "dan"} <= found for found in heard(played, "ann"))


def test_a_server_waits_for_nothing_that_is_late() -> None:
    weather = Weather(spells=[Spell("bob", "latency", 2, 2), Spell("dan", "refuse", 3, 3)])
    played = rolled(weather, server=True)
    assert heard(played, "ann") == [set(NAMES), {"ann", "cyd", "dan"}, {"ann", "bob", "cyd"}]
    assert heard(played, "bob")[1] == set()
    assert heard(played, "dan")[2] == set()


# Sites that come and go.


@law
@given(share=st.floats(0.01, 0.5), count=st.integers(2, 12), seed=st.integers(0, 999))
def test_in_every_round_a_share_of_the_sites_is_away_and_back_in_the_next(
    share: float, count: int, seed: int
) -> None:
    sites = [f"site {k}" for k in range(count)]
    spells = churn(sites, 9, share, seed)
    away = [{spell.site for spell in spells if spell.first == number} for number in range(1, 10)]
    assert all(spell.first == spell.last for spell in spells)
    assert {len(some) for some in away} == {max(1, min(round(share * count), count // 2))}
    assert all(not before & after for before, after in pairwise(away))
    assert spells == churn(sites, 9, share, seed)


def test_seeds_draw_other_sites_and_in_time_all_of_them() -> None:
    one, other = (churn(NAMES, 20, 0.25, seed) for seed in (0, 1))
    assert one != other
    assert {spell.site for spell in one} == set(NAMES)


def test_a_site_that_is_away_is_heard_by_nobody_and_hears_nobody_in_that_round_alone() -> None:
    spells = churn(NAMES, 5, 0.25, 0)
    played = rolled(Weather(spells=spells), rounds=5)
    for name in NAMES:
        for found, spell in zip(heard(played, name), spells, strict=True):
            assert found == (set() if name == spell.site else set(NAMES) - {name, spell.site})


def test_a_site_that_rejoins_is_held_by_its_peers_until_its_head_is_too_old() -> None:
    played = federation("dflmoe", Weather(spells=[Spell("bob", "refuse", 2, 3)]), rounds=4)
    held = ["bob" in outcome.share for outcome in played.outcomes["ann"]]
    assert held == [True, True, False, True]
    assert [len(outcome.share) for outcome in played.outcomes["bob"]] == [4, 4, 1, 4]


# Bytes.

MESSAGE = len(encode({"number": torch.ones(1)})) + ENVELOPE_BYTES


def test_in_a_mesh_every_message_is_paid_once_for_each_peer() -> None:
    played = rolled()
    assert played.sent_bytes == {**dict.fromkeys(NAMES, MESSAGE * 3 * 3), SERVER: 0}
    assert played.payload_bytes == dict.fromkeys(NAMES, MESSAGE - ENVELOPE_BYTES)


def test_on_a_ring_every_message_is_paid_for_two_neighbours() -> None:
    played = rolled(hears=ring(NAMES))
    assert played.sent_bytes == {**dict.fromkeys(NAMES, MESSAGE * 2 * 3), SERVER: 0}
    assert heard(played, "ann") == [{"bob", "dan"}] * 3


def test_on_a_ring_of_one_nothing_is_sent() -> None:
    played = rolled(names=["ann"], hears=ring(["ann"]))
    assert played.sent_bytes == {"ann": 0, SERVER: 0}
    assert heard(played, "ann") == [set()] * 3


def test_a_server_is_paid_one_message_of_a_site_and_answers_them_all() -> None:
    played = rolled(server=True)
    assert played.sent_bytes == {**dict.fromkeys(NAMES, MESSAGE * 3), SERVER: MESSAGE * 4 * 3}


def test_a_lost_message_was_sent_all_the_same() -> None:
    assert rolled(Weather(lost=0.5)).sent_bytes == rolled().sent_bytes


def test_a_site_that_is_gone_sends_nothing_any_more() -> None:
    for server, listeners in ((False, 3), (True, 1)):
        sent = rolled(Weather(gone={"bob": 2}), server=server).sent_bytes
        assert sent["bob"] == MESSAGE * listeners
        assert sent["ann"] == MESSAGE * listeners * 3
    assert sent[SERVER] == MESSAGE * (4 + 3 + 3)  # it answers those who are there


def test_a_silent_site_sends_nothing() -> None:
    played = rolled(faults={"bob": "silent"})
    assert played.sent_bytes["bob"] == 0
    assert heard(played, "ann") == [{"cyd", "dan"}] * 3


def test_a_site_alone_sends_nothing() -> None:
    data = {name: made_data(made_rows(name, 20, k)) for k, name in enumerate(NAMES)}
    plan = Training(weight_decays=(0.1,), max_steps=2)
    alone: dict[str, Algorithm] = {name: LocalOnly(plain(4, 2), plan) for name in NAMES}
    played = play(alone, data, rounds=2, seed=0, purpose="t")
    assert played.sent_bytes == {**dict.fromkeys(NAMES, 0), SERVER: 0}
    assert played.payload_bytes == dict.fromkeys(NAMES, 0)


# Who goes on when others leave.

NETWORK = mlp(4, 2, hidden=4)
STEPS = Training(weight_decays=(0.01,), learning_rate=0.05, max_steps=2, judge_every=2)
BUDGET = Budget(STEPS, STEPS, rounds=3, seed=0)
ROWS = {name: made_data(made_rows(name, 24, k)) for k, name in enumerate(NAMES)}
METHODS = ("dflmoe", "FedAvg", "D-PSGD")


def federation(
    method: str, weather: Weather = FAIR, names: Sequence[str] = NAMES, rounds: int = 3
) -> Played:
    """Play a method; a site that is left out leaves a gap in the ring."""
    algorithms: dict[str, Algorithm]
    if method == "dflmoe":
        dials = Dials(mixture_steps=2, max_age=1)
        algorithms = {name: DFLMoE(NETWORK, dials, STEPS) for name in names}
    else:
        rival = fedavg.FEDAVG if method == "FedAvg" else d_psgd.RIVAL
        algorithms = {name: rival.build(NETWORK, BUDGET) for name in names}
    gaps = {n: [p for p in peers if p in names] for n, peers in ring(NAMES).items() if n in names}
    data = {name: ROWS[name] for name in names}
    return play(
        algorithms, data, rounds=rounds, seed=0, purpose="t", weather=weather,
        server=fedavg.FEDAVG.server if method == "FedAvg" else None,
        hears=gaps if method == "D-PSGD" else None,
    )  # fmt: skip


@cache
def undisturbed(method: str) -> Played:
    return federation(method)


def same(one: Outcome, other: Outcome) -> bool:
    return torch.equal(one.served, other.served)


@pytest.mark.parametrize("method", METHODS)
def test_those_who_stay_go_on_as_if_the_lost_site_had_never_been(method: str) -> None:
    stay = [name for name in NAMES if name != "bob"]
    left = federation(method, Weather(gone={"bob": 1}))
    never = federation(method, names=stay)
    for name in stay:
        pairs = zip(left.outcomes[name], never.outcomes[name], strict=True)
        assert all(same(*pair) for pair in pairs)


@pytest.mark.parametrize("method", METHODS)
def test_until_a_site_leaves_all_is_as_in_fair_weather_and_then_all_go_on(method: str) -> None:
    fair, left = undisturbed(method), federation(method, Weather(gone={"bob": 3}))
    for name in NAMES:
        pairs = list(zip(fair.outcomes[name], left.outcomes[name], strict=True))
        assert all(same(*pair) for pair in pairs[:2])
        assert pairs[2][1].served.isfinite().all()
    if method == "dflmoe":  # the head of the second round is still held in the third
        assert set(left.outcomes["ann"][2].share) == set(NAMES)


def test_a_head_of_a_site_that_left_is_dropped_when_it_is_too_old() -> None:
    played = federation("dflmoe", Weather(gone={"bob": 2}))
    held = [set(outcome.share) for outcome in played.outcomes["ann"]]
    assert held == [set(NAMES), set(NAMES), set(NAMES) - {"bob"}]
    alone = [set(outcome.share) for outcome in played.outcomes["bob"]]
    assert alone == [set(NAMES), set(NAMES), {"bob"}]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives_a_storm(method: str) -> None:
    played = federation(method, Weather(lost=0.75))
    assert all(o.served.isfinite().all() for site in played.outcomes.values() for o in site)
    assert not all(
        same(*pair)
        for name in NAMES
        for pair in zip(played.outcomes[name], undisturbed(method).outcomes[name], strict=True)
    )


CHURN = [
    Spell("ann", "refuse", 1, 2),
    Spell("bob", "blackhole", 2, 4),
    Spell("cyd", "latency", 1, 6),
    Spell("dan", "loss", 1, 6),
    Spell("ann", "half open", 4, 5),
]


@pytest.mark.parametrize("seed", range(5))
def test_sites_that_leave_come_back_and_lose_messages_are_no_worse_than_alone(seed: int) -> None:
    """By log-loss on rows that nobody learnt from, but for what chance does to a mean of them."""
    training = Training(weight_decays=(0.1,), learning_rate=0.05, max_steps=60)
    algorithms = {name: DFLMoE(plain(4, 2), Dials(), training) for name in NAMES}
    rows = {name: made_data(made_rows(name, 160, 10 * seed + k)) for k, name in enumerate(NAMES)}
    played = play(
        algorithms, rows, rounds=6, seed=seed, purpose="t",
        weather=Weather(lost=0.5, seed=seed, spells=CHURN),
    )  # fmt: skip
    for name, data in rows.items():
        tested, of = data.crossfit.fold < 0, torch.arange(len(data.y))
        for outcome in played.outcomes[name]:
            gained = (outcome.served - outcome.own)[:, of, data.y][tested]
            assert gained.mean() > -3 * gained.std() / len(gained) ** 0.5 - 0.01


@pytest.mark.parametrize("lie", ["poisoned", "random", "scaled"])
def test_a_lie_has_the_form_of_a_head_and_only_scaling_shows_in_its_norm(lie: Lie) -> None:
    head = {"weight": noise(0, 2, 3, 4), "bias": noise(1, 2, 3)}
    told = lied(Lent("ann", 1, "head", 4, head), lie).tensors
    for name, p in head.items():
        assert told[name].shape == p.shape
        assert not torch.allclose(told[name], p)
        times = SCALE if lie == "scaled" else 1.0
        lengths = [v.flatten(1).norm(dim=1) for v in (told[name], p)]
        torch.testing.assert_close(lengths[0], times * lengths[1], rtol=1e-4, atol=1e-4)


def test_a_swapped_head_is_honest_in_the_first_round_only() -> None:
    head = {"weight": noise(1, 1, 2, 3)}
    first, later = (lied(Lent("ann", number, "head", 3, head), "swapped") for number in (1, 2))
    assert torch.equal(first.tensors["weight"], head["weight"])
    assert torch.equal(later.tensors["weight"], -head["weight"])


@pytest.mark.parametrize("y", [[0, 1, 1, 0], [2, 0, 2, 1], [0, 0, 0, 0]])
def test_flipped_labels_are_false_in_every_row(y: list[int]) -> None:
    data = replace(ANYTHING, y=torch.tensor(3 * y))
    assert (misled(data, "flipped").y != data.y).all()
    assert misled(data, "poisoned") is data


def test_a_class_is_mislabelled_and_the_rest_is_true() -> None:
    data = replace(ANYTHING, y=torch.tensor(2 * [2, 0, 2, 0, 2, 3]))
    assert misled(data, "one_class").y.tolist() == 2 * [2, 0, 2, 0, 2, 2]


def test_labels_of_images_cannot_be_flipped() -> None:
    with pytest.raises(OptionError, match="cannot be 'flipped'"):
        misled(replace(ANYTHING, y=torch.rand(12, 1, 4, 4)), "flipped")


def test_a_misled_site_lends_what_false_labels_taught_it_and_no_other_site_is_touched() -> None:
    plan = Training(weight_decays=(0.1,), max_steps=30)
    data = {name: made_data(made_rows(name, 30, k)) for k, name in enumerate(NAMES[:2])}
    algorithms: dict[str, Algorithm] = {name: DFLMoE(plain(4, 2), Dials(), plan) for name in data}
    liars: list[dict[str, Fault]] = [{}, {"bob": "flipped"}]
    honest, lies = (
        play(algorithms, data, rounds=1, seed=0, purpose="t", faults=who).lent for who in liars
    )
    one, other = (played["bob"][0].tensors["weight"] for played in (honest, lies))
    assert torch.allclose(one, -other, atol=0.05)
    assert torch.equal(honest["ann"][0].tensors["weight"], lies["ann"][0].tensors["weight"])
