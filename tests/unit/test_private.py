"""What is lent is attacked at home first, noise hides any one patient, and the account adds up."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from tests.made import made_data, made_rows
from torch import nn

from dflmoe.core.algorithm import Lender, Release
from dflmoe.core.auto import TAUGHT
from dflmoe.core.dflmoe import DFLMoE, head_of
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.training import Training
from dflmoe.data.study import SiteRows
from dflmoe.errors import PrivacyError
from dflmoe.networks import build, mlp, plain
from dflmoe.privacy.lending import Audited, Lending, Private, honest
from dflmoe.privacy.noise import (
    CLIP,
    DECAY,
    RATE,
    STEPS,
    Budget,
    Noise,
    Stream,
    by_patient,
    heads_for,
    name_of,
    private_head,
    seed_of,
    slopes,
    spent,
)
from dflmoe.privacy.selfaudit import exposure
from dflmoe.types import generator

QUICK = Training(weight_decays=(0.1, 0.01), learning_rate=0.02, max_steps=40)
KEY = bytes(range(32))


@dataclass
class Account:
    """An account in memory."""

    budget: Budget
    made: dict[str, Noise] = field(default_factory=dict)

    def spend(self, head: str, noise: Noise) -> str | None:
        if head in self.made:
            return None
        if spent([*self.made.values(), noise], self.budget.delta) > self.budget.total:
            return "the budget is used up"
        self.made[head] = noise
        return None


@dataclass
class Watched:
    """A lender that keeps what it was shown."""

    seen: list[Release] = field(default_factory=list)

    def __call__(self, release: Release) -> Lent:
        self.seen.append(release)
        return release.lent


def rows_of(rows: int, signal: float = 1.5, seed: int = 0, features: int = 4) -> SiteData:
    return made_data(made_rows("ann", rows, seed, features, signal=signal)).only(0)


def noise_labels(rows: int = 40, features: int = 60) -> SiteData:
    """Return rows whose labels nothing explains: what fits them has learnt them by heart."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    y = rng.permutation(np.arange(rows) % 2)
    return made_data(SiteRows("ann", x, y, np.arange(rows))).only(0)


def lent_by(method: DFLMoE, data: SiteData) -> Lent:
    rng = generator(0, "test")
    return method.prepare(method.init("ann", data, rng), data, rng)[1]


def heard(method: DFLMoE, data: SiteData, lender: Lending) -> tuple[Lent, list[Audited]]:
    told: list[Audited] = []
    lender = replace(lender, tell=told.append)
    return lent_by(replace(method, lender=lender), data), told


OVERTRAINED = DFLMoE(
    mlp(60, 2),
    Dials(),
    Training(weight_decays=(1e-6,), learning_rate=0.02, max_steps=300, early_stopping=False),
)


# --- the site's own attack ---


def test_an_over_trained_head_is_not_lent_and_the_site_is_told_what_would_help() -> None:
    lent, (told,) = heard(OVERTRAINED, noise_labels(), Lending(limit=0.7))
    assert lent.tensors == {}
    assert told.exposure is not None
    assert told.exposure.area > 0.8
    assert told.exposure.low > 0.7
    assert lent.withheld == told.withheld
    assert "above the limit of 0.70" in (lent.withheld or "")
    assert "more labelled rows would help" in (lent.withheld or "")


def test_an_honest_head_passes_the_same_limit_and_is_lent_as_it_is() -> None:
    method = DFLMoE(plain(4, 2), Dials(), QUICK)
    data = rows_of(200)
    lent, (told,) = heard(method, data, Lending(limit=0.7))
    assert told.withheld is None
    assert told.exposure is not None
    assert told.exposure.low < 0.5 < told.exposure.high + 0.05
    same = lent_by(method, data)
    assert all(torch.equal(lent.tensors[name], p) for name, p in same.tensors.items())


def test_without_a_limit_a_head_is_attacked_and_lent_whatever_comes_of_it() -> None:
    lent, (told,) = heard(OVERTRAINED, noise_labels(), Lending())
    assert lent.tensors
    assert told.exposure is not None
    assert told.withheld is None


@pytest.mark.parametrize("averaging", [0, 2], ids=["heads", "every fit"])
def test_whatever_kind_is_lent_is_attacked(averaging: int) -> None:
    method = replace(OVERTRAINED, dials=Dials(averaging=averaging))
    lent, (told,) = heard(method, noise_labels(), Lending(limit=0.7))
    assert told.kind == ("fits" if averaging else "head")
    assert lent.tensors == {}


def test_peers_heads_and_opinions_are_used_against_it() -> None:
    data = replace(rows_of(80), anchors=torch.randn(30, 4, generator=generator(1)))
    method = DFLMoE(mlp(4, 2), TAUGHT, QUICK)
    watched = Watched()
    lent_by(replace(method, lender=watched), data)
    (release,) = watched.seen
    assert release.anchors is not None
    assert exposure(release) is not None
    shared = DFLMoE(plain(4, 2), Dials(), QUICK, lender=watched)
    rng = generator(0, "test")
    state, lent = shared.prepare(shared.init("ann", data, rng), data, rng)
    state, _ = shared.absorb(state, [replace(lent, site="bob")], data, rng)
    shared.prepare(state, data, rng)
    assert set(watched.seen[-1].peers) == {"bob"}
    assert exposure(watched.seen[-1]) is not None


def test_where_all_rows_are_learnt_from_the_twins_tell() -> None:
    data = noise_labels()
    everything = data.crossfit.fold.clone()
    everything[everything < 0] = 0
    whole = replace(data, crossfit=replace(data.crossfit, fold=everything))
    _, (told,) = heard(OVERTRAINED, whole, Lending())
    assert told.exposure is not None
    assert told.exposure.attack == "loss threshold, twins"


# --- rare classes, and what does not travel ---


def rare() -> SiteData:
    site = made_rows("ann", 60, 0, classes=2)
    y = site.y.copy()
    y[:3] = 2
    return made_data(replace(site, y=y)).only(0)


def test_a_class_of_few_patients_teaches_nothing_that_is_lent() -> None:
    method = DFLMoE(plain(4, 3), Dials(), QUICK)
    data = rare()
    lent = lent_by(replace(method, min_class_patients=5), data)
    moved = data.x.clone()
    moved[:, data.y == 2] += 100
    other = lent_by(replace(method, min_class_patients=5), replace(data, x=moved))
    assert all(torch.equal(p, other.tensors[name]) for name, p in lent.tensors.items())
    told = lent_by(method, data)
    assert not torch.equal(told.tensors["weight"], lent.tensors["weight"])


def test_a_site_keeps_what_a_rare_class_taught_it() -> None:
    method, data = DFLMoE(plain(4, 3), Dials(), QUICK), rare()
    states = [
        one.prepare(one.init("ann", data, generator(0)), data, generator(0))[0]
        for one in (method, replace(method, min_class_patients=5))
    ]
    heads = [state.params["head"]["weight"] for state in states]
    assert torch.equal(*heads)


def test_a_rare_class_does_not_teach_a_private_head_either() -> None:
    method = DFLMoE(plain(4, 3), Dials(), QUICK, min_class_patients=5)
    data = rare()
    moved = data.x.clone()
    moved[:, data.y == 2] += 100
    one, other = (
        heard(method, rows, Lending(private=private(2.0)))[0].tensors
        for rows in (data, replace(data, x=moved))
    )
    assert torch.equal(one["weight"], other["weight"])


def test_where_one_class_is_common_enough_nothing_is_lent_and_the_site_is_told_why() -> None:
    site = made_rows("ann", 60, 0, classes=2)
    y = (np.arange(60) < 4).astype(np.int64)
    data = made_data(replace(site, y=y)).only(0)
    lent = lent_by(DFLMoE(plain(4, 2), Dials(), QUICK, min_class_patients=5), data)
    assert lent.tensors == {}
    assert "fewer than two classes have 5 patients" in (lent.withheld or "")
    assert lent_by(DFLMoE(plain(4, 2), Dials(), QUICK), data).tensors


def test_classes_that_are_common_enough_change_nothing() -> None:
    data = rows_of(60)
    assert data.without_rare(5) is data
    assert data.without_rare(10**6) is not data


@pytest.mark.parametrize("network", [plain(4, 2), mlp(4, 2)])
def test_only_the_weights_of_a_head_travel(network: object) -> None:
    method = DFLMoE(network, Dials(), QUICK)  # type: ignore[arg-type]
    lent = lent_by(method, rows_of(60))
    assert set(lent.tensors) == {name for name, _ in method.network.head.named_parameters()}
    assert head_of(lent.tensors) == lent.tensors


# --- differential privacy ---


def private(epsilon: float, total: float | None = None) -> Private:
    budget = Budget(epsilon, total or epsilon, 1e-5)
    return Private(budget, KEY, Account(budget))


def test_a_patient_counts_once_whatever_it_says_and_however_many_rows_it_has() -> None:
    head, rng = nn.Linear(4, 2), generator(0)
    params = {name: p.detach() for name, p in head.named_parameters()}
    x, y = 50 * torch.randn(7, 4, generator=rng), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    patient = torch.tensor([3, 3, 3, 5, 5, 9, 3])
    found = slopes(head, params, by_patient(x, y, patient))
    assert found["weight"].shape == (3, 2, 4)
    for k, one in enumerate((3, 5, 9)):
        rows = patient == one
        alone = nn.functional.cross_entropy(head(x[rows]), y[rows])
        slope = torch.autograd.grad(alone, [head.weight, head.bias])
        torch.testing.assert_close(found["weight"][k], slope[0])
        torch.testing.assert_close(found["bias"][k], slope[1])


def test_without_noise_no_patient_moves_a_step_by_more_than_the_clip() -> None:
    head, rng = nn.Linear(4, 2), generator(0)
    start = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
    x, y = 100 * torch.randn(6, 4, generator=rng), torch.tensor([0, 1, 0, 1, 0, 1])
    patient = torch.tensor([0, 1, 2, 3, 4, 4])
    steps = []
    for kept in (patient < 5, patient < 4):
        noise = Noise(1e-9, 1)
        made = private_head(
            head, start, x[kept], y[kept], patient[kept], noise=noise, stream=Stream(KEY)
        )
        count = len(patient[kept].unique())
        steps.append(torch.cat([p.flatten() for p in made.values()]) * count / 0.5)
    assert float((steps[0] - steps[1]).norm()) <= CLIP + 1e-5


def test_without_noise_a_private_head_says_what_an_ordinary_one_does() -> None:
    data = rows_of(200)
    learns = data.learnt[0, -1] > 0
    rows = data.x[0][learns], data.y[learns], data.group[learns]
    head = plain(4, 2).head
    start = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
    made = private_head(head, start, *rows, noise=Noise(1e-9, 300), stream=Stream(KEY))
    ordinary = lent_by(DFLMoE(plain(4, 2), Dials(), QUICK), data).tensors
    said = [
        torch.func.functional_call(head, one, (data.x[0],)).argmax(1)
        for one in (made, {name: p[0] for name, p in ordinary.items()})
    ]
    assert float((said[0] == said[1]).float().mean()) > 0.9


def test_the_noise_is_as_large_as_the_account_says() -> None:
    """One step on rows that say nothing leaves the noise alone."""
    head = nn.Linear(50, 2)
    start = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
    x, y, patient = torch.zeros(100, 50), torch.arange(100) % 2, torch.arange(100)
    made = private_head(head, start, x, y, patient, noise=Noise(8.0, 1), stream=Stream(KEY))
    spread = float(made["weight"].std()) * 100 / 0.5
    assert spread == pytest.approx(8.0, rel=0.2)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_a_head_spends_what_it_was_allowed_and_hardly_less(epsilon: float) -> None:
    noise = Budget(epsilon, epsilon, 1e-5).noise
    assert noise.steps == STEPS
    assert 0.95 * epsilon < spent([noise], 1e-5) <= epsilon
    assert spent([], 1e-5) == 0.0


def test_several_heads_spend_more_than_one_and_less_than_their_sum() -> None:
    budget = Budget(1.0, 3.0, 1e-5)
    one, four = (spent([budget.noise] * count, 1e-5) for count in (1, 4))
    assert one < four < 4 * one
    count = heads_for(budget)
    assert spent([budget.noise] * count, 1e-5) <= 3.0 < spent([budget.noise] * (count + 1), 1e-5)
    assert count > 3


def test_the_same_rows_give_the_same_private_head_for_nothing_more() -> None:
    method, data, promise = DFLMoE(plain(4, 2), Dials(), QUICK), rows_of(80), private(2.0)
    first, _ = heard(method, data, Lending(private=promise))
    again, _ = heard(method, data, Lending(private=promise))
    assert all(torch.equal(p, again.tensors[name]) for name, p in first.tensors.items())
    assert isinstance(promise.ledger, Account)
    assert len(promise.ledger.made) == 1
    ordinary = lent_by(method, data)
    assert not torch.equal(first.tensors["weight"], ordinary.tensors["weight"])


def test_other_rows_need_other_noise_and_are_not_lent_beyond_the_budget() -> None:
    method, promise = DFLMoE(plain(4, 2), Dials(), QUICK), private(2.0)
    heard(method, rows_of(80), Lending(private=promise))
    lent, (told,) = heard(method, rows_of(80, seed=1), Lending(private=promise))
    assert lent.tensors == {}
    assert told.withheld == lent.withheld == "the budget is used up"


def test_noise_is_drawn_from_the_secret_and_from_what_the_head_is_made_of() -> None:
    head, noise = nn.Linear(4, 2), Noise(1.0, 60)
    one, other = (name_of(head, noise, torch.zeros(shape)) for shape in ((2,), (1, 2)))
    seeds = {seed_of(key, what) for key in (KEY, bytes(32)) for what in (one, other)}
    assert len(seeds) == 4


def test_another_architecture_or_another_promise_on_the_same_rows_costs_again() -> None:
    rows, noise = torch.zeros(4, 3), Noise(1.0, 60)
    wider = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    names = {
        name_of(nn.Linear(3, 2), noise, rows),
        name_of(nn.Linear(3, 3), noise, rows),
        name_of(wider, noise, rows),
        name_of(nn.Linear(3, 2), Noise(2.0, 60), rows),
    }
    assert len(names) == 4
    assert name_of(nn.Linear(3, 2), noise, rows) in names


def test_noise_is_normal_the_same_for_a_seed_and_never_repeats() -> None:
    stream = Stream(KEY)
    drawn = [stream.normal((100, 200)) for _ in range(2)]
    for one in drawn:
        assert float(one.mean()) == pytest.approx(0, abs=0.03)
        assert float(one.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((drawn[0] * drawn[1]).mean())) < 0.03
    assert torch.equal(Stream(KEY).normal((100, 200)), drawn[0])


def test_no_two_of_many_secrets_draw_the_same_noise() -> None:
    """PyTorch's own generator has 2^32 streams: seeds that agree in 32 bits draw alike."""
    alike = [seed_of(KEY, f"head {k}")[:-4] + KEY[:4] for k in range(20)]
    first = {float(Stream(seed).normal((1,))) for seed in alike}
    assert len(first) == 20


@pytest.mark.parametrize(
    "head", [nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))]
)
def test_clipped_gradients_are_those_of_opacus_where_each_patient_has_one_row(
    head: nn.Module,
) -> None:
    x, y = 20 * torch.randn(9, 4, generator=generator(2)), torch.arange(9) % 2
    start = {name: p.detach().clone() for name, p in head.named_parameters()}
    ours = private_head(
        head, start, x, y, torch.arange(9), noise=Noise(1e-12, 1), stream=Stream(KEY)
    )
    theirs = GradSampleModule(copy.deepcopy(head))
    optimiser = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=RATE, weight_decay=DECAY),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=9,
    )
    nn.functional.cross_entropy(theirs(x.requires_grad_()), y).backward()
    optimiser.step()
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(p.detach(), ours[name.removeprefix("_module.")])


def test_a_private_head_of_several_layers_is_made_too() -> None:
    network = build("mlp", (4,), 2, common=False)
    deeper = replace(network, body=nn.Identity(), head=nn.Sequential(network.body, network.head))
    method = DFLMoE(replace(deeper, width=4, common=True), Dials(), QUICK)
    lent, (told,) = heard(method, rows_of(80), Lending(private=private(8.0)))
    assert told.withheld is None
    assert all(torch.isfinite(p).all() for p in lent.tensors.values())


@pytest.mark.parametrize(
    ("network", "kinds", "sentence"),
    [
        (mlp(4, 2), {"head"}, "learns from this site's rows"),
        (plain(4, 2), {"fits", "head"}, "every fit in many rounds"),
    ],
)
def test_a_promise_that_would_not_be_honest_is_refused(
    network: object, kinds: set[str], sentence: str
) -> None:
    with pytest.raises(PrivacyError, match=sentence):
        honest(network, frozenset(kinds))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0.0, 1.0, 1e-5), "epsilon is 0; .* above 0"),
        ((-1.0, 1.0, 1e-5), "epsilon is -1; .* above 0"),
        ((float("nan"), 1.0, 1e-5), "epsilon is nan"),
        ((float("inf"), 1.0, 1e-5), "epsilon is inf"),
        ((1.0, 0.0, 1e-5), "the budget is 0"),
        ((2.0, 1.0, 1e-5), "one head spends epsilon 2 and the budget is 1"),
        ((1.0, 1.0, 0.0), "delta is 0"),
        ((1.0, 1.0, 1.0), "delta is 1"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(numbers: Sequence[float], sentence: str) -> None:
    with pytest.raises(PrivacyError, match=sentence):
        Budget(*numbers)


def test_a_lender_is_one() -> None:
    assert isinstance(Lending(), Lender)
