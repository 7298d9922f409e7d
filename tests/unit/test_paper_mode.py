"""The published method against a plain reference: modules, loops and one optimiser at a time."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.made import made_data, made_rows
from torch import Tensor, nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.training import Training
from dflmoe.networks import mlp
from dflmoe.types import generator

DECAY, RATE, STEPS = 0.01, 0.02, 12
NETWORK = mlp(4, 3, hidden=6)
PLAN = Training(
    weight_decays=(DECAY,), learning_rate=RATE, max_steps=STEPS, judge_every=STEPS,
    early_stopping=False,
)  # fmt: skip
DIALS = replace(Dials.paper(), batch=None)


def loaded(module: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    module = copy.deepcopy(module)
    module.load_state_dict(dict(params))
    return module


def trained_alone(body: nn.Module, head: nn.Module, x: Tensor, y: Tensor) -> None:
    """Train body and head together on own rows, in place (section 3.1)."""
    weights = [*body.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(weights, lr=RATE)
    for _ in range(STEPS):
        decay = sum(p.square().sum() for p in weights if p.dim() > 1) * DECAY / 2
        optimiser.zero_grad()
        (F.cross_entropy(head(body(x)), y) + decay).backward()
        optimiser.step()


def mixed(
    body: nn.Module, head: nn.Module, borrowed: list[nn.Module], x: Tensor, y: Tensor, at: Tensor
) -> Tensor:
    """Learn transforms and gate on frozen heads and predict (sections 3.2 and 3.3)."""
    common, query = torch.eye(6).requires_grad_(), torch.zeros(3, 6).requires_grad_()
    maps = [torch.eye(6).requires_grad_() for _ in borrowed]
    optimiser = torch.optim.Adam([common, query, *maps], lr=DIALS.mixture_rate)

    def logits(rows: Tensor) -> Tensor:
        features = body(rows).detach()
        said = [head(features).detach()]
        for to, one in zip(maps, borrowed, strict=True):
            said.append(one(features @ common.T @ to.T))
        experts = torch.stack(said, dim=1)
        match = torch.einsum("nf,cf,nec->ne", features, query, experts) / math.sqrt(3)
        return torch.einsum("ne,nec->nc", match.softmax(1), experts)

    for _ in range(DIALS.mixture_steps):
        optimiser.zero_grad()
        F.cross_entropy(logits(x), y).backward()
        optimiser.step()
    return F.log_softmax(logits(at), dim=1).detach()


def site(name: str, seed: int) -> SiteData:
    return made_data(made_rows(name, 60, seed, classes=3))


def lent_by(name: str, seed: int) -> Lent:
    algorithm, data = DFLMoE(NETWORK, DIALS, PLAN), site(name, seed)
    state = algorithm.init(name, data, generator(seed, name))
    return algorithm.prepare(state, data, generator(seed, name, 1))[1]


@pytest.mark.parametrize("peers", [0, 1, 3])
def test_a_round_of_the_published_method_equals_a_plain_reference(peers: int) -> None:
    algorithm, data = DFLMoE(NETWORK, DIALS, PLAN), site("home", 9)
    state = algorithm.init("home", data, generator(0, "home"))
    inbox = [lent_by(f"peer{k}", k) for k in range(peers)]
    after, _ = algorithm.prepare(state, data, generator(1))
    _, outcome = algorithm.absorb(after, inbox, data, generator(2))

    for split in range(data.crossfit.splits):
        tested = data.crossfit.fold[split] < 0
        x, y, at = data.x[split][~tested], data.y[~tested], data.x[split][tested]
        body, head = (
            loaded(module, {n: p[0] for n, p in state.params[part].items()})
            for part, module in (("body", NETWORK.body), ("head", NETWORK.head))
        )
        trained_alone(body, head, x, y)
        borrowed = [
            loaded(NETWORK.head, {n: p[split] for n, p in lent.tensors.items()}) for lent in inbox
        ]
        expected = mixed(body, head, borrowed, x, y, at)
        torch.testing.assert_close(outcome.served[split, tested], expected, rtol=1e-3, atol=1e-4)
