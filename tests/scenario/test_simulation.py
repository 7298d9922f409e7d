"""The pilot from Python."""

from pathlib import Path

import pytest
import torch
from tests.made import made_rows, noise
from torch import nn
from torch.utils.data import Subset, TensorDataset

import dflmoe
from dflmoe.errors import LabelError, OptionError, SiteError

QUICK = dflmoe.Training(weight_decays=(0.01,), learning_rate=0.05, max_steps=20, batch=16)


def dataset(k: int, rows: int = 40) -> TensorDataset:
    made = made_rows("a", rows, k)
    return TensorDataset(torch.from_numpy(made.x), torch.from_numpy(made.y))


def body(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.GELU())


def sites(widths: tuple[int, ...] = (5, 5, 5)) -> list[dflmoe.Site]:
    return [
        dflmoe.Site(f"s{k}", dataset(k), body(w), nn.Linear(w, 2)) for k, w in enumerate(widths)
    ]


def test_any_network_and_data_set_make_a_report(tmp_path: Path) -> None:
    result = dflmoe.simulate(sites(), folds=2, training=QUICK)
    result.report(tmp_path / "mine" / "report.html")
    assert (tmp_path / "mine" / "report.html").is_file()
    assert (tmp_path / "mine" / "report.json").is_file()
    assert "s0" in str(result)
    assert result.numbers.sites[0].arms["fedavg"] is not None


def test_sites_with_different_networks_lend_through_transforms() -> None:
    result = dflmoe.simulate(sites((4, 5, 6)), folds=2, training=QUICK)
    assert result.numbers.sites[0].arms["fedavg"] is None  # nothing to average
    assert result.numbers.sites[0].arms["federated"] is not None


def test_sites_with_different_networks_average_the_light_one_that_they_agreed_on() -> None:
    charter = (nn.Identity(), nn.Linear(4, 2))
    result = dflmoe.simulate(sites((4, 5, 6)), folds=2, training=QUICK, charter=charter)
    numbers = result.numbers
    assert any("agreed on one light network" in why for why in numbers.choices)
    assert numbers.sites[0].arms["fedavg"] is not None  # of the agreed network
    assert any(name.endswith("(own network)") for name in numbers.sites[0].gate_share)
    every_fit = 6 * 4 * 10  # five folds and all rows, in fp32, of ten numbers
    averages = 15 * 2 * 2  # rounds of averaging, peers, both ways
    assert numbers.cost.heads_per_site == averages + 2 * 2
    assert numbers.cost.payload_bytes_per_site_day > averages * every_fit


def test_public_rows_bring_different_networks_together_and_teach() -> None:
    public = noise(7, 30, 4)
    numbers = dflmoe.simulate(sites((4, 5, 6)), folds=2, training=QUICK, anchors=public).numbers
    assert any("public rows" in why and "their opinions" in why for why in numbers.choices)
    share = numbers.sites[0].gate_share
    assert "s0 (taught by peers)" in share
    assert {"s1", "s2"} <= set(share)
    beside = 4 * 30 * (5 + 2)  # features of s1's width and probabilities, in fp32
    assert numbers.cost.payload_bytes_per_head > beside


@pytest.mark.parametrize(
    ("public", "sentence"),
    [
        (torch.zeros(30, 5), r"\(30, 5\) and the sites' rows of \(4,\)"),
        (torch.full((30, 4), torch.nan), "not finite"),
        (torch.tensor(1.0), "the anchors are of shape"),
        (torch.zeros(0, 4), "give one or more"),
    ],
    ids=["width", "nan", "scalar", "none"],
)
def test_public_rows_that_do_not_fit_are_refused(public: torch.Tensor, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        dflmoe.simulate(sites(), folds=2, anchors=public)


def test_anchors_are_for_sites_that_lend_by_them() -> None:
    charter = (nn.Identity(), nn.Linear(4, 2))
    with pytest.raises(OptionError, match="give one of the two"):
        dflmoe.simulate(sites(), folds=2, charter=charter, anchors=noise(7, 30, 4))
    with pytest.raises(OptionError, match="there are none; give some"):
        dflmoe.simulate(sites(), folds=2, dials=dflmoe.Dials(distil=1.0))


def test_heads_lent_once_cost_their_bytes_once_for_each_peer_and_way() -> None:
    cost = dflmoe.simulate(sites(), folds=2, training=QUICK).numbers.cost
    assert cost.payload_bytes_per_site_day == 2 * 2 * cost.payload_bytes_per_head


def test_what_does_not_learn_is_not_sent_to_a_server() -> None:
    costs = []
    for frozen in (False, True):
        shared = body().requires_grad_(not frozen)
        alike = [dflmoe.Site(f"s{k}", dataset(k), shared, nn.Linear(5, 2)) for k in range(2)]
        costs.append(dflmoe.simulate(alike, folds=2, training=QUICK).numbers.cost)
    sent, spared = (cost.fedavg_bytes_per_site for cost in costs)
    assert sent is not None
    assert spared is not None
    assert sent - spared == 2 * 15 * 4 * (4 * 5 + 5)  # the body: both ways, rounds, fp32, numbers


def test_the_report_does_not_explain_dials_that_the_user_turned() -> None:
    chosen, turned = (
        dflmoe.simulate(sites(), folds=2, training=QUICK, dials=dials).numbers.choices
        for dials in (None, dflmoe.Dials())
    )
    assert any("starts alike and is trained apart" in why for why in chosen)
    assert turned == ["The networks are the user's own.", "So are the dials."]


def test_a_charter_that_does_not_fit_the_rows_is_refused() -> None:
    with pytest.raises(OptionError, match="do not fit its data"):
        dflmoe.simulate(sites(), folds=2, charter=(nn.Identity(), nn.Linear(5, 2)))


def test_a_body_without_weights_is_common() -> None:
    plain = [dflmoe.Site(f"s{k}", dataset(k), nn.Identity(), nn.Linear(4, 2)) for k in range(2)]
    result = dflmoe.simulate(plain, folds=2)
    assert result.numbers.mean.arms["pooled"] is not None


def batch_norm(k: int) -> dflmoe.Site:
    return dflmoe.Site("x", dataset(k), nn.Sequential(body(), nn.BatchNorm1d(5)), nn.Linear(5, 2))


@pytest.mark.parametrize(
    ("site", "error", "sentence"),
    [
        pytest.param(dflmoe.Site("x", dataset(1), body(), nn.Linear(6, 2)), OptionError,
                     "do not fit", id="head of another width"),
        pytest.param(dflmoe.Site("x", dataset(1), body(), nn.Linear(5, 3)), OptionError,
                     "2 classes", id="head of another class count"),
        pytest.param(batch_norm(1), OptionError, "GroupNorm", id="batch norm"),
        pytest.param(dflmoe.Site("x", Subset(dataset(1), []), body(), nn.Linear(5, 2)), SiteError,
                     "no rows", id="empty"),
        pytest.param(dflmoe.Site("x", dataset(1), body(), nn.Linear(5, 2), patient=[1]), SiteError,
                     "1 patients", id="patients missing"),
        pytest.param(dflmoe.Site("s0", dataset(1), body(), nn.Linear(5, 2)), SiteError,
                     "one name", id="name twice"),
        pytest.param(dflmoe.Site("x", [(torch.zeros(4), -1)], body(), nn.Linear(5, 2)), LabelError,  # type: ignore[arg-type]  # a list will do
                     "from 0", id="negative class"),
    ],
)  # fmt: skip
def test_a_site_that_does_not_fit_is_refused_by_name(
    site: dflmoe.Site, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        dflmoe.simulate([sites()[0], site], folds=2, training=QUICK)


def test_the_public_names_are_all_there() -> None:
    assert set(dflmoe.__all__) <= set(dir(dflmoe))
    assert len(dflmoe.__all__) < 20
    for name in dflmoe.__all__:
        assert getattr(dflmoe, name) is not None
