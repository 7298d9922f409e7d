"""What sites do together is what each does by itself, but for rounding."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import pytest
import torch
from tests.made import dense_data, made_data, made_masks, made_rows
from torch import Tensor, nn

from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network, SiteData
from dflmoe.core.stacking import Stack, initial
from dflmoe.core.together import Parts, together
from dflmoe.core.training import Training, cross_fit
from dflmoe.errors import TrainingError
from dflmoe.networks import mlp, plain
from dflmoe.simulation.company import ELEMENTS, in_company, stacked
from dflmoe.simulation.device import CPU
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import COMPANY, MANY, Machine
from dflmoe.tasks.segmentation import Pixels
from dflmoe.types import Params, generator

ROWS = {"ann": 30, "bob": 36, "cyd": 50, "dan": 36}
DATA = {name: made_data(made_rows(name, rows, k)) for k, (name, rows) in enumerate(ROWS.items())}
MLP = mlp(4, 2, hidden=5)
STEPS = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=20)


def outcome(method: Algorithm, data: Mapping[str, SiteData], company: int) -> Played:
    return play(
        dict.fromkeys(data, method),
        data,
        rounds=3,
        seed=0,
        purpose="t",
        machine=Machine(company=company),
    )


def agree(method: Algorithm, data: Mapping[str, SiteData] = DATA, atol: float = 1e-3) -> None:
    apart, joined = outcome(method, data, 1), outcome(method, data, 4)
    for name in data:
        for one, other in zip(apart.outcomes[name], joined.outcomes[name], strict=True):
            close = partial(torch.testing.assert_close, rtol=1e-2, atol=atol)
            close(other.own, one.own)
            close(other.mixture, one.mixture)
            close(other.curve, one.curve, equal_nan=True)
            for peer, share in one.share.items():
                close(other.share[peer], share)
            for peer, worth in one.worth.items():
                close(other.worth[peer], worth)
    assert joined.sent_bytes == apart.sent_bytes


@pytest.mark.parametrize(
    "dials",
    [
        pytest.param(Dials(mixture_steps=5), id="static gate"),
        pytest.param(Dials(mixture_steps=5, gate="linear", batch=8), id="linear gate, in batches"),
        pytest.param(Dials(mixture_steps=5, batch=36), id="in batches that are all rows of some"),
        pytest.param(Dials(gate="selected", quarantine_rows=10), id="selected, with quarantine"),
        pytest.param(Dials(mixture_steps=5, restart="consensus", experts=2), id="consensus"),
        pytest.param(replace(Dials.paper(), move_body=True), id="the published method"),
    ],
)
def test_sites_in_company_learn_what_each_learns_alone(dials: Dials) -> None:
    agree(DFLMoE(MLP, dials, STEPS))


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(replace(STEPS, max_steps=200, patience=1), id="ended at different times"),
        pytest.param(replace(STEPS, batch=8, early_stopping=False), id="in batches"),
        pytest.param(replace(STEPS, batch=16), id="in batches that are all rows of some"),
    ],
)
def test_networks_trained_in_company_end_where_each_ends(training: Training) -> None:
    agree(LocalOnly(MLP, training))


def test_linear_heads_are_solved_in_company() -> None:
    agree(DFLMoE(plain(4, 2), Dials(mixture_steps=5)))


def test_masks_are_learnt_in_company() -> None:
    body, head = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
    data = {n: dense_data(*made_masks(12 + k, k), Pixels()) for k, n in enumerate(("ann", "bob"))}
    agree(DFLMoE(Network(body, head, 3, 2), Dials(mixture_steps=3), STEPS), data)


# One step, in fp32 and in fp64.


@dataclass(frozen=True)
class Watched:
    """Says how many sites were stacked."""

    heard: list[int]

    def __hash__(self) -> int:
        return 0

    def __call__(self, given: Params, parts: Parts) -> Params:
        self.heard.append(len(parts.sizes))
        return {"sum": given["rows"].flatten(1).sum(1)}


def done(calls: list[Callable[[], Params]]) -> list[Params]:
    return in_company(calls, CPU)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_a_step_in_company_is_the_step_alone(dtype: torch.dtype, rtol: float) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        plan = replace(STEPS, max_steps=1, early_stopping=False)
        head = copy.deepcopy(MLP.head).to(dtype)

        def fitted(name: str) -> Params:
            data = replace(
                DATA[name], x=torch.tanh(DATA[name].x.to(dtype)[..., :1].expand(-1, -1, 5))
            )
            start = initial(head, data.crossfit.splits * data.crossfit.fits, generator(0))
            return cross_fit(Stack(head), start, data, plan, generator(0, name)).params

        joined = done([partial(fitted, name) for name in DATA])
        for name, params in zip(DATA, joined, strict=True):
            for key, p in fitted(name).items():
                torch.testing.assert_close(params[key], p, rtol=rtol, atol=rtol / 10)
                assert p.dtype == dtype
    finally:
        torch.set_default_dtype(before)


# Who is stacked with whom.


def asked(do: Watched, *rows: Tensor) -> list[Params]:
    return done([partial(together, do, {"rows": one}) for one in rows])


def test_sites_of_unlike_size_are_filled_up_with_zeros() -> None:
    do = Watched([])
    found = asked(do, torch.ones(2, 5), torch.ones(1, 7), torch.ones(3, 4))
    assert do.heard == [3]
    assert [p["sum"].tolist() for p in found] == [[5.0, 5.0], [7.0], [4.0] * 3]


def test_a_site_is_not_filled_up_to_more_than_twice_its_size() -> None:
    do = Watched([])
    asked(do, torch.ones(2, 5), torch.ones(1, 100), torch.ones(3, 7))
    assert sorted(do.heard) == [1, 2]


def test_no_more_is_stacked_than_memory_is_meant_for() -> None:
    do = Watched([])
    asked(do, *[torch.ones(1, ELEMENTS // 2)] * 3)
    assert sorted(do.heard) == [1, 2]


def test_sites_that_do_less_are_not_waited_for_any_more() -> None:
    do = Watched([])

    def often(times: int) -> int:
        for _ in range(times):
            together(do, {"rows": torch.ones(1, 2)})
        return times

    assert in_company([partial(often, n) for n in (1, 3, 0, 2)], CPU) == [1, 3, 0, 2]
    assert do.heard == [3, 2, 1]


@dataclass(frozen=True)
class Drawn:
    """Says what was drawn, and refuses what is negative."""

    def __call__(self, given: Params, parts: Parts) -> Params:
        found = parts.drawn(given["weight"], 4)
        if (given["weight"] < 0.1).any():
            raise FloatingPointError("too small")
        return {"found": found}


def test_every_site_draws_from_its_own_stream_even_when_another_fails() -> None:
    def drawn(seed: int, weight: float) -> list[int]:
        given = {"weight": torch.full((1, 6), weight)}
        return cast(list[int], together(Drawn(), given, generator(seed))["found"].tolist())

    def or_nothing(seed: int, weight: float) -> list[int] | None:
        try:
            return drawn(seed, weight)
        except FloatingPointError:
            return None

    sites = [(1, 0.5), (2, 0.05), (3, 0.5)]
    assert in_company([partial(or_nothing, *site) for site in sites], CPU) == [
        drawn(1, 0.5),
        None,
        drawn(3, 0.5),
    ]


def test_the_site_whose_loss_is_not_finite_is_named() -> None:
    spoilt = {**DATA, "cyd": replace(DATA["cyd"], x=DATA["cyd"].x * torch.inf)}
    with pytest.raises(TrainingError, match="site 'cyd'"):
        outcome(LocalOnly(MLP, STEPS), spoilt, 4)


def test_stacking_keeps_what_fits() -> None:
    whole = stacked([torch.ones(1, 2, 3), 2 * torch.ones(2, 1, 4)])
    assert whole.shape == (3, 2, 4)
    assert whole.sum() == 6 + 2 * 8
    assert stacked([whole]) is whole


@pytest.mark.parametrize(("sites", "company"), [(4, 1), (MANY - 1, 1), (MANY, COMPANY)])
def test_few_sites_compute_as_nodes_do_and_many_in_company(sites: int, company: int) -> None:
    assert Machine().together(sites) == company
    assert Machine(company=3).together(sites) == 3
