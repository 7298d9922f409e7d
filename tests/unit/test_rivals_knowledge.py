"""Laws of the rivals that pass on knowledge: what is left when it is switched off."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.unit.test_rivals import (
    BUDGET,
    NETWORK,
    SITES,
    STEPS,
    relabelled,
    same,
    site,
    sites,
    told,
)
from torch import Tensor, nn

from dflmoe.baselines import fedavg, feddf, fedmd, fedproto, kt_pfl
from dflmoe.baselines.averaging import averaged
from dflmoe.baselines.fedmd import FedMD
from dflmoe.baselines.fedproto import FedProto
from dflmoe.baselines.kt_pfl import coefficients, transferred
from dflmoe.baselines.rival import Budget, Known, Rival
from dflmoe.core.algorithm import Server
from dflmoe.core.distil import opinion_of
from dflmoe.core.site import CrossFit, Lent, Network, SiteData
from dflmoe.core.task import LABELS
from dflmoe.errors import DflmoeError
from dflmoe.simulation.federation import play
from dflmoe.types import Params, generator

ALONE = Rival(
    "alone",
    "",
    (),
    lambda network, budget: budget.at_home(network),
    None,
    lambda names: dict.fromkeys(names, ()),
)


def as_alone(rival: Rival) -> None:
    """Check that what each site serves, and its own network, are those of a site without peers."""
    for one, alone in zip(told(rival, sites()), told(ALONE, sites()), strict=True):
        for name in SITES:
            own = {
                n: p
                for n, p in one.after[name].params["model"].items()
                if n[:4] in ("body", "head")
            }
            assert same(own, alone.after[name].params["model"])
            assert torch.equal(one.outcomes[name].served, alone.outcomes[name].served)


# FedProto.


def test_fedproto_without_a_pull_leaves_every_site_alone() -> None:
    as_alone(replace(fedproto.RIVAL, build=partial(FedProto, pull=0.0)))


def test_fedproto_pulls_features_towards_those_of_the_other_sites() -> None:
    apart = []
    for pull in (0.0, 100.0):
        rival = replace(fedproto.RIVAL, build=partial(FedProto, pull=pull))
        last = told(rival, sites(), replace(BUDGET, rounds=4))[-1]
        means = torch.stack([one.tensors[fedproto.MEAN] for one in last.lent.values()])
        apart.append(means.var(0).mean())
    assert apart[1] < apart[0] / 2


def test_a_prototype_is_the_mean_feature_of_the_rows_that_a_fit_learnt() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [5.0, 2.0], [0.0, 9.0]]])
    data = SiteData(
        x, torch.tensor([0, 0, 1, 1]), CrossFit(torch.tensor([[0, 1, 1, -1]])), torch.arange(4)
    )
    still = replace(BUDGET, steps=replace(STEPS, weight_decays=(0.1,), learning_rate=0.0))
    algorithm = FedProto(Network(nn.Identity(), nn.Linear(2, 2), 2, 2), still)
    _, lent = algorithm.prepare(algorithm.init("ann", data, generator(0)), data, generator(0))
    assert lent.tensors[fedproto.MEAN].tolist() == [
        [[3.0, 0.0], [5.0, 2.0]],  # without rows of fold 0
        [[1.0, 0.0], [0.0, 0.0]],  # without those of fold 1: no row of class 1 is left
        [[2.0, 0.0], [5.0, 2.0]],
    ]
    assert lent.tensors[fedproto.ROWS].tolist() == [[1, 1], [1, 0], [2, 1]]


def test_the_common_prototype_is_the_mean_over_all_rows() -> None:
    lents = [
        Lent(
            name,
            1,
            "model",
            1,
            {
                fedproto.MEAN: torch.tensor([[[mean], [0.0]]]),
                fedproto.ROWS: torch.tensor([[rows, 0.0]]),
            },
        )
        for name, mean, rows in (("ann", 1.0, 1.0), ("bob", 5.0, 3.0))
    ]
    answer = fedproto.meant(lents)
    assert answer.tensors[fedproto.MEAN].flatten().tolist() == [4.0, 0.0]
    assert answer.tensors[fedproto.ROWS].tolist() == [[4.0, 0.0]]
    with pytest.raises(DflmoeError, match=r"one width, not \[1, 2\]"):
        fedproto.meant([lents[0], replace(lents[1], width=2)])


def test_fedproto_joins_sites_whose_bodies_differ() -> None:
    other = Network(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 2), 5, 2)
    networks = {"ann": NETWORK, "bob": other}
    played = play(
        {name: FedProto(network, BUDGET) for name, network in networks.items()},
        sites(SITES[:2]), rounds=2, seed=0, purpose="t", server=fedproto.meant,
    )  # fmt: skip
    assert all(o[-1].served.isfinite().all() for o in played.outcomes.values())
    assert played.sent_bytes["ann"] == played.sent_bytes["bob"]


def test_fedproto_leaves_images_to_others() -> None:
    data = replace(site(0), y=torch.zeros(32, 2, 2, dtype=torch.int64))
    with pytest.raises(DflmoeError, match="one class a row"):
        FedProto(NETWORK, BUDGET).init("ann", data, generator(0))


# KT-pFL.


def test_two_sites_are_taught_by_each_other_the_less_the_more_they_differ() -> None:
    """With weight p on itself a site loses (1 - p)^2 d + 0.7 (p - 1/2)^2."""
    said = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]]
    )
    own = [(d + 0.35) / (d + 0.7) for d in (0.0, 0.25, 1.0)]
    expected = torch.tensor([[[p, 1 - p], [1 - p, p]] for p in own])
    torch.testing.assert_close(coefficients(said), expected, atol=1e-3, rtol=0)


def test_of_three_sites_two_that_agree_teach_each_other_most() -> None:
    said = torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]])
    (weights,) = coefficients(said, penalty=0.1)
    torch.testing.assert_close(weights[0, 0], weights[0, 1])
    assert weights[0, 1] > 2 * weights[0, 2]
    assert weights[2, 2] > 2 * weights[2, 0]


def test_kt_pfl_under_a_vast_penalty_is_fedmd_on_probabilities() -> None:
    soft = replace(fedmd.RIVAL, build=partial(FedMD, soft=True))
    even = replace(kt_pfl.RIVAL, server=partial(transferred, penalty=1e6))
    for mean, one in zip(told(soft, sites()), told(even, sites()), strict=True):
        for name in SITES:
            served = (one.outcomes[name].served, mean.outcomes[name].served)
            torch.testing.assert_close(*served, atol=1e-4, rtol=0)


def test_what_kt_pfl_sends_are_probabilities() -> None:
    for one in told(kt_pfl.RIVAL, sites()):
        for lent in one.lent.values():
            likely = lent.tensors["scores"]
            assert (likely >= 0).all()
            torch.testing.assert_close(likely.sum(2), torch.ones(likely.shape[:2]))


def test_kt_pfl_answers_each_site_with_what_suits_it_and_sends_no_more() -> None:
    built = {name: kt_pfl.BUILD(NETWORK, BUDGET) for name in SITES}
    played = play(built, sites(), rounds=1, seed=0, purpose="t", server=transferred)
    assert played.sent_bytes["server"] == sum(played.sent_bytes[name] for name in SITES)


# FedDF.


def test_feddf_whose_server_learns_nothing_is_fedavg() -> None:
    def host(known: Mapping[str, Known], budget: Budget) -> Server:
        still = replace(budget, steps=replace(budget.steps, learning_rate=0.0))
        return feddf.host(known, still)

    still = replace(feddf.RIVAL, host=host)
    for average, one in zip(told(fedavg.FEDAVG, sites()), told(still, sites()), strict=True):
        for name in SITES:
            assert same(one.after[name].params["model"], average.after[name].params["model"])
            assert torch.equal(one.outcomes[name].served, average.outcomes[name].served)


def test_feddf_teaches_the_average_what_all_models_say_together() -> None:
    data, steps = sites(), replace(STEPS, learning_rate=0.02, max_steps=30)
    budget = replace(BUDGET, steps=steps, rounds=1)
    anchors = torch.randn(10, 4, generator=generator(0, "public"))  # as ``site`` draws them
    known = {name: Known(NETWORK, LABELS, anchors) for name in data}
    (one,) = told(feddf.RIVAL, data, budget)
    lents = list(one.lent.values())

    def apart(model: Params) -> Tensor:
        scores = [feddf.scores(lent.tensors, known[lent.site], slice(None)) for lent in lents]
        told = opinion_of(torch.stack(scores).mean(0), LABELS)
        said = opinion_of(feddf.scores(model, known["ann"], slice(None)), LABELS)
        return (told * (told / said).log()).sum(2).mean(1)

    assert (apart(one.after["ann"].params["model"]) < apart(averaged(lents).tensors)).all()


def test_feddf_averages_models_of_one_architecture_and_joins_all_by_what_they_say() -> None:
    plain = Network(nn.Identity(), nn.Linear(4, 2), 4, 2)
    networks = {"ann": NETWORK, "bob": NETWORK, "cyd": plain}
    heard = []
    for cyd in (site(2), relabelled(site(2), 0)):
        data = {**sites(), "cyd": cyd}
        played = play(
            {name: fedavg.build(network, BUDGET) for name, network in networks.items()},
            data, rounds=1, seed=0, purpose="t",
            server=feddf.RIVAL.serving(networks, data, BUDGET),
        )  # fmt: skip
        models = {name: state.params["model"] for name, state in played.states.items()}
        assert same(models["ann"], models["bob"])
        heard.append(models)
    first, second = heard
    assert not same(first["ann"], second["ann"])


def test_feddf_without_public_rows_says_what_is_missing() -> None:
    data = {"ann": replace(site(0), anchors=None)}
    with pytest.raises(DflmoeError, match="FedDF needs public rows"):
        feddf.RIVAL.serving({"ann": NETWORK}, data, BUDGET)
