"""Rivals against hand-worked cases and laws."""

import pytest
import torch
from tests.made import made_data, made_rows

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import tuned_logistic
from dflmoe.core.algorithm import out_of_fold_loss, run_round
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.training import Training
from dflmoe.networks import mlp, plain, small_cnn
from dflmoe.simulation.federation import play
from dflmoe.types import generator

AVERAGING = Training(weight_decays=(0.1, 0.01), learning_rate=0.05, max_steps=5)


def test_the_server_averages_by_rows_and_scores_evenly() -> None:
    def lent(site: str, value: float, rows: float) -> Lent:
        tensors = {"w": torch.tensor([[value]]), "rows": torch.tensor([rows])}
        return Lent(site, 1, "model", 1, {**tensors, "score": torch.tensor([[value]])})

    answer = averaged([lent("a", 1.0, 30.0), lent("b", 5.0, 10.0)])
    # (1 * 30 + 5 * 10) / 40 = 2
    torch.testing.assert_close(answer.tensors["w"], torch.tensor([[2.0]]))
    torch.testing.assert_close(answer.tensors["score"], torch.tensor([[3.0]]))


def test_one_site_averaged_with_itself_is_local_training() -> None:
    data = made_data(made_rows("a", 60, 0))
    algorithm = Averaging(plain(4, 2), AVERAGING)
    state = algorithm.init("a", data, generator(0))
    trained, lent = algorithm.prepare(state, data, generator(0))
    after, _ = algorithm.absorb(trained, [averaged([lent])], data, generator(0))
    torch.testing.assert_close(after.params["model"]["head/weight"], lent.tensors["head/weight"])


def test_averaging_learns_what_no_site_has_alone() -> None:
    data = {f"s{k}": made_data(made_rows(f"s{k}", 24, k, features=30)) for k in range(6)}
    network = plain(30, 2)
    played = play(
        {name: Averaging(network, AVERAGING) for name in data},
        data, rounds=12, seed=0, purpose="t", server=averaged,
    )  # fmt: skip
    alone = play(
        {name: LocalOnly(network, Training()) for name in data},
        data, rounds=1, seed=0, purpose="t",
    )  # fmt: skip
    losses = [
        sum(float(o[-1].own_loss.mean()) for o in p.outcomes.values()) for p in (played, alone)
    ]
    assert losses[0] < losses[1]
    assert played.payload_bytes["s0"] > alone.payload_bytes["s0"] == 0


def test_tuned_logistic_regression_is_what_a_linear_head_is() -> None:
    data = made_data(made_rows("a", 300, 0))
    said = tuned_logistic(data, 2)
    algorithm = LocalOnly(plain(4, 2), Training())
    state = algorithm.init("a", data, generator(0))
    _, outcome = run_round(algorithm, state, lambda _: [], data, generator(0))
    torch.testing.assert_close(out_of_fold_loss(said, data), outcome.own_loss, atol=0.02, rtol=0)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(2, 300))


def test_logistic_regression_survives_a_class_that_a_fit_never_saw() -> None:
    rows = made_rows("a", 40, 0, classes=3)
    data = made_data(rows)
    y = torch.where(data.y == 2, 0, data.y)
    y[0] = 2
    said = tuned_logistic(SiteData(data.x, y, data.crossfit, data.group), 3)
    assert said.isfinite().all()
    single = SiteData(data.x, torch.zeros_like(y), data.crossfit, data.group)
    assert (tuned_logistic(single, 3)[..., 0].exp() > 0.99).all()


def test_logistic_regression_reads_images() -> None:
    data = made_data(made_rows("a", 40, 0, features=400))
    images = data.x.view(2, 40, 1, 20, 20)
    said = tuned_logistic(SiteData(images, data.y, data.crossfit, data.group), 2)
    assert said.shape == (2, 40, 2)


@pytest.mark.parametrize("common", [True, False])
def test_alone_trains_the_whole_network_even_where_the_body_is_common(common: bool) -> None:
    network = small_cnn(1, 2, width=4, common=common)
    data = made_data(made_rows("a", 24, 0, features=64))
    data = SiteData(data.x.reshape(2, 24, 1, 8, 8), data.y, data.crossfit, data.group)
    algorithm = LocalOnly(network, Training(weight_decays=(0.01,), max_steps=4, judge_every=2))
    begun = algorithm.init("a", data, generator(0))
    trained, lent = algorithm.prepare(begun, data, generator(0))
    assert not torch.equal(trained.params["body"]["0.weight"], begun.params["body"]["0.weight"])
    assert not lent.tensors


def test_averaging_trains_a_body_too() -> None:
    data = {f"s{k}": made_data(made_rows(f"s{k}", 24, k)) for k in range(2)}
    played = play(
        {name: Averaging(mlp(4, 2, hidden=5), AVERAGING) for name in data},
        data, rounds=2, seed=0, purpose="t", server=averaged,
    )  # fmt: skip
    assert all(o[-1].served.isfinite().all() for o in played.outcomes.values())
