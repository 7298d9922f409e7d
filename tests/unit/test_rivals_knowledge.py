"""Laws of the rivals that pass on knowledge: what is left when it is switched off."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.unit.test_rivals import BUDGET, NETWORK, SITES, STEPS, same, site, sites, told
from torch import nn

from dflmoe.baselines import fedproto
from dflmoe.baselines.fedproto import FedProto
from dflmoe.baselines.rival import Rival
from dflmoe.core.site import CrossFit, Lent, Network, SiteData
from dflmoe.errors import DflmoeError
from dflmoe.simulation.federation import play
from dflmoe.types import generator

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
