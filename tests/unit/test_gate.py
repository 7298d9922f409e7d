import math

import pytest
import torch

from dflmoe.core.gate import GateKind, gate_log_weights, gate_pull, gate_scores, uniform_gate

EXPERTS = ["own", "a", "b"]


@pytest.mark.parametrize("kind", ["attention", "linear", "static"])
def test_every_gate_starts_uniform(kind: str, rng: torch.Generator) -> None:
    gate = uniform_gate(kind, EXPERTS, models=2, width=4, classes=2)  # type: ignore[arg-type]
    features = torch.randn(2, 5, 4, generator=rng)
    tokens = torch.randn(2, 5, 3, 2, generator=rng)

    scores = gate_scores(gate, EXPERTS, features, tokens)
    weights = gate_log_weights(scores, torch.ones(2, 3, dtype=torch.bool)).exp()

    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


def test_attention_worked_by_hand() -> None:
    # One row, I = (1, 2), two classes, W = [[1, 0], [0, 1]], so q = W I = (1, 2).
    # Own head says (0, 0), the peer says (2, 1): q P^T / sqrt(2) = 0 and (2 + 2) / sqrt(2).
    gate = {"query": torch.eye(2)[None]}
    features = torch.tensor([[[1.0, 2.0]]])
    tokens = torch.tensor([[[[0.0, 0.0], [2.0, 1.0]]]])

    scores = gate_scores(gate, ["own", "a"], features, tokens)
    weights = gate_log_weights(scores, torch.ones(1, 2, dtype=torch.bool)).exp()

    peer = math.exp(4 / math.sqrt(2)) / (1 + math.exp(4 / math.sqrt(2)))
    torch.testing.assert_close(weights, torch.tensor([[[1 - peer, peer]]]))


def test_a_linear_gate_prefers_the_expert_its_features_point_to() -> None:
    gate = {f"bias/{e}": torch.zeros(1) for e in EXPERTS}
    gate |= {f"slope/{e}": torch.zeros(1, 1) for e in EXPERTS}
    gate["slope/b"] = torch.tensor([[3.0]])
    scores = gate_scores(gate, EXPERTS, torch.tensor([[[1.0], [-1.0]]]), torch.zeros(1, 2, 3, 2))
    torch.testing.assert_close(scores[0], torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0]]))


@pytest.mark.parametrize("kind", ["attention", "linear"])
def test_where_heads_enlarge_a_place_speaks_for_all_that_come_of_it(
    kind: GateKind, rng: torch.Generator
) -> None:
    gate = uniform_gate(kind, ["own", "peer"], 2, 3, 4)
    gate = {name: torch.randn(p.shape, generator=rng) for name, p in gate.items()}
    coarse = torch.randn(2, 5, 3, 2, 2, generator=rng)
    tokens = torch.randn(2, 5, 2, 4, 4, 4, generator=rng)
    fine = coarse.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    scores = [gate_scores(gate, ["own", "peer"], some, tokens) for some in (coarse, fine)]
    torch.testing.assert_close(*scores)


def test_an_unavailable_expert_weighs_nothing() -> None:
    available = torch.tensor([[True, False, True]])
    weights = gate_log_weights(torch.zeros(1, 4, 3), available).exp()
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.0, 0.5]).expand(1, 4, 3))


def test_what_a_cap_cuts_from_a_peer_goes_to_the_own_head() -> None:
    # Softmax of (0, log 8, 0) is (0.1, 0.8, 0.1); a cap of one half moves 0.3 to the own head.
    scores = torch.tensor([[[0.0, math.log(8.0), 0.0]]])
    available = torch.ones(1, 3, dtype=torch.bool)
    weights = gate_log_weights(scores, available, cap=0.5).exp()
    torch.testing.assert_close(weights, torch.tensor([[[0.4, 0.5, 0.1]]]))


def test_a_capped_gate_has_a_slope_even_where_a_head_is_set_aside() -> None:
    scores = torch.zeros(1, 2, 3, requires_grad=True)
    available = torch.tensor([[True, False, True]])
    weights = gate_log_weights(scores, available, cap=0.4)
    weights[..., 2].sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_a_mixture_without_the_own_head_is_refused() -> None:
    with pytest.raises(ValueError, match="own head"):
        gate_log_weights(torch.zeros(1, 1, 2), torch.tensor([[False, True]]))


def test_the_pull_to_uniform_grows_with_the_distance_and_ignores_other_parameters() -> None:
    gate = {"bias/own": torch.tensor([3.0]), "bias/a": torch.tensor([4.0]), "shift": torch.ones(1)}
    torch.testing.assert_close(gate_pull(gate, sd=1.0), torch.tensor([12.5]))
    torch.testing.assert_close(gate_pull(gate, sd=5.0), torch.tensor([0.5]))
    assert float(gate_pull(gate, sd=math.inf)) == 0


def test_a_cap_binds_peers_and_not_what_is_the_sites_own() -> None:
    # Two of the four are the site's own: the first gets what the cap takes from the last.
    scores = torch.tensor([[[0.0, math.log(2.0), 0.0, math.log(6.0)]]])
    available = torch.ones(1, 4, dtype=torch.bool)
    weights = gate_log_weights(scores, available, cap=0.5, own=2).exp()
    torch.testing.assert_close(weights, torch.tensor([[[0.2, 0.2, 0.1, 0.5]]]))


def test_a_selected_gate_has_nothing_to_learn_and_favours_nobody() -> None:
    gate = uniform_gate("selected", EXPERTS, 2, 4, 3)
    assert not gate
    assert not gate_scores(gate, EXPERTS, torch.ones(2, 5, 4), torch.ones(2, 5, 3, 3)).any()
