"""Laws of the rivals: who gets whose weights, and that no row ever judges what it taught."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from tests.made import made_data, made_rows
from torch import Tensor, nn

from dflmoe.baselines import (
    apfl,
    d_psgd,
    dfedavgm,
    ditto,
    fedavg,
    feddf,
    fedkd,
    fedmd,
    fedper,
    fedproto,
    fedprox,
    fedrep,
    fml,
    kt_pfl,
    lg_fedavg,
    mh_pflid,
    scaffold,
    softpull,
)
from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.d_psgd import ring
from dflmoe.baselines.fedmd import FedMD
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.low_rank import restored
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.algorithm import Algorithm, Outcome, out_of_fold_loss, run_round
from dflmoe.core.site import CrossFit, Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import part_of
from dflmoe.core.training import Training, cross_fit
from dflmoe.networks import mlp, plain
from dflmoe.simulation.federation import play
from dflmoe.types import Params, generator

RIVALS = {
    "FedAvg": fedavg.FEDAVG,
    "FedAvg + fine-tuning": fedavg.FEDAVG_TUNED,
    "FedRep": fedrep.RIVAL,
    "LG-FedAvg": lg_fedavg.RIVAL,
    "D-PSGD": d_psgd.RIVAL,
    "FedMD": fedmd.RIVAL,
    "FedPer": fedper.RIVAL,
    "FedProx": fedprox.RIVAL,
    "SCAFFOLD": scaffold.RIVAL,
    "Ditto": ditto.RIVAL,
    "APFL": apfl.RIVAL,
    "DFedAvgM": dfedavgm.RIVAL,
    "SoftPull": softpull.RIVAL,
    "FedProto": fedproto.RIVAL,
    "FedDF": feddf.RIVAL,
    "KT-pFL": kt_pfl.RIVAL,
    "FML": fml.RIVAL,
    "MH-pFLID": mh_pflid.RIVAL,
    "FedKD": fedkd.RIVAL,
}
AVERAGING = [name for name in RIVALS if name != "FedMD"]
NETWORK = mlp(4, 2, hidden=5)
SITES = ("ann", "bob", "cyd")
ROWS = 32
# Steps are fixed, so that nothing about them is chosen by looking at labels.
FIXED = Training(weight_decays=(0.01,), learning_rate=0.05, max_steps=4, early_stopping=False)
STEPS = Training(weight_decays=(0.1, 0.01), learning_rate=0.05, max_steps=2, batch=8)
BUDGET = Budget(FIXED, STEPS, rounds=2, seed=0)


def site(k: int, rows: int = ROWS) -> SiteData:
    """Return one split of a site: a quarter of its rows is tested, three folds are trained on."""
    made = made_rows(f"s{k}", rows, k)
    fold = torch.randperm(rows, generator=generator(k, "fold")) % 4 - 1
    return SiteData(
        torch.from_numpy(made.x)[None], torch.from_numpy(made.y), CrossFit(fold[None]),
        torch.arange(rows), anchors=torch.randn(10, 4, generator=generator(0, "public")),
    )  # fmt: skip


def sites(names: Sequence[str] = SITES) -> dict[str, SiteData]:
    return {name: site(k) for k, name in enumerate(names)}


def relabelled(data: SiteData, fold: int) -> SiteData:
    """Return the same rows with other labels for those of one fold, -1 for the tested ones."""
    return replace(data, y=torch.where(data.crossfit.fold[0] == fold, 1 - data.y, data.y))


@dataclass(frozen=True)
class Round:
    """One round of all sites, told step by step."""

    trained: Mapping[str, SiteState]
    lent: Mapping[str, Lent]
    after: Mapping[str, SiteState]
    outcomes: Mapping[str, Outcome]


def told(
    rival: Rival, data: Mapping[str, SiteData], budget: Budget = BUDGET, network: Network = NETWORK
) -> list[Round]:
    """Play a rival one site after the other, with nothing between the sites."""
    built = {name: rival.build(network, budget) for name in data}
    hears = rival.topology(list(data)) if rival.topology else {}
    server = rival.serving(dict.fromkeys(data, network), data, budget)
    states = {
        name: built[name].init(name, data[name], generator(1, "t", name, "init")) for name in data
    }
    rounds = []
    for number in range(budget.rounds):
        rngs = {name: generator(1, "t", name, number) for name in data}
        trained, lent = {}, {}
        for n in data:
            trained[n], lent[n] = built[n].prepare(states[n], data[n], rngs[n])
        answer = server(list(lent.values())) if server else {}
        answers = dict.fromkeys(data, answer) if isinstance(answer, Lent) else answer
        states, outcomes = {}, {}
        for n in data:
            inbox = [answers[n]] if server else [lent[peer] for peer in hears[n]]
            states[n], outcomes[n] = built[n].absorb(trained[n], inbox, data[n], rngs[n])
        rounds.append(Round(trained, lent, states, outcomes))
    return rounds


@cache
def plainly(rival: str) -> list[Round]:
    """Return a rival's rounds on the sites as they are."""
    return told(RIVALS[rival], sites())


def part(state: SiteState, of: str, params: str = "model") -> Params:
    return part_of(state.params[params], of)


def same(one: Params, other: Params) -> bool:
    assert set(one) == set(other)
    return all(torch.equal(p, other[n]) for n, p in one.items())


def fit_of(state: SiteState, fit: int, penalties: int) -> Params:
    """Return the weights of one fit, for every weight decay."""
    return {
        name: p.unflatten(0, (penalties, -1))[:, fit] for name, p in state.params["model"].items()
    }


def candidates(rival: str) -> int:
    """Return how many weight decays and dials a rival tries."""
    algorithm = RIVALS[rival].build(NETWORK, BUDGET)
    if isinstance(algorithm, FedMD):
        return 1
    dials = algorithm.aim.dials if isinstance(algorithm, Averaging) else (0.0,)
    return len(STEPS.weight_decays) * len(dials)


# Who gets whose weights.


def test_three_sites_on_a_ring_end_up_with_the_mean_of_their_three_models() -> None:
    for one in plainly("D-PSGD"):
        for name, weights in one.trained["ann"].params["trained"].items():
            mean = (weights + sum(one.trained[s].params["trained"][name] for s in SITES[1:])) / 3
            for state in one.after.values():
                torch.testing.assert_close(state.params["model"][name], mean)


def test_on_a_ring_of_four_the_opposite_site_is_heard_a_round_later() -> None:
    names = ("ann", "bob", "cyd", "dan")
    data = sites(names)
    first, second = (
        told(d_psgd.RIVAL, one) for one in (data, {**data, "cyd": relabelled(data["cyd"], 0)})
    )
    moved = [
        [not same(a.after[n].params["model"], b.after[n].params["model"]) for n in names]
        for a, b in zip(first, second, strict=True)
    ]
    assert moved == [[False, True, True, True], [True, True, True, True]]


def test_a_ring_has_two_neighbours_one_or_none() -> None:
    assert ring(["a", "b", "c", "d"]) == {
        "a": ["b", "d"], "b": ["a", "c"], "c": ["b", "d"], "d": ["a", "c"],
    }  # fmt: skip
    assert ring(["a", "b"]) == {"a": ["b"], "b": ["a"]}
    assert ring(["a"]) == {"a": []}


def test_two_sites_on_a_ring_meet_in_the_middle_and_one_goes_on_alone() -> None:
    pair = told(d_psgd.RIVAL, sites(SITES[:2]))[0]
    for name, weights in pair.trained["ann"].params["trained"].items():
        middle = (weights + pair.trained["bob"].params["trained"][name]) / 2
        for state in pair.after.values():
            torch.testing.assert_close(state.params["model"][name], middle)
    single = told(d_psgd.RIVAL, sites(SITES[:1]))[0]
    assert same(single.after["ann"].params["model"], single.trained["ann"].params["trained"])


@pytest.mark.parametrize(
    ("rival", "common"), [("LG-FedAvg", "head"), ("FedRep", "body"), ("FedPer", "body")]
)
def test_only_one_part_becomes_common(rival: str, common: str) -> None:
    own = {"head": "body", "body": "head"}[common]
    for one in plainly(rival):
        ann, *others = (one.after[name] for name in SITES)
        for other in others:
            assert same(part(ann, common), part(other, common))
            assert not same(part(ann, own), part(other, own))
        for name in SITES:
            assert same(part(one.after[name], own), part(one.trained[name], own, "trained"))
            assert {n.split("/")[0] for n in one.lent[name].tensors} == {common, "rows"}


def test_fedavg_makes_one_model_of_all_by_their_rows() -> None:
    data = {"ann": site(0, 24), "bob": site(1, 48)}
    one = told(fedavg.FEDAVG, data)[0]
    learnt = {name: rows.learnt[0].sum(1).repeat(2) for name, rows in data.items()}
    for name, ann in one.trained["ann"].params["trained"].items():
        bob = one.trained["bob"].params["trained"][name]
        for fit, (m, n) in enumerate(zip(learnt["ann"], learnt["bob"], strict=True)):
            mean = (m * ann[fit] + n * bob[fit]) / (m + n)
            for state in one.after.values():
                torch.testing.assert_close(state.params["model"][name][fit], mean)


def test_in_fedrep_the_body_stands_still_while_the_head_trains_and_the_other_way_round() -> None:
    def prepared(steps: int) -> tuple[SiteState, SiteState]:
        plan = replace(STEPS, max_steps=steps, batch=None)
        algorithm = fedrep.RIVAL.build(NETWORK, replace(BUDGET, steps=plan))
        begun = algorithm.init("ann", data, generator(0))
        return begun, algorithm.prepare(begun, data, generator(1))[0]

    data = site(0)
    begun, head_only = prepared(1)
    _, both = prepared(2)
    assert same(part(begun, "body"), part(head_only, "body", "trained"))
    assert not same(part(begun, "head"), part(head_only, "head", "trained"))
    assert not same(part(begun, "body"), part(both, "body", "trained"))
    assert same(part(head_only, "head", "trained"), part(both, "head", "trained"))


@pytest.mark.parametrize("rival", RIVALS)
def test_a_site_that_hears_nobody_goes_on_from_its_own_weights(rival: str) -> None:
    data = site(0)
    algorithm = RIVALS[rival].build(NETWORK, BUDGET)
    state = algorithm.init("ann", data, generator(0))
    for number in range(BUDGET.rounds):
        trained, _ = algorithm.prepare(state, data, generator(number))
        state, outcome = algorithm.absorb(trained, [], data, generator(number))
        assert same(state.params["model"], trained.params["trained"])
        assert outcome.served.isfinite().all()


@pytest.mark.parametrize("rival", RIVALS)
def test_the_simulator_plays_what_is_told_step_by_step(rival: str) -> None:
    one = RIVALS[rival]
    algorithms: dict[str, Algorithm] = {name: one.build(NETWORK, BUDGET) for name in SITES}
    played = play(
        algorithms, sites(), rounds=BUDGET.rounds, seed=1, purpose="t",
        server=one.serving(dict.fromkeys(SITES, NETWORK), sites(), BUDGET),
        hears=one.topology(SITES) if one.topology else None,
    )  # fmt: skip
    assert not any(played.refused.values())
    for name, outcomes in played.outcomes.items():
        for outcome, expected in zip(outcomes, plainly(rival), strict=True):
            assert torch.equal(outcome.served, expected.outcomes[name].served)
            total = outcome.served.exp().sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("rival", ["FedAvg", "FedAvg + fine-tuning"])
def test_one_model_of_all_sites_starts_from_one(rival: str) -> None:
    algorithm = RIVALS[rival].build(NETWORK, BUDGET)
    states = [algorithm.init(n, site(k), generator(k)) for k, n in enumerate(SITES)]
    assert same(states[0].params["model"], states[1].params["model"])


def test_fedmd_starts_from_weights_of_the_sites_own() -> None:
    algorithm = fedmd.RIVAL.build(NETWORK, BUDGET)
    states = [algorithm.init(n, site(0), generator(k)) for k, n in enumerate(SITES)]
    assert not same(states[0].params["model"], states[1].params["model"])


# Fine-tuning.


def test_fine_tuning_happens_after_the_last_round_and_not_before() -> None:
    budget = replace(BUDGET, rounds=3, training=replace(FIXED, max_steps=8))
    data = sites()
    averaged, tuned = (told(r, data, budget) for r in (fedavg.FEDAVG, fedavg.FEDAVG_TUNED))
    for name in SITES:
        for before, after in zip(averaged[:-1], tuned[:-1], strict=True):
            assert torch.equal(before.outcomes[name].served, after.outcomes[name].served)
        assert not torch.equal(averaged[-1].outcomes[name].served, tuned[-1].outcomes[name].served)
        assert same(averaged[-1].after[name].params["model"], tuned[-1].after[name].params["model"])


def test_fine_tuning_that_moves_nothing_returns_the_average() -> None:
    still = Training(weight_decays=(0.01,), learning_rate=0.0, max_steps=6, judge_every=1)
    budget = replace(BUDGET, rounds=3, training=still)
    data = sites()
    averaged, tuned = (told(r, data, budget)[-1] for r in (fedavg.FEDAVG, fedavg.FEDAVG_TUNED))
    for name in SITES:
        assert torch.equal(averaged.outcomes[name].served, tuned.outcomes[name].served)


@pytest.mark.parametrize("k", range(2))
def test_fine_tuning_starts_from_the_best_average_and_its_choice_is_never_worse(k: int) -> None:
    plan = Training(
        weight_decays=(0.1, 0.01), learning_rate=0.1, max_steps=18, judge_every=3, patience=3
    )
    data = {name: site(10 * k + i) for i, name in enumerate(SITES)}
    last = told(fedavg.FEDAVG, data, replace(BUDGET, rounds=3))[-1]
    algorithm = fedavg.FEDAVG.build(NETWORK, BUDGET)
    assert isinstance(algorithm, Averaging)
    for name, outcome in last.outcomes.items():
        state = last.after[name]
        chosen = state.params["kept"]["score"].argmin(1)
        best = {n: p.unflatten(0, (1, 2, 4))[0, chosen[0]] for n, p in state.params["best"].items()}
        fitted = cross_fit(algorithm.logits, best, data[name], plan, generator(0))
        start = out_of_fold_loss(outcome.served, data[name])
        torch.testing.assert_close(fitted.curve[:, 0], start)
        # Among all looks is the start, so the lowest is no higher.
        assert (fitted.curve.nan_to_num(torch.inf).min(1).values <= start + 1e-6).all()


# Predictions on public rows.


def scores_of(state: SiteState, params: str, data: SiteData) -> Tensor:
    algorithm = Averaging(NETWORK, STEPS)
    assert data.anchors is not None
    model = state.params[params]
    with torch.no_grad():
        return algorithm.logits(model, data.anchors.expand(4, *data.anchors.shape))


def test_what_fedmd_sends_are_scores_on_the_public_rows_and_no_weights() -> None:
    data = sites()
    for one in told(fedmd.RIVAL, data):
        for name, lent in one.lent.items():
            assert lent.kind == "predictions"
            assert set(lent.tensors) == {"scores"}
            expected = scores_of(one.trained[name], "trained", data[name])
            torch.testing.assert_close(lent.tensors["scores"], expected)


def test_a_single_site_digests_its_own_scores_and_does_not_move() -> None:
    data = sites(SITES[:1])
    budget = replace(BUDGET, steps=replace(STEPS, batch=None))
    for one in told(fedmd.RIVAL, data, budget):
        before, after = one.trained["ann"].params["trained"], one.after["ann"].params["model"]
        for name, weights in before.items():
            torch.testing.assert_close(after[name], weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [None, 5])
def test_two_sites_digest_towards_each_other(batch: int | None) -> None:
    steps = replace(STEPS, batch=batch, learning_rate=0.01, max_steps=10)
    data = sites(SITES[:2])
    for one in told(fedmd.RIVAL, data, replace(BUDGET, steps=steps)):
        before = [scores_of(one.trained[n], "trained", data[n]) for n in SITES[:2]]
        after = [scores_of(one.after[n], "model", data[n]) for n in SITES[:2]]
        apart = [(pair[0] - pair[1]).abs().mean((1, 2)) for pair in (before, after)]
        assert (apart[1] < apart[0]).all()


def test_fedmd_takes_the_mean_of_scores_fit_by_fit() -> None:
    lents = [
        Lent(name, 1, "predictions", 5, {"scores": torch.tensor([[[value]], [[10 * value]]])})
        for name, value in (("ann", 1.0), ("bob", 3.0))
    ]
    answer = fedmd.mean_scores(lents)
    assert answer.tensors["scores"].flatten().tolist() == [2.0, 20.0]


def test_fedmd_joins_sites_of_different_networks() -> None:
    data = sites(SITES[:2])
    networks = {"ann": NETWORK, "bob": Network(nn.Identity(), nn.Linear(4, 2), 4, 2)}
    played = play(
        {name: FedMD(network, BUDGET) for name, network in networks.items()},
        data, rounds=2, seed=0, purpose="t", server=fedmd.mean_scores,
    )  # fmt: skip
    assert all(o[-1].served.isfinite().all() for o in played.outcomes.values())


def test_fedmd_without_public_rows_says_what_is_missing() -> None:
    data = replace(site(0), anchors=None)
    algorithm = fedmd.RIVAL.build(NETWORK, BUDGET)
    state = algorithm.init("ann", data, generator(0))
    with pytest.raises(Exception, match="public rows"):
        algorithm.prepare(state, data, generator(0))


# No row ever judges what it taught.


@pytest.mark.parametrize("rival", RIVALS)
def test_the_fit_that_judges_a_row_never_saw_it_not_even_through_peers(rival: str) -> None:
    fold, data = 1, sites()
    changed = told(RIVALS[rival], {**data, "ann": relabelled(data["ann"], fold)})[-1]
    penalties = candidates(rival)
    for name in SITES:
        for fit in range(4):
            pair = [
                fit_of(one.after[name], fit, penalties) for one in (plainly(rival)[-1], changed)
            ]
            assert same(*pair) is (fit == fold), f"fit {fit} of {name}"
    first, second = (one.lent["ann"] for one in (plainly(rival)[-1], changed))
    lent = [restored(one.tensors) for one in (first, second)]
    for name in {n for n in lent[0] if "/" in n or n == "scores"}:  # not the notes beside
        stacks = [one[name].unflatten(0, (penalties, 4)) for one in lent]
        assert torch.equal(stacks[0][:, fold], stacks[1][:, fold]), name
        assert not torch.equal(stacks[0][:, -1], stacks[1][:, -1]), name


@pytest.mark.parametrize("rival", RIVALS)
def test_labels_of_tested_rows_influence_nothing(rival: str) -> None:
    budget = replace(BUDGET, training=replace(FIXED, early_stopping=True, judge_every=2))
    data = sites()
    changed = {name: relabelled(one, -1) for name, one in data.items()}
    first, second = (told(RIVALS[rival], one, budget)[-1] for one in (data, changed))
    for name in SITES:
        assert torch.equal(first.outcomes[name].served, second.outcomes[name].served)
        for of, params in first.after[name].params.items():
            assert same(params, second.after[name].params[of]), of


@pytest.mark.parametrize("network", [NETWORK, plain(4, 2)], ids=["descended", "solved"])
@pytest.mark.parametrize("method", ["local", "FedMD"])
def test_a_row_tested_in_one_split_and_trained_on_in_another_keeps_its_label_to_itself(
    method: str, network: Network
) -> None:
    # Splits are trained side by side; how long one of them takes must not show in the others.
    # The plan is a nervous one, so that a single row decides when a split stops.
    plan = Training(
        weight_decays=(0.1, 0.01), learning_rate=0.2, max_steps=30, judge_every=1, patience=1,
        batch=8,
    )  # fmt: skip
    algorithm: Algorithm = LocalOnly(network, plan)
    if method == "FedMD":
        algorithm = fedmd.RIVAL.build(network, replace(BUDGET, training=plan))
    for seed in range(6):
        data = replace(made_data(made_rows("ann", 40, seed), seed=seed), anchors=site(0).anchors)
        changed = (data.crossfit.fold[0] < 0) & (torch.arange(40) % 3 == 0)
        other = replace(data, y=torch.where(changed, 1 - data.y, data.y))
        served = []
        for one in (data, other):
            state = algorithm.init("ann", one, generator(seed))
            _, outcome = run_round(algorithm, state, lambda _: [], one, generator(seed, "round"))
            served.append(outcome.served[0])
        assert torch.equal(*served), f"seed {seed}"
