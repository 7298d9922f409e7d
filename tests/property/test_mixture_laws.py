import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dflmoe.core.gate import gate_log_weights
from dflmoe.core.mixture import Pool, mix

POOLS: list[Pool] = ["linear", "log", "logits"]


@settings(deadline=None, max_examples=60)
@given(
    experts=st.integers(1, 6),
    classes=st.integers(2, 5),
    pool=st.sampled_from(POOLS),
    cap=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_a_mixture_is_a_distribution_over_classes(
    experts: int, classes: int, pool: Pool, cap: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    tokens = F.log_softmax(3 * torch.randn(2, 4, experts, classes, generator=rng), dim=-1)
    available = torch.rand(2, experts, generator=rng) > 0.3
    available[:, 0] = True
    weights = gate_log_weights(torch.randn(2, 4, experts, generator=rng), available, cap)

    torch.testing.assert_close(weights.exp().sum(-1), torch.ones(2, 4))
    assert (weights.exp()[..., 1:] <= cap + 1e-6).all()
    mixed = mix(tokens, weights, pool)
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(2, 4))


@settings(deadline=None, max_examples=40)
@given(experts=st.integers(1, 5), pool=st.sampled_from(POOLS), seed=st.integers(0, 2**16))
def test_the_order_of_experts_does_not_matter(experts: int, pool: Pool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    tokens = F.log_softmax(torch.randn(1, 3, experts, 3, generator=rng), dim=-1)
    weights = F.log_softmax(torch.randn(1, 3, experts, generator=rng), dim=-1)
    order = torch.randperm(experts, generator=rng)
    torch.testing.assert_close(
        mix(tokens, weights, pool), mix(tokens[:, :, order], weights[..., order], pool)
    )


@settings(deadline=None, max_examples=40)
@given(copies=st.integers(1, 5), pool=st.sampled_from(POOLS), seed=st.integers(0, 2**16))
def test_experts_that_agree_change_nothing(copies: int, pool: Pool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    said = F.log_softmax(torch.randn(1, 3, 1, 4, generator=rng), dim=-1)
    weights = F.log_softmax(torch.randn(1, 3, copies, generator=rng), dim=-1)
    torch.testing.assert_close(mix(said.expand(1, 3, copies, 4), weights, pool), said[:, :, 0])


@settings(deadline=None, max_examples=20)
@given(pool=st.sampled_from(POOLS), seed=st.integers(0, 2**16))
def test_a_batched_mixture_equals_a_plain_loop(pool: Pool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    tokens = F.log_softmax(torch.randn(2, 3, 4, 3, generator=rng), dim=-1)
    weights = F.log_softmax(torch.randn(2, 3, 4, generator=rng), dim=-1)
    batched = mix(tokens, weights, pool)
    for model in range(2):
        for row in range(3):
            total = torch.zeros(3)
            for expert in range(4):
                said = tokens[model, row, expert]
                total += weights[model, row, expert].exp() * (
                    said.exp() if pool == "linear" else said
                )
            one = total / total.sum() if pool == "linear" else total.softmax(0)
            torch.testing.assert_close(batched[model, row].exp(), one)
