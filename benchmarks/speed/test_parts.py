"""The parts of a round: a step of the mixture, heads, gates."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import Speed
from dflmoe.core.dials import Dials
from dflmoe.core.gate import gate_log_weights, gate_scores
from dflmoe.core.mixing import Invited, fit_mixture
from dflmoe.core.mixture import mix
from dflmoe.core.site import CrossFit, Network, SiteData
from dflmoe.core.stacking import Stack, call_each, initial
from dflmoe.core.training import Training, cross_fit
from dflmoe.simulation.company import in_company
from dflmoe.simulation.device import CPU
from dflmoe.types import Params, generator

WIDTH, HIDDEN, CLASSES, ROWS = 128, 64, 10, 32
SITES, STEPS, TIMES = 32, 40, 50


def head() -> nn.Sequential:
    """Return a head."""
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


FEATURES, Y = torch.randn(ROWS, WIDTH, generator=generator(0)), torch.arange(ROWS) % CLASSES


class Modules:
    """A gate on a loop over modules, in plain PyTorch."""

    def __init__(self, experts: int) -> None:
        self.heads = [head().requires_grad_(requires_grad=False) for _ in range(experts)]
        self.query = torch.zeros(CLASSES, WIDTH, requires_grad=True)

    def step(self) -> Tensor:
        """Return the gradient of the gate."""
        said = torch.stack([one(FEATURES) for one in self.heads], dim=1)
        match = torch.einsum("nf,cf,nec->ne", FEATURES, self.query, said) / math.sqrt(CLASSES)
        loss = F.cross_entropy(torch.einsum("ne,nec->nc", match.softmax(1), said), Y)
        return torch.autograd.grad(loss, self.query)[0]


class Ours:
    """The same by what core has."""

    def __init__(self, modules: Modules) -> None:
        self.module, names = head(), dict(modules.heads[0].named_parameters())
        self.heads: list[Params] = [
            {name: one.get_parameter(name)[None] for name in names} for one in modules.heads
        ]
        self.names = [str(k) for k in range(len(self.heads))]
        self.query = torch.zeros(1, CLASSES, WIDTH, requires_grad=True)
        self.available = torch.ones(1, len(self.heads), dtype=torch.bool)
        self.said = self.says()

    def says(self) -> Tensor:
        """Return what the heads say; they are frozen, so once a round is enough."""
        with torch.no_grad():
            seen = [FEATURES[None]] * len(self.heads)
            return torch.stack(call_each(self.module, self.heads, seen), dim=2)

    def step(self, *, again: bool) -> Tensor:
        """Return the gradient of the gate, heads asked again or not."""
        said = self.says() if again else self.said
        scores = gate_scores({"query": self.query}, self.names, FEATURES[None], said)
        log_probs = mix(said, gate_log_weights(scores, self.available), "logits")
        return torch.autograd.grad(F.nll_loss(log_probs[0], Y), self.query)[0]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(("experts", "target"), [(8, 0.68), (64, 0.47)])
def test_a_step_of_the_mixture(speed: Speed, experts: int, target: float, again: bool) -> None:
    modules = Modules(experts)
    ours = Ours(modules)
    torch.testing.assert_close(ours.step(again=True)[0], modules.step(), rtol=1e-4, atol=1e-6)

    def often() -> None:
        for _ in range(TIMES):
            ours.step(again=again)

    def plain() -> None:
        for _ in range(TIMES):
            modules.step()

    asked = "that are asked each time" if again else "that were asked once"
    what = f"{TIMES} steps of a gate on {experts} heads {asked}; beside modules"
    speed.beside(what, often, plain, target=target)


# Many sites.


def rows(site: int) -> SiteData:
    """Return the rows of a site."""
    x = torch.randn(1, ROWS, WIDTH, generator=generator(site, "x"))
    return SiteData(x, Y, CrossFit((torch.arange(ROWS) % 2)[None]), torch.arange(ROWS))


DATA = [rows(site) for site in range(SITES)]
PLAN = Training(weight_decays=(0.01,), learning_rate=0.01, max_steps=STEPS, judge_every=STEPS)
NETWORK = Network(nn.Identity(), head(), WIDTH, CLASSES, common=True)


def trained(site: int) -> Params:
    """Return the heads of a site's three fits."""
    start = initial(NETWORK.head, DATA[site].crossfit.fits, generator(0))
    return cross_fit(Stack(NETWORK.head), start, DATA[site], PLAN, generator(1)).params


def test_heads_of_many_sites(speed: Speed) -> None:
    calls = [partial(trained, site) for site in range(SITES)]

    def plain() -> None:
        for data in DATA:
            for fit in range(data.crossfit.fits):
                at = data.crossfit.learns[0, fit]
                net = head()
                optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
                for _ in range(STEPS):
                    optimiser.zero_grad()
                    pulled = sum(p.square().sum() for p in net.parameters() if p.dim() > 1) * 0.005
                    (F.cross_entropy(net(data.x[0, at]), data.y[at]) + pulled).backward()
                    optimiser.step()

    what = f"heads of {SITES} sites, three fits each, {STEPS} steps; beside a plain loop"
    speed.beside(what, lambda: in_company(calls, CPU), plain)


def mixed(experts: int, site: int) -> None:
    """Fit the mixture of a site."""
    heads = {f"peer-{k}": initial(NETWORK.head, 3, generator(k)) for k in range(experts)}
    invited = Invited(initial(NETWORK.head, 3, generator(99)), heads, dict.fromkeys(heads, WIDTH))
    features = DATA[site].x.repeat_interleave(3, dim=0)
    fit_mixture(NETWORK, Dials(mixture_steps=STEPS), invited, features, body={}, previous={},
                data=DATA[site], rng=generator(0))  # fmt: skip


def test_gates_of_many_sites(speed: Speed) -> None:
    calls = [partial(mixed, 8, site) for site in range(SITES)]

    def apart() -> None:
        for call in calls:
            call()

    what = f"mixtures of {SITES} sites with 8 peers; beside one site after the other"
    speed.beside(what, lambda: in_company(calls, CPU), apart)


@pytest.mark.parametrize("experts", [16, 32, 64])
def test_many_experts(speed: Speed, experts: int) -> None:
    what = f"a mixture of {experts} peers; beside one of 8"
    speed.beside(what, partial(mixed, experts, 0), partial(mixed, 8, 0))
