"""The algorithm's laws, on sites that are made up."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.made import made_data, made_rows
from torch import nn

from dflmoe.core.algorithm import Outcome, out_of_fold_loss, run_round
from dflmoe.core.controls import bootstrap, permuted, random_like
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.guard import what_serves
from dflmoe.core.site import CrossFit, Lent, Network, SiteData, SiteState
from dflmoe.core.task import Labels
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
    head = {"weight": torch.randn(3, 2, 4, generator=rng), "bias": torch.zeros(3, 2)}
    noise = random_like(head, rng)
    for name, p in head.items():
        torch.testing.assert_close(noise[name].flatten(1).norm(dim=1), p.flatten(1).norm(dim=1))
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


@pytest.mark.parametrize(
    ("better", "serves"),
    [(2.0, "mixture"), (0.0, "own"), (-2.0, "own")],
    ids=["clear benefit", "level", "harm"],
)
def test_a_hedge_moves_as_far_as_the_evidence_goes(better: float, serves: str) -> None:
    data = made_data(made_rows("home", 200, 9))
    truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
    noise = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + noise, dim=2)
    said = torch.log_softmax((1 + better) * truth + noise, dim=2)
    served, used = what_serves(own, said, data, Dials(hedge=True))
    torch.testing.assert_close(served, {"mixture": said, "own": own}[serves])
    assert used.all() == (serves == "mixture")


@pytest.mark.parametrize("ranks", [False, True], ids=["accuracy", "AUROC"])
def test_a_loss_that_falls_at_the_price_of_the_score_serves_nobody(ranks: bool) -> None:
    task = Labels(ranks=ranks)
    data = replace(made_data(made_rows("home", 200, 9)), task=task)
    truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
    seen, more = (torch.randn(truth.shape, generator=generator(3, k)) for k in range(2))
    bold = torch.log_softmax(8 * (truth + seen), dim=2)
    cautious = torch.log_softmax(0.5 * (truth + seen + more), dim=2)
    assert (out_of_fold_loss(cautious, data) < out_of_fold_loss(bold, data) - 0.5).all()
    served, _ = what_serves(bold, cautious, data, Dials(hedge=True))
    own, new, now = (
        task.score(said, data.y.expand(2, -1), data.crossfit.fold)
        for said in (bold, cautious, served)
    )
    assert (new < own).all()
    assert (now >= own).all()


@pytest.mark.parametrize(("rare", "serves"), [(40, False), (8, True)], ids=["many", "few"])
def test_what_is_good_on_average_and_bad_for_a_class_serves_nobody_where_rows_tell(
    rare: int, serves: bool
) -> None:
    data = made_data(made_rows("home", 300, 9))
    y = (torch.arange(300) >= 300 - rare).long()
    data = replace(data, y=y, crossfit=CrossFit(torch.arange(300)[None] % 5))
    truth = torch.nn.functional.one_hot(y, 2).float()[None]
    seen = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + seen, dim=2)
    harm = torch.where(y == 1, -0.7, 1.5)[:, None]
    said = torch.log_softmax(truth * (1 + harm) + seen, dim=2)
    losses = [data.task.losses(what, y[None])[0] for what in (own, said)]
    assert losses[1].mean() < losses[0].mean() - 0.1
    assert losses[1][y == 1].mean() > losses[0][y == 1].mean() + 0.1
    _, used = what_serves(own, said, data, Dials(hedge=True))
    assert bool(used[0]) is serves


def test_what_test_rows_turn_out_to_be_moves_no_hedge() -> None:
    data, decided = made_data(made_rows("home", 120, 9)).only(0), []
    hidden = data.crossfit.fold[0] < 0
    other = replace(data, y=torch.where(hidden, 2 + data.y, data.y))  # of classes nobody trains on
    truth = torch.nn.functional.one_hot(data.y, 4).float()[None]
    for seed in range(40):
        seen, more = (torch.randn(truth.shape, generator=generator(6, seed, k)) for k in range(2))
        own = torch.log_softmax(truth + seen, dim=2)
        said = torch.log_softmax(1.1 * truth + seen + 0.4 * more, dim=2)
        before, after = (what_serves(own, said, d, Dials(hedge=True)) for d in (data, other))
        torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)
        decided.append(bool(before[1]))
    assert 0 < sum(decided) < len(decided)


def test_splits_are_judged_apart_also_where_one_lacks_a_class() -> None:
    y = torch.cat([torch.zeros(60), torch.ones(30)]).long()
    fold = torch.arange(90)[None].repeat(2, 1) % 5
    fold[1, y == 1] = -1
    data = replace(
        made_data(made_rows("home", 90, 9)), y=y, crossfit=CrossFit(fold), x=torch.zeros(2, 90, 4)
    )
    truth = torch.nn.functional.one_hot(y, 2).float().expand(2, -1, -1)
    seen = torch.randn(truth.shape, generator=generator(3))
    own = torch.log_softmax(truth + seen, dim=2)
    said = torch.log_softmax(truth * torch.where(y == 1, 0.3, 3.0)[:, None] + seen, dim=2)
    _, used = what_serves(own, said, data, Dials(hedge=True))
    alone = [
        what_serves(own[k : k + 1], said[k : k + 1], data.only(k), Dials(hedge=True))[1][0]
        for k in range(2)
    ]
    assert used.tolist() == [bool(a) for a in alone] == [False, True]


def test_weak_evidence_moves_a_hedge_half_way() -> None:
    data = made_data(made_rows("home", 40, 9))
    halves = 0
    for seed in range(40):
        rng = generator(4, seed)
        truth = torch.nn.functional.one_hot(data.y, 2).float().expand(2, -1, -1)
        own = torch.log_softmax(truth + torch.randn(2, 40, 2, generator=rng), dim=2)
        said = torch.log_softmax(1.3 * truth + torch.randn(2, 40, 2, generator=rng), dim=2)
        served, used = what_serves(own, said, data, Dials(hedge=True))
        mean = torch.logaddexp(own, said) - math.log(2)
        for split in range(2):
            options = [own[split], said[split], mean[split]]
            which = [bool(torch.allclose(served[split], o, atol=1e-5)) for o in options]
            assert sum(which) == 1
            assert bool(used[split]) != which[0]
            halves += which[2]
    assert halves > 0
