"""Laws of the rivals that average weights: with its own term switched off, each is an older one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.unit.test_rivals import BUDGET, NETWORK, SITES, Round, same, site, sites
from tests.unit.test_rivals import told as told_in
from torch import Tensor

from dflmoe.baselines import (
    apfl,
    d_psgd,
    dfedavgm,
    ditto,
    fedavg,
    fedper,
    fedprox,
    scaffold,
    softpull,
)
from dflmoe.baselines.aim import Aim, common, half_square, unprepared
from dflmoe.baselines.averaging import Averaging
from dflmoe.baselines.dfedavgm import HeavyBall
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network, SiteData, SiteState
from dflmoe.core.stacking import part_of
from dflmoe.simulation.federation import play
from dflmoe.types import Params, generator

BUDGET = replace(BUDGET, rounds=3)


def told(rival: Rival, data: Mapping[str, SiteData], budget: Budget = BUDGET) -> list[Round]:
    return told_in(rival, data, budget)


def aimed(rival: Rival, aim: Aim) -> Rival:
    """Return the rival with another aim."""

    def build(network: Network, budget: Budget) -> Averaging:
        built = rival.build(network, budget)
        assert isinstance(built, Averaging)
        return replace(built, aim=aim)

    return replace(rival, build=build)


def without_peers(data: SiteData) -> list[tuple[SiteState, SiteState]]:
    """Return the states of a site alone, round by round: after its steps, and at the end."""
    algorithm = d_psgd.RIVAL.build(NETWORK, BUDGET)
    state = algorithm.init("ann", data, generator(1, "t", "ann", "init"))
    states = []
    for number in range(BUDGET.rounds):
        rng = generator(1, "t", "ann", number)
        trained, _ = algorithm.prepare(state, data, rng)
        state, _ = algorithm.absorb(trained, [], data, rng)
        states.append((trained, state))
    return states


def test_fedprox_with_no_pull_is_fedavg_bit_for_bit() -> None:
    data = sites()
    loose = aimed(fedprox.RIVAL, replace(fedprox.AIM, dials=(0.0,)))
    for one, other in zip(told(loose, data), told(fedavg.FEDAVG, data), strict=True):
        for name in SITES:
            assert torch.equal(one.outcomes[name].served, other.outcomes[name].served)
            assert same(one.after[name].params["model"], other.after[name].params["model"])


def test_the_harder_fedprox_pulls_the_less_a_site_strays_from_the_average() -> None:
    budget = replace(BUDGET, steps=replace(BUDGET.steps, weight_decays=(0.01,), max_steps=20))
    tight = aimed(fedprox.RIVAL, replace(fedprox.AIM, dials=(0.0, 1.0, 100.0)))
    first, second = told(tight, sites(), budget)[:2]
    start, end = first.after["ann"].params["model"], second.trained["ann"].params["trained"]
    far = sum((end[name] - start[name]).square().flatten(1).sum(1) for name in start)
    assert isinstance(far, Tensor)
    loose, middle, hard = far.unflatten(0, (3, 4)).unbind()
    assert (hard < middle).all()
    assert (middle < loose).all()


def test_the_pull_is_half_the_squared_distance_of_weights_and_biases() -> None:
    now = {"w": torch.tensor([[[3.0]], [[1.0]]]), "b": torch.tensor([[4.0], [1.0]])}
    origin = {name: torch.zeros_like(p) for name, p in now.items()}
    # Of the first model (3² + 4²) / 2 = 12.5 times 2, of the second (1 + 1) / 2 = 1 times 10.
    assert half_square(now, origin, torch.tensor([2.0, 10.0])) == 35.0


@pytest.mark.parametrize(
    ("rival", "aim"),
    [
        pytest.param(ditto.RIVAL, replace(ditto.AIM, dials=(0.0,)), id="Ditto, lambda = 0"),
        pytest.param(
            apfl.RIVAL,
            replace(apfl.AIM, dials=(1.0,), readies=unprepared),
            id="APFL, alpha = 1",
        ),
    ],
)
def test_a_model_of_ones_own_that_nothing_pulls_is_local_training(rival: Rival, aim: Aim) -> None:
    rounds = told(aimed(rival, aim), sites())
    for one, (trained, _) in zip(rounds, without_peers(site(0)), strict=True):
        own = part_of(one.trained["ann"].params["trained"], "own")
        assert same({n: p for n, p in own.items() if n != "alpha"}, trained.params["trained"])


@pytest.mark.parametrize("rival", [ditto.RIVAL, apfl.RIVAL], ids=["Ditto", "APFL"])
def test_beside_the_own_model_the_common_one_is_that_of_fedavg(rival: Rival) -> None:
    data = sites()
    built = rival.build(NETWORK, BUDGET)
    assert isinstance(built, Averaging)
    single = aimed(rival, replace(built.aim, dials=built.aim.dials[:1]))
    for one, other in zip(told(single, data), told(fedavg.FEDAVG, data), strict=True):
        for name in SITES:
            assert same(common(one.after[name].params["model"]), other.after[name].params["model"])
            assert set(one.lent[name].tensors) == set(other.lent[name].tensors)


def test_what_ditto_and_apfl_serve_is_the_own_model_and_the_mixture() -> None:
    model = {"body/w": torch.tensor([[2.0], [2.0]]), "own/body/w": torch.tensor([[6.0], [6.0]])}
    assert ditto.own(model)["body/w"].flatten().tolist() == [6.0, 6.0]
    mixed = apfl.mixed({**model, apfl.ALPHA: torch.tensor([0.25, 1.0])})
    assert mixed["body/w"].flatten().tolist() == [3.0, 6.0]  # 0.25 · 6 + 0.75 · 2


def test_alpha_takes_the_step_of_the_papers_equation_and_stays_a_share() -> None:
    def loss(params: Params) -> Tensor:
        return params["body/w"].square().sum() / 2

    model = {
        "body/w": torch.tensor([[1.0], [1.0]]), "own/body/w": torch.tensor([[3.0], [-9.0]]),
        apfl.ALPHA: torch.tensor([0.5, 0.5]),
    }  # fmt: skip
    # The mixtures are 2 and -4, their slopes too; v - w is 2 and -10: alpha moves by -rate · 4, 40.
    after = apfl.adapted(loss, model, 0.1)
    torch.testing.assert_close(after[apfl.ALPHA], torch.tensor([0.1, 0.0]))


def test_alpha_adapts_to_the_site_and_differs_between_sites() -> None:
    last = told(apfl.RIVAL, sites())[-1]
    ann, bob = (last.after[name].params["model"][apfl.ALPHA] for name in SITES[:2])
    assert ((ann >= 0) & (ann <= 1)).all()
    assert not torch.equal(ann, bob)


def test_scaffold_begins_as_fedavg_bit_for_bit_and_then_corrects() -> None:
    data = sites()
    ours, older = told(scaffold.RIVAL, data), told(fedavg.FEDAVG, data)
    equal = [
        same(common(one.after["ann"].params["model"]), other.after["ann"].params["model"])
        for one, other in zip(ours, older, strict=True)
    ]
    assert equal == [True, False, False]


def test_scaffold_of_sites_that_are_alike_is_fedavg() -> None:
    budget = replace(BUDGET, steps=replace(BUDGET.steps, batch=None))
    data = dict.fromkeys(SITES, site(0))
    pairs = zip(told(scaffold.RIVAL, data, budget), told(fedavg.FEDAVG, data, budget), strict=True)
    for one, other in pairs:
        for name, p in other.after["ann"].params["model"].items():
            torch.testing.assert_close(one.after["ann"].params["model"][name], p)


def test_a_control_variate_is_the_mean_of_the_gradients_that_a_site_saw() -> None:
    # With plain steps that is the paper's option II: c_i - c + (x - y) / (steps · rate).
    plain = aimed(
        scaffold.RIVAL,
        replace(scaffold.AIM, dials=(0.1,), optimiser=partial(HeavyBall, momentum=0.0)),
    )
    rounds = told(plain, sites())
    for before, one in pairwise(rounds):
        start, end = before.after["ann"].params["model"], one.trained["ann"].params["trained"]
        for name in common(start):
            moved = (start[name] - end[name]) / (BUDGET.steps.max_steps * 0.1)
            expected = start[f"own/variate/{name}"] - start[f"variate/{name}"] + moved
            torch.testing.assert_close(end[f"own/variate/{name}"], expected, atol=2e-6, rtol=1e-4)


def test_control_variates_travel_and_are_counted() -> None:
    def sent(rival: Rival) -> Mapping[str, int]:
        return play(
            {name: rival.build(NETWORK, BUDGET) for name in SITES}, sites(), rounds=1, seed=1,
            purpose="t", server=rival.server,
        ).payload_bytes  # fmt: skip

    numbers = sum(p.numel() for part in (NETWORK.body, NETWORK.head) for p in part.parameters())
    extra = sent(scaffold.RIVAL)["ann"] - sent(fedavg.FEDAVG)["ann"]
    assert 4 * numbers <= extra <= 4 * numbers + 500  # and their names


def test_what_a_site_keeps_at_home_never_travels() -> None:
    for rival in (scaffold.RIVAL, ditto.RIVAL, apfl.RIVAL, fedper.RIVAL):
        for one in told(rival, sites()):
            assert not any(n.startswith("own/") for n in one.lent["ann"].tensors)


def softly(share: float) -> list[Round]:
    aim = Aim(dials=(share,), merges=softpull.pulled)
    return told(aimed(softpull.RIVAL, aim), sites())


def test_a_site_that_keeps_all_of_its_model_trains_alone() -> None:
    for one, (_, alone) in zip(softly(1.0), without_peers(site(0)), strict=True):
        assert same(one.after["ann"].params["model"], alone.params["model"])


def test_a_site_that_keeps_its_part_of_all_sites_takes_the_plain_mean() -> None:
    for one in softly(1 / 3):
        for name, p in one.trained["ann"].params["trained"].items():
            mean = (p + sum(one.trained[s].params["trained"][name] for s in SITES[1:])) / 3
            for state in one.after.values():
                torch.testing.assert_close(state.params["model"][name], mean)


def test_a_soft_pull_mixes_the_own_model_with_the_mean_of_the_others() -> None:
    # The others of three sites with mean 2 and own 4 are 1 on average: 0.7 · 4 + 0.3 · 1 = 3.1.
    answer = {"w": torch.tensor([[2.0]]), "sites": torch.tensor([3.0])}
    after = softpull.pulled({"w": torch.tensor([[4.0]])}, answer, torch.tensor([0.7]))
    torch.testing.assert_close(after["w"], torch.tensor([[3.1]]))


def test_a_single_site_is_not_pulled() -> None:
    answer = {"w": torch.tensor([[4.0]]), "sites": torch.tensor([1.0])}
    after = softpull.pulled({"w": torch.tensor([[4.0]])}, answer, torch.tensor([0.7]))
    assert after["w"].item() == 4.0


def test_heavy_ball_steps_carry_a_share_of_the_last_one() -> None:
    weight = torch.tensor([[1.0], [1.0]], requires_grad=True)
    ball = HeavyBall({"w": weight}, 9.0, torch.tensor([0.1, 0.2]), momentum=0.5)
    for _ in range(2):
        ball.step(weight.sum())
    # Of the first model: -0.1, then -0.1 - 0.05; of the second twice that.
    torch.testing.assert_close(weight.detach().flatten(), torch.tensor([0.75, 0.5]))


def test_without_momentum_a_step_is_the_gradient_times_the_rate() -> None:
    weight = torch.tensor([[2.0]], requires_grad=True)
    ball = HeavyBall({"w": weight}, 9.0, torch.tensor([0.1]), momentum=0.0)
    for expected in (1.8, 1.62):  # the gradient of w² / 2 is w
        ball.step(weight.square().sum() / 2)
        assert weight.item() == pytest.approx(expected)
    with pytest.raises(FloatingPointError, match="finite"):
        ball.step((weight * torch.nan).sum())


def everybody(names: Sequence[str]) -> Mapping[str, list[str]]:
    return {name: [peer for peer in names if peer != name] for name in names}


def test_without_momentum_in_a_full_mesh_all_end_up_with_the_mean_of_all() -> None:
    mesh = replace(aimed(dfedavgm.RIVAL, dfedavgm.aim(momentum=0.0)), topology=everybody)
    rounds: list[Round] = told(mesh, sites())
    for one in rounds:
        for name, p in one.trained["ann"].params["trained"].items():
            mean = (p + sum(one.trained[s].params["trained"][name] for s in SITES[1:])) / 3
            for state in one.after.values():
                torch.testing.assert_close(state.params["model"][name], mean)


def test_momentum_moves_a_site_further_in_a_round() -> None:
    far = []
    for momentum in (0.0, 0.9):
        budget = replace(BUDGET, steps=replace(BUDGET.steps, max_steps=8, batch=None))
        algorithm = aimed(dfedavgm.RIVAL, dfedavgm.aim(momentum)).build(NETWORK, budget)
        start = algorithm.init("ann", site(0), generator(0))
        trained, _ = algorithm.prepare(start, site(0), generator(0))
        moved = [
            (p - start.params["model"][name]).square().sum()
            for name, p in trained.params["trained"].items()
        ]
        far.append(float(sum(moved)))
    assert far[1] > 2 * far[0]
