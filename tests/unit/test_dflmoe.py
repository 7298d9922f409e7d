"""The algorithm's laws, on sites that are made up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.made import made_data, made_rows
from torch import nn

from dflmoe.core.algorithm import Outcome, run_round
from dflmoe.core.controls import bootstrap, permuted, random_like
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.networks import mlp, plain, small_cnn
from dflmoe.types import generator

QUICK = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40)
PLAIN = plain(4, 2)


def lent_by(name: str, seed: int, algorithm: DFLMoE, rows: int = 80, signal: float = 1.5) -> Lent:
    """Return what a site lends after training on its own rows."""
    data = made_data(made_rows(name, rows, seed, signal=signal))
    rng = generator(0, name)
    return algorithm.prepare(algorithm.init(name, data, rng), data, rng)[1]


def at_home(
    algorithm: DFLMoE, inbox: Sequence[Lent], rows: int = 60, seed: int = 9
) -> tuple[SiteState, Outcome, SiteData]:
    """Return what a site makes of an inbox."""
    data = made_data(made_rows("home", rows, seed))
    rng = generator(0, "home")
    state = algorithm.init("home", data, rng)
    state, outcome = run_round(algorithm, state, lambda _: inbox, data, generator(1, "home"))
    return state, outcome, data


def peers(algorithm: DFLMoE) -> list[Lent]:
    return [lent_by(name, k, algorithm) for k, name in enumerate(("ann", "bob", "cyd"))]


@pytest.mark.parametrize(
    "dials", [Dials(), replace(Dials.paper(), guard=False)], ids=["auto", "paper"]
)
def test_the_order_of_peers_does_not_matter(dials: Dials) -> None:
    algorithm = DFLMoE(PLAIN, dials, QUICK)
    inbox = peers(algorithm)
    _, first, _ = at_home(algorithm, inbox)
    _, second, _ = at_home(algorithm, inbox[::-1])
    torch.testing.assert_close(first.served, second.served, rtol=0, atol=0)


@pytest.mark.parametrize("pool", ["linear", "log", "logits"])
def test_an_expert_equal_to_the_own_head_changes_nothing(
    pool: Literal["linear", "log", "logits"],
) -> None:
    # In sample, so that the own head is one and the same for its site and its copy.
    dials = Dials(pool=pool, calibrate=False, out_of_fold_gate=False, guard=False)
    algorithm = DFLMoE(PLAIN, dials, QUICK)
    data = made_data(made_rows("home", 60, 9))
    state = algorithm.init("home", data, generator(0, "home"))
    state, own = algorithm.prepare(state, data, generator(1, "home"))
    copy = replace(own, site="copy")
    _, outcome = algorithm.absorb(state, [copy], data, generator(2, "home"))
    tested = data.crossfit.fold < 0
    torch.testing.assert_close(outcome.mixture[tested], outcome.own[tested], rtol=1e-4, atol=1e-5)


def test_the_published_method_goes_on_when_nobody_lends() -> None:
    _, outcome, _ = at_home(DFLMoE(PLAIN, Dials.paper(), QUICK), [])
    assert list(outcome.share) == ["home"]


def test_without_any_head_a_site_is_what_it_is_alone() -> None:
    _, outcome, _ = at_home(DFLMoE(PLAIN, Dials(calibrate=False), QUICK), [])
    torch.testing.assert_close(outcome.mixture, outcome.own)
    assert list(outcome.share) == ["home"]


def test_shares_sum_to_one_and_start_near_uniform() -> None:
    algorithm = DFLMoE(PLAIN, Dials(gate_sd=1e-3), QUICK)
    _, outcome, _ = at_home(algorithm, peers(algorithm))
    shares = torch.stack(list(outcome.share.values()))
    torch.testing.assert_close(shares, torch.full_like(shares, 0.25), atol=1e-2, rtol=0)


def test_peers_with_more_rows_help_a_site_with_few() -> None:
    algorithm = DFLMoE(PLAIN, Dials(), QUICK)
    inbox = [lent_by(f"p{k}", k, algorithm, rows=400) for k in range(3)]
    gains = []
    for seed in range(20, 30):
        _, outcome, data = at_home(algorithm, inbox, rows=24, seed=seed)
        target = data.y[None, :, None].expand(*outcome.own.shape[:2], 1)
        change = outcome.mixture.gather(2, target) - outcome.own.gather(2, target)
        gains.append(float(change[data.crossfit.fold < 0].mean()))
    assert sum(g > 0 for g in gains) >= 8


def test_a_head_that_says_the_opposite_is_set_aside_and_costs_only_itself() -> None:
    algorithm = DFLMoE(PLAIN, Dials(), QUICK)
    good = peers(algorithm)
    bad = replace(good[0], tensors={n: -p for n, p in good[0].tensors.items()})
    _, with_bad, _ = at_home(algorithm, [bad, *good[1:]], rows=240)
    _, without, _ = at_home(algorithm, good[1:], rows=240)
    assert with_bad.quarantined["ann"].all()
    assert not with_bad.quarantined["home"].any()
    torch.testing.assert_close(with_bad.mixture, without.mixture, atol=1e-4, rtol=1e-3)


def test_the_guard_falls_back_to_the_best_model_alone() -> None:
    algorithm = DFLMoE(PLAIN, Dials(quarantine_rows=10**6), QUICK)
    good = lent_by("ann", 0, algorithm)
    bad = [
        replace(good, site=f"bad{k}", tensors={n: -5 * p for n, p in good.tensors.items()})
        for k in range(3)
    ]
    data = made_data(made_rows("home", 240, 9))
    perfect = torch.full((2, 240, 2), -5.0)
    perfect[:, torch.arange(240), data.y] = -0.01
    data = replace(data, alone=perfect)
    state = algorithm.init("home", data, generator(0))
    _, outcome = run_round(algorithm, state, lambda _: bad, data, generator(1))
    assert not outcome.used.any()
    torch.testing.assert_close(outcome.served, perfect)
    assert (outcome.own_loss < outcome.mixture_loss).all()


def test_without_a_vouched_space_an_unclear_mixture_is_not_used() -> None:
    trusting, wary = (DFLMoE(PLAIN, Dials(vouched=v), QUICK) for v in (True, False))
    inbox = peers(trusting)
    used = [at_home(a, inbox, rows=200, seed=3)[1].used for a in (trusting, wary)]
    assert used[0].sum() >= used[1].sum()


def test_an_unheard_expert_is_kept_for_a_while_and_then_dropped() -> None:
    algorithm = DFLMoE(PLAIN, Dials(max_age=2), QUICK)
    inbox = peers(algorithm)
    state, _, data = at_home(algorithm, inbox)
    held = []
    for number in range(3):
        state, _ = run_round(algorithm, state, lambda _: inbox[:1], data, generator(2, number))
        held.append(sorted(state.experts))
    assert held == [["ann", "bob", "cyd"], ["ann", "bob", "cyd"], ["ann"]]


@pytest.mark.parametrize("control", ["random", "shuffled", "self"])
def test_controls_know_nothing_and_do_not_beat_what_peers_know(
    control: Literal["random", "shuffled", "self"],
) -> None:
    def loss(dials: Dials) -> float:
        algorithm = DFLMoE(PLAIN, dials, QUICK)
        inbox = [lent_by(f"p{k}", k, algorithm, rows=300) for k in range(3)]
        return sum(
            float(at_home(algorithm, inbox, rows=24, seed=s)[1].mixture_loss.mean())
            for s in range(20, 26)
        )

    assert loss(Dials()) < loss(Dials(control=control))


def test_random_heads_have_the_norm_of_the_lent_ones(rng: torch.Generator) -> None:
    head = {
        "weight": torch.randn(3, 2, 4, generator=rng),
        "bias": torch.zeros(3, 2),
        "share": torch.ones(3),
    }
    noise = random_like(head, rng)
    for name, p in head.items():
        norms = [v.reshape(3, -1).norm(dim=1) for v in (noise[name], p)]
        torch.testing.assert_close(*norms)
    assert not torch.allclose(noise["weight"], head["weight"])


def test_shuffled_labels_keep_their_mix(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 50, 0))
    shuffled = permuted(data, rng)
    assert shuffled.y.sum() == data.y.sum()
    assert not torch.equal(shuffled.y, data.y)


def test_a_bootstrap_sample_stays_within_training_rows_and_classes(rng: torch.Generator) -> None:
    data = made_data(made_rows("a", 50, 0))
    sample = bootstrap(data, rng)
    assert sample.times is not None
    trains = data.crossfit.fold >= 0
    assert not sample.times[~trains].any()
    for label in (0, 1):
        rows = trains & (data.y == label)
        torch.testing.assert_close((sample.times * rows).sum(1), rows.sum(1))
    assert (sample.learnt.sum(2)[:, -1] == trains.sum(1)).all()


def test_a_consensus_is_used_at_home_and_never_lent() -> None:
    own, consensus = (DFLMoE(PLAIN, Dials(restart=r), QUICK) for r in ("own", "consensus"))
    inbox = peers(own)
    first, alone, _ = at_home(own, inbox, rows=24)
    second, together, data = at_home(consensus, inbox, rows=24)
    torch.testing.assert_close(first.params["head"]["weight"], second.params["head"]["weight"])
    assert not torch.allclose(alone.mixture, together.mixture)
    _, lent = consensus.prepare(second, data, generator(5))
    torch.testing.assert_close(
        lent.tensors["weight"], data.crossfit.final(second.params["head"])["weight"]
    )


@pytest.mark.parametrize(
    ("network", "dials"),
    [
        pytest.param(mlp(4, 2, hidden=6), Dials.paper(), id="paper"),
        pytest.param(mlp(4, 2, hidden=6), replace(Dials.paper(), move_body=True), id="body moves"),
        pytest.param(
            mlp(4, 2, hidden=6), Dials(gate="attention", batch=16), id="seeded, attention"
        ),
        pytest.param(
            mlp(4, 2, hidden=6), Dials(gate="linear", body="private"), id="private, linear"
        ),
    ],
)
def test_every_combination_of_dials_plays_two_rounds(network: Network, dials: Dials) -> None:
    algorithm = DFLMoE(network, dials, QUICK)
    inbox = peers(algorithm)
    state, outcome, data = at_home(algorithm, inbox)
    again, second = run_round(algorithm, state, lambda _: inbox, data, generator(7))
    assert again.round == 2
    for one in (outcome, second):
        torch.testing.assert_close(one.served.exp().sum(-1), torch.ones(2, 60))
    moved = again.params["body"]["0.weight"] - state.params["body"]["0.weight"]
    assert moved.abs().max() > 0


def test_a_peer_may_have_a_body_of_another_width() -> None:
    dials = Dials.paper()
    wide = lent_by("wide", 1, DFLMoE(mlp(4, 2, hidden=10), dials, QUICK))
    _, outcome, _ = at_home(DFLMoE(mlp(4, 2, hidden=6), dials, QUICK), [wide])
    assert set(outcome.share) == {"home", "wide"}


def test_a_common_body_is_the_same_everywhere_and_stays(rng: torch.Generator) -> None:
    network = small_cnn(1, 2, width=4, common=True)
    algorithm = DFLMoE(
        network, Dials(), Training(weight_decays=(0.01,), max_steps=4, judge_every=2)
    )
    rows = made_rows("a", 24, 0, features=64)
    data = made_data(replace(rows, x=rows.x.reshape(24, 1, 8, 8)))
    states = [algorithm.init(name, data, generator(k)) for k, name in enumerate(("a", "b"))]
    torch.testing.assert_close(states[0].params["body"], states[1].params["body"])
    trained, lent = algorithm.prepare(states[0], data, rng)
    torch.testing.assert_close(trained.params["body"], states[0].params["body"])
    _, outcome = algorithm.absorb(trained, [replace(lent, site="b")], data, rng)
    assert outcome.served.shape == (2, 24, 2)


def test_private_bodies_differ_and_seeded_ones_do_not() -> None:
    data = made_data(made_rows("a", 24, 0))
    for body, same in (("private", False), ("seeded", True)):
        algorithm = DFLMoE(mlp(4, 2), Dials(body=body), QUICK)  # type: ignore[arg-type]
        first, second = (
            algorithm.init(n, data, generator(0, n)).params["body"]["0.weight"] for n in "ab"
        )
        assert torch.equal(first, second) is same


def test_a_head_may_be_any_module() -> None:
    head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    algorithm = DFLMoE(Network(nn.Identity(), head, 4, 2, common=True), Dials(), QUICK)
    _, outcome, _ = at_home(algorithm, peers(algorithm))
    assert outcome.served.isfinite().all()
    assert outcome.curve.shape[1] > 1


def test_a_round_leaves_the_state_it_came_from_alone() -> None:
    algorithm = DFLMoE(PLAIN, Dials(), QUICK)
    state, _, data = at_home(algorithm, peers(algorithm))
    before = {n: p.clone() for n, p in state.params["head"].items()}
    run_round(algorithm, state, lambda _: [], data, generator(3))
    torch.testing.assert_close(state.params["head"], before)
    assert state.round == 1


def test_test_rows_labels_are_never_looked_at() -> None:
    algorithm = DFLMoE(PLAIN, Dials(), QUICK)
    inbox = peers(algorithm)
    data = made_data(made_rows("home", 60, 9))
    hidden = data.crossfit.fold[0] < 0
    other = replace(data, y=torch.where(hidden, 1 - data.y, data.y))
    said = []
    for one in (data, other):
        state = algorithm.init("home", one, generator(0))
        said.append(run_round(algorithm, state, lambda _: inbox, one, generator(1))[1].served[0])
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=0)


def test_what_was_long_unheard_weighs_less_from_the_start() -> None:
    shares = []
    for fading in (1.0, 0.5):
        algorithm = DFLMoE(PLAIN, Dials(fading=fading, gate_sd=1e-3), QUICK)
        inbox = peers(algorithm)
        state, _, data = at_home(algorithm, inbox)
        for number in range(2):
            state, _ = algorithm.prepare(state, data, generator(2, number))
            state, outcome = algorithm.absorb(state, inbox[:1], data, generator(2, number))
        shares.append({name: float(share.mean()) for name, share in outcome.share.items()})
    assert shares[0]["bob"] == pytest.approx(shares[0]["ann"], abs=0.01)
    # Unheard for two rounds: a quarter of the weight of what was heard just now.
    assert shares[1]["bob"] == pytest.approx(shares[1]["ann"] / 4, rel=0.05)
    assert sum(shares[1].values()) == pytest.approx(1, abs=1e-4)


def test_a_head_is_worth_what_the_mixture_would_lose_without_it() -> None:
    algorithm = DFLMoE(PLAIN, Dials(quarantine_rows=10**6), QUICK)
    rich = [lent_by(f"p{k}", k, algorithm, rows=400) for k in range(2)]
    bad = replace(rich[0], site="bad", tensors={n: -p for n, p in rich[0].tensors.items()})
    _, outcome, _ = at_home(algorithm, [*rich, bad], rows=24)
    assert sorted(outcome.worth) == ["bad", "p0", "p1"]
    assert (outcome.worth["bad"] < 0).all()
    assert float(outcome.worth["p0"].mean()) > float(outcome.worth["bad"].mean())
