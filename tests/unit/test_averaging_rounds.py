"""Rounds of averaging, heads lent after them, and what a mixture makes of both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import Algorithm, Outcome, out_of_fold_loss
from dflmoe.core.controls import Control
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.simulation.faults import Weather
from dflmoe.simulation.federation import play
from dflmoe.types import SiteId, generator

STEPS = Training(
    weight_decays=(0.01,), learning_rate=0.02, max_steps=6, judge_every=6, early_stopping=False
)
WHOLE = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=40)
PAYS = Dials(averaging=3, gate="selected", with_alone=True, hedge=True)
NETWORK = replace(mlp(4, 2, hidden=6), common=True)


def sites(rows: int = 60) -> dict[SiteId, SiteData]:
    return {name: made_data(made_rows(name, rows, k)) for k, name in enumerate(("ann", "bob"))}


def algorithm(dials: Dials = PAYS) -> DFLMoE:
    return DFLMoE(NETWORK, dials, STEPS, WHOLE)


def federated(
    data: Mapping[SiteId, SiteData], dials: Dials = PAYS
) -> tuple[dict[SiteId, list[Outcome]], list[Lent]]:
    """Return outcomes of all rounds, and what Bob heard from Ann."""
    heard: list[Lent] = []

    class Listening(DFLMoE):
        def absorb(
            self,
            state: SiteState,
            inbox: Sequence[Lent],
            data: SiteData,
            rng: torch.Generator,
        ) -> tuple[SiteState, Outcome]:
            heard.extend(m for m in inbox if m.site == "ann")
            return super().absorb(state, inbox, data, rng)

    algorithms: dict[SiteId, Algorithm] = {
        name: Listening(NETWORK, dials, STEPS, WHOLE) for name in data
    }
    played = play(algorithms, data, rounds=dials.averaging + 1, seed=0, purpose="test")
    return played.outcomes, heard


def test_no_fit_ever_meets_the_fold_that_it_is_judged_on_not_even_through_its_peers() -> None:
    data = sites()
    bob, fold = data["bob"], data["bob"].crossfit.fold
    other = replace(bob, y=torch.where((fold[0] == 0), 1 - bob.y, bob.y))
    _, before = federated(data)
    _, after = federated({**data, "bob": other})
    fits = [m for m in before if m.kind == "fits"]
    assert len(fits) == PAYS.averaging
    for old, new in zip(fits, (m for m in after if m.kind == "fits"), strict=True):
        for name, p in old.tensors.items():
            torch.testing.assert_close(p[0, 0], new.tensors[name][0, 0], rtol=0, atol=0)
    last = [[m for m in heard if m.kind == "fits"][-1].tensors for heard in (before, after)]
    assert any(not torch.equal(p[0, 1], last[1][name][0, 1]) for name, p in last[0].items())


def test_a_head_that_is_lent_as_an_expert_knows_its_own_site_only() -> None:
    data = sites()
    other = {**data, "bob": made_data(made_rows("bob", 60, 77))}
    heads = [
        next(m for m in heard if m.kind == "head")
        for heard in (federated(data)[1], federated(other)[1])
    ]
    for name, p in heads[0].tensors.items():
        torch.testing.assert_close(p, heads[1].tensors[name], rtol=0, atol=0)


def test_until_heads_are_lent_a_site_serves_what_it_has_alone() -> None:
    data = sites()
    alone = play(
        {name: LocalOnly(NETWORK, WHOLE) for name in data}, data, rounds=1, seed=0, purpose="alone"
    )
    data = {name: replace(one, alone=alone.outcomes[name][0].served) for name, one in data.items()}
    outcomes, _ = federated(data)
    for name, rounds in outcomes.items():
        for early in rounds[:-1]:
            torch.testing.assert_close(early.served, data[name].alone)
            assert not early.used.any()
        shares = rounds[-1].share
        assert list(shares)[:2] == [name, f"{name} (own network)"]
        torch.testing.assert_close(sum(shares.values()), torch.ones(2))


def test_sites_that_hear_each_other_begin_each_round_alike() -> None:
    data = sites()
    dials = PAYS
    states = {}
    lents = {}
    for name, one in data.items():
        state = algorithm().init(name, one, generator(0, name))
        states[name], lents[name] = algorithm().prepare(state, one, generator(0, name))
    starts = []
    for name, one in data.items():
        others = [lent for peer, lent in lents.items() if peer != name]
        state, _ = algorithm(dials).absorb(states[name], others, one, generator(1, name))
        starts.append(state.params["average"])
    for name, p in starts[0].items():
        torch.testing.assert_close(p, starts[1][name])


def gained(control: Control) -> float:
    """Return the out-of-fold loss saved by what served, summed over sites with few rows."""
    data = {**sites(24), "rich": made_data(made_rows("rich", 400, 5))}
    outcomes, _ = federated(data, replace(PAYS, control=control))
    return sum(
        float((rounds[-1].own_loss - rounds[-1].mixture_loss).sum())
        for name, rounds in outcomes.items()
        if name != "rich"
    )


def test_every_control_plays_and_none_gains_what_peers_give() -> None:
    gains = {control: gained(control) for control in ("none", "random", "shuffled", "self")}
    assert all(torch.isfinite(torch.tensor(list(gains.values()))))
    assert gains["none"] > max(gains["random"], gains["shuffled"], gains["self"])


@pytest.mark.parametrize("lost", [0.25, 0.75])
def test_with_messages_lost_everybody_plays_on_with_what_arrived(lost: float) -> None:
    data = {**sites(), "cyd": made_data(made_rows("cyd", 60, 3))}
    algorithms: dict[SiteId, Algorithm] = {name: algorithm() for name in data}
    played = play(
        algorithms, data, rounds=4, seed=0, purpose="test", weather=Weather(lost, {}, seed=1)
    )
    for name, outcomes in played.outcomes.items():
        assert len(outcomes) == 4
        assert torch.isfinite(outcomes[-1].served).all()
        assert set(outcomes[-1].share) <= set(data)
        assert name in outcomes[-1].share


def test_a_site_that_hears_nobody_averages_and_mixes_its_own() -> None:
    data = sites()
    silent: dict[SiteId, Algorithm] = {name: algorithm() for name in data}
    played = play(
        silent, data, rounds=4, seed=0, purpose="test", faults=dict.fromkeys(data, "silent")
    )
    for name, outcomes in played.outcomes.items():
        assert list(outcomes[-1].share) == [name]
        assert not outcomes[-1].worth


def test_a_hostile_peer_spoils_the_average_and_no_site_ends_worse_than_alone() -> None:
    data = {**sites(200), "bad": made_data(made_rows("bad", 60, 3))}
    alone = play(
        {name: LocalOnly(NETWORK, WHOLE) for name in data}, data, rounds=1, seed=0, purpose="alone"
    )
    data = {name: replace(one, alone=alone.outcomes[name][0].served) for name, one in data.items()}
    algorithms: dict[SiteId, Algorithm] = {name: algorithm() for name in data}
    played = play(algorithms, data, rounds=4, seed=0, purpose="test", faults={"bad": "poisoned"})
    for name in ("ann", "bob"):
        outcome = played.outcomes[name][-1]
        losses = [out_of_fold_loss(said, data[name]) for said in (outcome.served, outcome.own)]
        assert (losses[0] <= losses[1] + 1e-6).all()
        assert float(outcome.share["bad"].max()) < 0.1
