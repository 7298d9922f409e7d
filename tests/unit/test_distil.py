"""Peers' opinion of public rows, learnt at home."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.made import made_data, made_masks, made_rows, noise

from dflmoe.core.controls import Control
from dflmoe.core.dflmoe import OPINION, DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.distil import with_opinion
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.task import LABELS
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.tasks.segmentation import Pixels
from dflmoe.types import generator

QUICK = Training(weight_decays=(0.01,), learning_rate=0.02, max_steps=60)
DIALS = Dials(body="private", vouched=False, distil=1.0, gate="selected")
ANCHORS = noise(5, 100, 4) + torch.tensor([0.75, 0, 0, 0])


def site(name: str, rows: int, seed: int) -> SiteData:
    return replace(made_data(made_rows(name, rows, seed)).only(0), anchors=ANCHORS)


def lent_by(name: str, seed: int, dials: Dials = DIALS) -> Lent:
    algorithm, data = DFLMoE(mlp(4, 2, hidden=8), dials, QUICK), site(name, 400, seed)
    return algorithm.prepare(algorithm.init(name, data, generator(seed)), data, generator(seed))[1]


def at_home(inbox: Sequence[Lent]) -> float:
    """Return the mean loss of what sites with few rows learn from opinions, on rows never seen."""
    algorithm, losses = DFLMoE(mlp(4, 2, hidden=6), DIALS, QUICK), []
    for seed in range(10, 14):
        home = site("home", 40, seed)
        state = algorithm.init("home", home, generator(seed))
        state, _ = algorithm.prepare(state, home, generator(seed, 1))
        opinions = [lent.tensors[OPINION] for lent in inbox]
        said, _ = algorithm._taught(state, opinions, home, generator(seed, 2))
        losses.append(home.task.losses(said, home.y[None])[home.crossfit.fold < 0].mean())
    return float(torch.stack(losses).mean())


def test_an_opinion_is_a_distribution_over_classes_of_every_anchor() -> None:
    opinion = lent_by("rich", 1).tensors[OPINION]
    assert opinion.shape == (1, 100, 2)
    torch.testing.assert_close(opinion.sum(2), torch.ones(1, 100))


def test_peers_that_know_teach_and_peers_that_know_nothing_do_not() -> None:
    know = [lent_by(f"p{k}", k) for k in range(2)]
    guess = [
        replace(m, tensors={**m.tensors, OPINION: noise(9, 1, 100, 2).softmax(2)}) for m in know
    ]
    assert at_home(know) < at_home(guess)


def test_what_the_peers_said_never_counts_when_a_fit_is_judged() -> None:
    home = site("home", 24, 2)
    told = with_opinion(home, torch.full((100, 2), 0.5), 2, weight=2.0)
    assert not told.judged[..., 24:].any()
    trains = int((home.crossfit.fold >= 0).sum())
    for fit in range(told.crossfit.fits):
        assert float(told.learnt[0, fit, 24:].sum()) == pytest.approx(2 * trains)
    assert not told.learnt[0, :, :24][:, home.crossfit.fold[0] < 0].any()
    torch.testing.assert_close(told.learnt[..., :24], home.learnt)


def test_a_taught_network_is_an_expert_beside_the_others() -> None:
    algorithm, home = DFLMoE(mlp(4, 2, hidden=8), DIALS, QUICK), site("home", 24, 2)
    state, _ = algorithm.prepare(algorithm.init("home", home, generator(3)), home, generator(4))
    _, outcome = algorithm.absorb(state, [lent_by("rich", 1)], home, generator(5))
    assert list(outcome.share) == ["home", "home (taught by peers)", "rich"]
    assert list(outcome.worth) == ["rich"]


@pytest.mark.parametrize("control", ["random", "self"])
def test_under_a_control_nobody_learns_what_peers_say(control: Control) -> None:
    dials = replace(DIALS, control=control)
    algorithm, home = DFLMoE(mlp(4, 2, hidden=8), dials, QUICK), site("home", 24, 2)
    peer, served = lent_by("rich", 1), []
    for opinion in (peer.tensors[OPINION], peer.tensors[OPINION].flip(2)):
        state, _ = algorithm.prepare(algorithm.init("home", home, generator(3)), home, generator(4))
        inbox = [replace(peer, tensors={**peer.tensors, OPINION: opinion})]
        _, outcome = algorithm.absorb(state, inbox, home, generator(5))
        assert "home (taught by peers)" in outcome.share
        served.append(outcome.mixture)
    torch.testing.assert_close(served[0], served[1], rtol=0, atol=0)


def test_what_is_no_distribution_teaches_nobody() -> None:
    algorithm, home = DFLMoE(mlp(4, 2, hidden=8), DIALS, QUICK), site("home", 24, 2)
    peer = lent_by("rich", 1)
    for lie in (-peer.tensors[OPINION], 1000 * peer.tensors[OPINION]):
        state, _ = algorithm.prepare(algorithm.init("home", home, generator(3)), home, generator(4))
        inbox = [replace(peer, tensors={**peer.tensors, OPINION: lie})]
        _, outcome = algorithm.absorb(state, inbox, home, generator(5))
        assert list(outcome.share) == ["home", "rich"]


def test_splits_that_are_played_side_by_side_are_taught_apart() -> None:
    algorithm = DFLMoE(mlp(4, 2, hidden=8), DIALS, QUICK)
    made = replace(made_data(made_rows("home", 24, 2)), anchors=ANCHORS)
    state = algorithm.init("home", made, generator(3))
    opinions = [noise(9, 2, 100, 2).softmax(2)]
    both, _ = algorithm._taught(state, opinions, made, generator(5))
    assert both.shape == (2, 24, 2)
    first, _ = algorithm._taught(state, [o[:1] for o in opinions], made.only(0), generator(5))
    torch.testing.assert_close(both[:1], first)
    changed = [torch.cat([o[:1], o[1:].flip(2)]) for o in opinions]
    other, _ = algorithm._taught(state, changed, made, generator(5))
    torch.testing.assert_close(other[0], both[0])
    assert not torch.allclose(other[1], both[1])


@pytest.mark.parametrize("kind", ["labels", "masks"])
def test_a_certain_opinion_costs_what_the_truth_costs(kind: str) -> None:
    if kind == "labels":
        y, said = torch.arange(12) % 3, noise(0, 1, 12, 3)
        soft = torch.nn.functional.one_hot(y, 3).float()
        torch.testing.assert_close(LABELS.losses(said, y[None]), LABELS.losses(said, soft[None]))
        return
    _, masks = made_masks(6, 8)
    said = noise(0, 1, 6, 2, 8, 8)
    soft = torch.nn.functional.one_hot(masks, 2).movedim(-1, 1).float()
    torch.testing.assert_close(
        Pixels().losses(said, masks[None]), Pixels().losses(said, soft[None])
    )
