"""Mixing the peers that are of most use, and no more of them than asked for."""

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.core.algorithm import Algorithm, Outcome
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.gate import GateKind
from dflmoe.core.quarantine import most_useful
from dflmoe.core.training import Training
from dflmoe.networks import plain
from dflmoe.simulation.federation import play

NAMES = ("ann", "bob", "cyd", "dan")
DATA = {name: made_data(made_rows(name, 60, k)) for k, name in enumerate(NAMES)}
PLAN = Training(weight_decays=(0.1,))


def outcome(experts: int | None, gate: GateKind = "static") -> Outcome:
    dials = Dials(experts=experts, gate=gate)
    algorithms: dict[str, Algorithm] = {n: DFLMoE(plain(4, 2), dials, PLAN) for n in NAMES}
    played = play(algorithms, DATA, rounds=1, seed=0, purpose="t", faults={"dan": "poisoned"})
    return played.outcomes["ann"][-1]


@pytest.mark.parametrize("gate", ["static", "selected"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_no_more_peers_weigh_than_asked_for_and_a_poisoned_one_is_the_first_to_go(
    gate: GateKind, count: int
) -> None:
    share = outcome(count, gate).share
    peers = torch.stack([share[name] for name in NAMES[1:]])
    assert ((peers > 1e-6).sum(0) <= count).all()
    assert (share["dan"] < 1e-6).all()
    torch.testing.assert_close(peers.sum(0) + share["ann"], torch.ones(2))


def test_as_many_experts_as_there_are_peers_is_all_of_them() -> None:
    for one, other in ((3, None), (9, 3)):
        torch.testing.assert_close(outcome(one).mixture, outcome(other).mixture)


def test_without_any_peer_the_mixture_is_the_own_head() -> None:
    share = outcome(0).share
    torch.testing.assert_close(share["ann"], torch.ones(2))


def test_the_most_useful_are_those_with_the_lowest_loss_on_training_rows() -> None:
    data = made_data(made_rows("ann", 12, 0), folds=2)
    trains = data.crossfit.fold >= 0
    loss = torch.tensor([0.5, 0.9, 0.3, 0.1, 0.4])
    losses = loss.expand(*trains.shape, 5).clone()
    losses[~trains] = -torch.arange(5.0)  # what a test row says must not matter
    for count, expected in ((1, [1, 1, 0, 1, 0]), (2, [1, 1, 1, 1, 0]), (3, [1] * 5)):
        kept = most_useful(losses, data, 2, count)
        assert kept.int().tolist() == [expected] * len(kept)
