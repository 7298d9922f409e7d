"""Laws of the rivals that pass on knowledge: what is left when it is switched off."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.made import dense_data, made_masks, made_pictures
from tests.unit.test_rivals import (
    BUDGET,
    NETWORK,
    RIVALS,
    SITES,
    STEPS,
    relabelled,
    same,
    site,
    sites,
    told,
)
from torch import Tensor, nn

from dflmoe.baselines import fedavg, feddf, fedkd, fedmd, fedproto, fml, kt_pfl, mh_pflid
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.fedmd import FedMD
from dflmoe.baselines.fedproto import FedProto
from dflmoe.baselines.kt_pfl import coefficients, transferred
from dflmoe.baselines.low_rank import compressed, restored
from dflmoe.baselines.messenger import MESSENGER, Both
from dflmoe.baselines.mh_pflid import attended
from dflmoe.baselines.rival import Budget, Known, Rival
from dflmoe.core.algorithm import Server
from dflmoe.core.distil import opinion_of
from dflmoe.core.site import CrossFit, Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import part_of
from dflmoe.core.task import LABELS
from dflmoe.core.training import leaves
from dflmoe.errors import DflmoeError
from dflmoe.networks import mlp
from dflmoe.simulation.federation import play
from dflmoe.tasks.segmentation import Pixels
from dflmoe.tasks.super_resolution import Images
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
                if n.split("/")[0] in ("body", "head")
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


# FML.


def from_messenger(algorithm: Averaging, data: SiteData) -> SiteState:
    """Return the start of a site of FedAvg that has the messenger's weights."""
    model = part_of(algorithm.init("ann", data, generator(0)).params["model"], MESSENGER)
    begun = fedavg.build(NETWORK, BUDGET).init("ann", data, generator(0))
    return replace(begun, params={**begun.params, "model": model, "best": model})


def test_where_nobody_teaches_fml_leaves_sites_alone_and_averages_the_memes() -> None:
    silent = replace(fml.RIVAL, build=partial(fml.build, alpha=1.0, beta=1.0))
    as_alone(silent)
    data, rounds = sites(), told(silent, sites())
    average = fedavg.build(NETWORK, BUDGET)
    states = {name: from_messenger(fml.build(NETWORK, BUDGET), one) for name, one in data.items()}
    for number, one in enumerate(rounds):
        prepared = {
            n: average.prepare(states[n], data[n], generator(1, "t", n, number)) for n in data
        }
        answer = averaged([lent for _, lent in prepared.values()])
        states = {
            n: average.absorb(prepared[n][0], [answer], data[n], generator(0))[0] for n in data
        }
        for name, state in one.after.items():
            meme = part_of(state.params["model"], MESSENGER)
            assert same(meme, states[name].params["model"])


def test_fml_brings_what_both_say_together() -> None:
    apart = []
    for weight in (1.0, 0.1):
        rival = replace(fml.RIVAL, build=partial(fml.build, alpha=weight, beta=weight))
        model = told(rival, sites(), replace(BUDGET, steps=replace(STEPS, max_steps=20)))[-1]
        trained = model.trained["ann"].params["trained"]
        logits = Averaging(NETWORK, STEPS).logits
        x = site(0).x.expand(8, -1, -1)
        own, meme = logits(trained, x), logits(part_of(trained, MESSENGER), x)
        apart.append((own.softmax(2) - meme.softmax(2)).abs().mean())
    assert apart[1] < apart[0] / 2


@pytest.mark.parametrize(
    "rival", [fml.RIVAL, mh_pflid.RIVAL, fedkd.RIVAL], ids=lambda one: one.title
)
def test_a_messenger_joins_sites_of_different_networks_and_is_all_that_travels(
    rival: Rival,
) -> None:
    plain = Network(nn.Identity(), nn.Linear(4, 2), 4, 2)
    budget = replace(BUDGET, agreed=mlp(4, 2, hidden=3))
    played = play(
        {"ann": rival.build(NETWORK, budget), "bob": rival.build(plain, budget)},
        sites(SITES[:2]), rounds=2, seed=0, purpose="t", server=rival.server,
    )  # fmt: skip
    ann, bob = (played.states[name].params["model"] for name in ("ann", "bob"))
    assert same(part_of(ann, MESSENGER), part_of(bob, MESSENGER))
    assert all(o[-1].served.isfinite().all() for o in played.outcomes.values())
    assert all(
        n.split("/")[0] in (MESSENGER, "rows", "energy") for n in played.lent["ann"][0].tensors
    )


# MH-pFLID.


def test_with_one_place_the_attention_of_mh_pflid_is_a_linear_map_of_what_is_asked() -> None:
    linear = {
        part: torch.randn(1, 3, 5 if part == "align" else 3) for part in ("align", "q", "k", "v")
    }
    model = {
        f"{name}/{part}/weight": p
        for name in ("receiver", "transmitter")
        for part, p in linear.items()
    }
    theirs, own = torch.randn(1, 7, 3), torch.randn(1, 7, 5)
    received = attended("receiver", model, theirs, own)
    torch.testing.assert_close(received, own @ linear["align"].mT @ linear["v"].mT)
    torch.testing.assert_close(attended("transmitter", model, theirs, own), theirs @ linear["v"].mT)


@pytest.mark.parametrize(("side", "own_side"), [(4, 4), (4, 6), (16, 4)])
def test_an_attention_without_questions_returns_the_mean_over_places_at_every_place(
    side: int, own_side: int
) -> None:
    eye = torch.eye(3)[None]
    weights = {"align": eye, "q": 0 * eye, "k": eye, "v": eye}
    model = {f"receiver/{part}/weight": p for part, p in weights.items()}
    theirs, own = torch.randn(1, 2, 3, side, side), torch.randn(1, 2, 3, own_side, own_side)
    received = attended("receiver", model, theirs, own)
    assert received.shape == theirs.shape
    if own_side == side:
        mean = own.mean((3, 4), keepdim=True).expand(theirs.shape)
        torch.testing.assert_close(received, mean)
    else:
        torch.testing.assert_close(received, received[..., :1, :1].expand(theirs.shape))


def test_mh_pflid_holds_each_network_still_while_the_other_learns() -> None:
    data, algorithm = site(0), mh_pflid.build(NETWORK, BUDGET)
    model = algorithm.init("ann", data, generator(0)).params["model"]
    model = leaves(
        {name: p + 0.1 * torch.randn(p.shape, generator=generator(0)) for name, p in model.items()}
    )
    x, y = data.x.expand(8, -1, -1), data.y.expand(8, -1)
    assert algorithm.losses is not None
    losses = algorithm.losses(model, x, y, LABELS).sum()
    own, theirs = (algorithm.features(part, x) for part in (model, part_of(model, MESSENGER)))
    common = part_of(model, MESSENGER)
    still = {name: p.detach() for name, p in common.items()}

    def mapped(name: str, features: Tensor, *layers: str) -> Tensor:
        for layer in layers:
            features = features @ model[f"{name}/{layer}/weight"].mT
        return features

    said = algorithm.by_heads(model, own)
    understood = algorithm.by_heads(still, mapped("receiver", own, "align", "v"))
    told_ = algorithm.by_heads(common, mapped("transmitter", theirs, "v"))
    injection = (0.9 * LABELS.losses(said, y) + 0.1 * LABELS.losses(understood, y)).sum()
    teacher = said.detach().softmax(2)
    learns = 0.9 * LABELS.losses(told_, y) - 0.1 * (teacher * told_.log_softmax(2)).sum(2)
    for part, loss in (("body", injection), ("head", injection), (MESSENGER, learns.sum())):
        names = [name for name in model if name.startswith(f"{part}/")]
        params = [model[name] for name in names]
        given = torch.autograd.grad(losses, params, retain_graph=True)
        expected = torch.autograd.grad(loss, params, retain_graph=True)
        for name, one, other in zip(names, given, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, msg=name)


# FedKD.


def test_what_fedkd_is_taught_is_divided_by_how_wrong_mentor_and_mentee_are() -> None:
    even, y = torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.int64)
    features = torch.zeros(1, 3, 4)
    both = Both({}, mlp(4, 2, hidden=4), features, even, features, even, y, LABELS)
    # Each is log 2 from the labels, and told log 2 by the other.
    plain = replace(both, messenger=Network(nn.Identity(), nn.Linear(4, 2), 4, 2))
    torch.testing.assert_close(fedkd.mutual(plain), torch.full((1, 3), 2 * math.log(2) + 1))
    model = {"map/weight": torch.eye(4)[None]}
    held = fedkd.mutual(replace(both, model=model, own=features + 2))
    torch.testing.assert_close(
        held, torch.full((1, 3), 2 * math.log(2) + 1 + 4 / (2 * math.log(2)))
    )


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.79, 1), (0.81, 2), (0.98, 3)])
def test_as_few_singular_values_travel_as_hold_the_energy(energy: float, rank: int) -> None:
    # Squares 16, 3 and 1: shares 0.8, 0.95 and 1.
    values = torch.diag(torch.tensor([4.0, 3**0.5, 1.0]))
    matrix = torch.zeros(1, 30, 20)
    matrix[0, :3, :3] = values
    sent = compressed({"body/weight": matrix, "body/bias": torch.ones(1, 3)}, energy)
    assert sent["body/weight/left"].shape == (1, 30, rank)
    assert sent["body/weight/right"].shape == (1, rank, 20)
    expected = matrix * (torch.arange(20) < rank)
    torch.testing.assert_close(restored(sent)["body/weight"], expected)
    assert torch.equal(restored(sent)["body/bias"], torch.ones(1, 3))


def test_a_matrix_that_two_thin_ones_would_not_shorten_travels_as_it_is() -> None:
    kernel = torch.randn(2, 4, 3, 2, 2, generator=generator(0))
    sent = compressed({"kernel": kernel}, 0.999)
    assert torch.equal(sent["kernel"].view_as(kernel), kernel)
    assert set(restored(compressed({"zero": torch.zeros(2, 9, 9)}, 0.9))) == {"zero"}


def test_an_update_that_is_not_finite_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        compressed({"body/weight": torch.full((1, 9, 9), torch.nan)}, 0.9)


def test_fedkd_that_compresses_nothing_averages_mentees_by_rows() -> None:
    whole = replace(fedkd.RIVAL, build=partial(fedkd.build, energy=(1.0, 1.0)))
    for one in told(whole, sites()):
        lents = [
            replace(
                one.lent[n],
                tensors={**part_of_messenger(one.trained[n]), "rows": one.lent[n].tensors["rows"]},
            )
            for n in SITES
        ]
        mean = averaged(lents).tensors
        for state in one.after.values():
            for name, p in mean.items():
                torch.testing.assert_close(state.params["model"][name], p, atol=1e-5, rtol=1e-5)


def part_of_messenger(state: SiteState) -> Params:
    trained = state.params["trained"]
    return {name: p for name, p in trained.items() if name.startswith(MESSENGER)}


def test_fedkd_sends_fewer_bytes_than_the_whole_mentee() -> None:
    network, sent = mlp(4, 2, hidden=40), []
    for rival in (fml.RIVAL, replace(fedkd.RIVAL, build=partial(fedkd.build, energy=(0.5, 0.5)))):
        built = {name: rival.build(network, BUDGET) for name in SITES}
        played = play(built, sites(), rounds=2, seed=0, purpose="t", server=rival.server)
        sent.append(played.sent_bytes)
    for name in (*SITES, "server"):
        assert sent[1][name] < sent[0][name]


# Pictures.


def dense(kernel: int, width: int) -> Network:
    body = nn.Sequential(nn.Conv2d(1, width, kernel, padding="same"), nn.Tanh())
    return Network(body, nn.Conv2d(width, 2, 1), width, 2)


@pytest.mark.parametrize("name", ["FedDF", "KT-pFL", "FML", "MH-pFLID", "FedKD"])
@pytest.mark.parametrize("masks", [True, False], ids=["segmented", "enlarged"])
def test_pictures_are_segmented_and_enlarged_at_sites_of_different_networks(
    name: str, masks: bool
) -> None:
    rival, budget = RIVALS[name], replace(BUDGET, agreed=dense(1, 3))
    networks = {"ann": dense(3, 4), "bob": dense(1, 3)}
    data = {}
    for k, site_name in enumerate(networks):
        x, y = made_masks(12, k) if masks else made_pictures(12, k)
        y = y if masks else y.expand(-1, 2, -1, -1)
        task = Pixels() if masks else Images()
        made = dense_data(x, y, task)
        data[site_name] = replace(made, anchors=torch.rand(5, 1, 8, 8, generator=generator(0)))
    played = play(
        {site_name: rival.build(network, budget) for site_name, network in networks.items()},
        data, rounds=2, seed=0, purpose="t", server=rival.serving(networks, data, budget),
    )  # fmt: skip
    for outcomes in played.outcomes.values():
        assert outcomes[-1].served.shape == (1, 12, 2, 8, 8)
        assert outcomes[-1].served.isfinite().all()
