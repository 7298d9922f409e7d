"""A site's model by itself says what the round it came from said."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.made import made_data, made_rows, noise
from torch import nn

from dflmoe.baselines.alone import Alone, alone
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import fitted_logistic
from dflmoe.core.algorithm import Outcome
from dflmoe.core.auto import DIALS
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.served import AsItIs, Served, heat, mixing_of, served_by, taught_by
from dflmoe.core.site import Lent, Network, SiteData
from dflmoe.core.training import Training
from dflmoe.data.study import SiteRows
from dflmoe.model.blocks import blocks_of, served_of
from dflmoe.model.making import About, model_of
from dflmoe.networks import build, encoder, mlp, plain, small_cnn
from dflmoe.networks.encoder import encoded_by
from dflmoe.types import generator

QUICK = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=40)

ROWS = 90


def rows(name: str, seed: int, shape: tuple[int, ...] = (4,)) -> SiteRows:
    """Return rows whose class is in the first number of each."""
    made = made_rows(name, ROWS, seed)
    x = noise(seed, ROWS, *shape).numpy()
    x.reshape(ROWS, -1)[:, :1] += 2 * made.y[:, None] - 1
    return replace(made, x=x)


def whole(share: nn.Module) -> Network:
    """Return a network that is lent as a whole."""
    return Network(nn.Identity(), share, 4, 2, common=True)


def with_own_encoder() -> Network:
    """Return a network whose body is a frozen one of another architecture."""
    shape = (1, 12, 12)
    network = build("resnet5", shape, 2, width=4)
    given = dict(build("resnet8", shape, 2).body.named_parameters())
    body = encoder(given, "resnet8", shape, network.width)
    return encoded_by(network, body, "resnet8", shape, None)


CASES: dict[str, tuple[Callable[[], Network], Dials, tuple[int, ...]]] = {
    "a table, one space": (lambda: plain(4, 2), DIALS["shared"], (4,)),
    "networks that start alike": (lambda: mlp(4, 2, hidden=6), DIALS["seeded"], (4,)),
    "as published": (
        lambda: mlp(4, 2, hidden=6),
        replace(Dials.paper(), mixture_rate=0.05, mixture_steps=20, batch=None),
        (4,),
    ),
    "as published, with a body that moves": (
        lambda: mlp(4, 2, hidden=6),
        replace(Dials.paper(), mixture_rate=0.05, batch=None, move_body=True),
        (4,),
    ),
    "brought together by public rows, and taught": (
        lambda: mlp(4, 2, hidden=6),
        DIALS["anchored"],
        (4,),
    ),
    "an agreed network beside one's own": (
        lambda: plain(4, 2),
        replace(DIALS["averaged"], averaging=0),
        (4,),
    ),
    "a gate for each row": (lambda: mlp(4, 2, hidden=6), Dials(gate="linear"), (4,)),
    "images": (lambda: small_cnn(1, 2, width=4, common=True), DIALS["shared"], (1, 10, 9)),
    "an encoder of one's own": (with_own_encoder, DIALS["anchored"], (1, 12, 12)),
    "series": (lambda: build("cnn1d", (2, 64), 2, width=4), DIALS["seeded"], (2, 64)),
}


def played(
    network: Network, dials: Dials, shape: tuple[int, ...]
) -> tuple[SiteData, Alone, Outcome]:
    """Play a round at home with two peers; one row in three is never learnt from."""
    anchors = noise(77, 30, *shape)
    data = {
        name: replace(made_data(rows(name, seed, shape)).only(0), anchors=anchors)
        for seed, name in enumerate(("home", "near", "far"))
    }
    local = LocalOnly(network, QUICK)
    had = alone("home", data["home"], local, seed=0, purpose="alone")
    lent: list[Lent] = []
    for name in ("near", "far"):
        peer = DFLMoE(network, dials, QUICK, body_seed=0)
        state = peer.init(name, data[name], generator(1, name))
        lent.append(peer.prepare(state, data[name], generator(2, name))[1])
    home = replace(data["home"], alone=had.said)
    method = DFLMoE(network, dials, QUICK, body_seed=0, keeps=True)
    state = method.init("home", home, generator(3))
    state, _ = method.prepare(state, home, generator(4))
    _, outcome = method.absorb(state, lent, home, generator(5))
    return home, had, outcome


def served(network: Network, dials: Dials, had: Alone, outcome: Outcome, serves: str) -> Served:
    return Served(
        "home",
        AsItIs(),
        had.models[0],
        mixing=mixing_of(network, dials, outcome),
        taught=taught_by(network, outcome),
        serves=serves,  # type: ignore[arg-type]  # a literal by its value
    )


@pytest.mark.parametrize("case", CASES)
def test_a_model_by_itself_says_what_its_round_said(case: str) -> None:
    make, dials, shape = CASES[case]
    network = make()
    data, had, outcome = played(network, dials, shape)
    aside = data.crossfit.fold[0] < 0
    told = {"own": outcome.own, "mixture": outcome.mixture, served_by(outcome): outcome.served}
    assert len(outcome.share) >= 3
    for serves, said in told.items():
        probs, opinions = served(network, dials, had, outcome, serves).predict(data.x[0, aside])
        torch.testing.assert_close(probs, said[0, aside].exp(), atol=1e-5, rtol=0)
        torch.testing.assert_close(opinions.sum(2), torch.ones(opinions.shape[:2]))


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_made_anew_from_what_its_file_says(case: str) -> None:
    make, dials, shape = CASES[case]
    network = make()
    data, had, outcome = played(network, dials, shape)
    about = About("home", "tests", "a or b", ("a", "b"), "table", shape)
    model = model_of(about, data, had, outcome, network=network, dials=dials, number=1, seed=0)
    again = served_of(model.told, model.served.state_dict())
    x = noise(9, 40, *shape)
    for one, other in zip(model.served.predict(x), again.predict(x), strict=True):
        assert torch.equal(one, other)
    assert again.names == model.served.names
    assert blocks_of(again, network, network) == model.told.blocks


def test_the_hedge_is_the_mean_of_the_own_model_and_the_mixture() -> None:
    make, dials, shape = CASES["a table, one space"]
    network = make()
    data, had, outcome = played(network, dials, shape)
    x = data.x[0]
    own, mixture, hedge = (
        served(network, dials, had, outcome, serves).predict(x)[0]
        for serves in ("own", "mixture", "hedge")
    )
    torch.testing.assert_close(hedge, (own + mixture) / 2)


def test_before_anything_is_borrowed_a_model_is_what_the_site_has_alone() -> None:
    network = plain(4, 2)
    data, had, outcome = played(network, DIALS["shared"], (4,))
    nothing = replace(outcome, fitted={})
    assert mixing_of(network, DIALS["shared"], nothing) is None
    lonely = Served("home", AsItIs(), had.models[0])
    probs, opinions = lonely.predict(data.x[0])
    aside = data.crossfit.fold[0] < 0
    torch.testing.assert_close(probs[aside], had.said[0, aside].exp(), atol=1e-5, rtol=0)
    assert opinions.shape[1] == len(lonely.names) == 1


def test_a_missing_number_is_the_centre_for_a_model_too() -> None:
    network = plain(4, 2)
    _, had, outcome = played(network, DIALS["shared"], (4,))
    model = served(network, DIALS["shared"], had, outcome, "mixture")
    x = torch.zeros(2, 4)
    x[1, 2] = torch.nan
    probs, _ = model.predict(x)
    assert torch.equal(probs[0], probs[1])


@pytest.mark.parametrize("shape", [(4,), (1, 20, 24), (2, 64)])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_as_a_module_is_scikit_learns(
    shape: tuple[int, ...], classes: int
) -> None:
    made = rows("home", 1, shape)
    y = (np.arange(ROWS) % classes).astype(np.int64)
    data = made_data(replace(made, y=y)).only(0)
    said, (model,) = fitted_logistic(data, classes)
    aside = data.crossfit.fold[0] < 0
    found = model(data.x[0, aside])
    torch.testing.assert_close(found.exp(), said[0, aside].exp(), atol=1e-5, rtol=0)


def test_a_class_that_was_never_there_is_the_least_likely() -> None:
    data = made_data(rows("home", 1)).only(0)
    _, (model,) = fitted_logistic(data, 3)
    assert (model(data.x[0])[:, 2].exp() < 1e-5).all()
    assert not isinstance(model, LogisticRegression)


def test_a_temperature_undoes_what_made_predictions_too_sure() -> None:
    y = torch.arange(4000) % 2
    honest = 1.5 * (2 * y - 1) * (noise(3, 4000) + 0.75)
    truth = torch.log_softmax(torch.stack([-honest / 2, honest / 2], dim=1), dim=1)
    honest_heat = heat(truth, y, torch.ones(4000))
    bold = torch.log_softmax(3 * truth, dim=1)
    assert heat(bold, y, torch.ones(4000)) == pytest.approx(3 * honest_heat, rel=0.1)


def test_few_rows_move_a_temperature_little() -> None:
    y = torch.arange(4) % 2
    wrong = torch.log_softmax(torch.tensor([[0.0, 2.0], [2.0, 0.0]]).repeat(2, 1), dim=1)
    few, many = (
        heat(wrong, y, torch.ones(4)),
        heat(wrong.repeat(99, 1), y.repeat(99), torch.ones(396)),
    )
    assert 1 < few < many
    assert heat(wrong, y, torch.zeros(4)) == pytest.approx(1.0)
