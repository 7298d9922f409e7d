"""What a site uses after a round, as one module: from a row to what is said of it.

The method fits everything for many fits and splits at once. Here is the last fit of one of them,
without the leading axes, so that it can lie in a file, be exported, and predict rows that were not
there when it was made. What it computes is what that round computed of rows that it did not learn.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dflmoe.core.algorithm import Outcome
from dflmoe.core.calibration import shifted
from dflmoe.core.dials import Dials
from dflmoe.core.gate import capped_log_weights, gate_scores
from dflmoe.core.guard import hedged
from dflmoe.core.mixing import ALONE, OWN, TAUGHT
from dflmoe.core.mixture import Pool
from dflmoe.core.site import Network
from dflmoe.core.stacking import Given
from dflmoe.core.streaming import Streaming
from dflmoe.core.task import LABELS
from dflmoe.types import Params, SiteId

Serves = Literal["own", "hedge", "mixture"]
"""What the guard lets serve: the own model, the mean of it and of the mixture, or the mixture."""

ROWS = 256
"""Rows that are computed at once where predictions are asked for."""


class Standardising(nn.Module):
    """Features as the site standardised them; missing ones are zero, which is the centre."""

    centre: Tensor
    scale: Tensor
    cut: Tensor

    def __init__(
        self,
        centre: Float[Tensor, " feature"],
        scale: Float[Tensor, " feature"],
        cut: Float[Tensor, " feature"],
    ) -> None:
        """Keep the constants of every column: 0, 1 and infinity for one that is left as it is."""
        super().__init__()
        for name, values in (("centre", centre), ("scale", scale), ("cut", cut)):
            self.register_buffer(name, values.float())

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        """Return the rows as the model takes them."""
        scaled = present((x - self.centre) / self.scale)
        return torch.maximum(torch.minimum(scaled, self.cut), -self.cut)


class AsItIs(nn.Module):
    """Rows that mean the same everywhere; missing numbers are zero, which is the centre."""

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        """Return the rows as the model takes them."""
        return present(x)


def present(x: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
    """Return rows with zeros for what is missing."""
    return torch.where(x.isnan(), torch.zeros_like(x), x)


class Whole(nn.Module):
    """A body and its head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        """Join them."""
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row class"]:
        """Return logits."""
        out: Tensor = self.head(self.body(x))
        return out


class Borrowed(nn.Module):
    """A borrowed head behind the map from own features to those that it expects."""

    def __init__(self, across: nn.Module, head: nn.Module) -> None:
        """Join them; ``nn.Identity()`` where features are left as they are."""
        super().__init__()
        self.across, self.head = across, head

    def forward(self, features: Float[Tensor, "row feature ..."]) -> Float[Tensor, "row class"]:
        """Return logits."""
        out: Tensor = self.head(self.across(features))
        return out


class AffineMap(nn.Module):
    """An affine map of features, at every place alike."""

    def __init__(
        self, weight: Float[Tensor, "peer own"], bias: Float[Tensor, " peer"] | None = None
    ) -> None:
        """Keep it."""
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, features: Float[Tensor, "row own ..."]) -> Float[Tensor, "row peer ..."]:
        """Return the mapped features."""
        return F.linear(features.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)


class Mixing(nn.Module):
    """Experts, what they are weighed by, and what comes of it."""

    def __init__(
        self,
        body: nn.Module,
        own: nn.Module,
        borrowed: Mapping[SiteId, nn.Module],
        *,
        home: Sequence[str],
        pool: Pool,
        cap: float,
        fitted: Params,
    ) -> None:
        """Join the parts of a mixture.

        Args:
            body: Of the network whose heads are lent.
            own: The own head of it.
            borrowed: Heads of the peers with their maps.
            home: The experts that are the site's own, ``OWN`` first.
            pool: How predictions are pooled.
            cap: The most that any one peer may weigh.
            fitted: Gate and shift, ``available`` and ``prior``, each without leading axes.
        """
        super().__init__()
        self.body, self.own = body, own
        self.peers = sorted(borrowed)
        self.borrowed = nn.ModuleList([borrowed[name] for name in self.peers])
        self.home, self.pool, self.cap = list(home), pool, cap
        self.kept = sorted(fitted)
        for k, name in enumerate(self.kept):
            self.register_buffer(f"fitted{k}", fitted[name])

    @property
    def fitted(self) -> Params:
        """Gate and shift, availability and prior."""
        return {name: getattr(self, f"fitted{k}") for k, name in enumerate(self.kept)}

    def forward(
        self, x: Float[Tensor, "row ..."], others: Sequence[Float[Tensor, "row class"]]
    ) -> tuple[Float[Tensor, "row class"], Float[Tensor, "row expert class"]]:
        """Return log probabilities of the mixture, and those of each expert."""
        fitted = {name: p[None] for name, p in self.fitted.items()}
        features = self.body(x)
        said = [self.own(features), *others, *(head(features) for head in self.borrowed)]
        raw = torch.stack(said, dim=1)[None]
        each = LABELS.said(raw, 3)
        tokens = raw if self.pool == "logits" else each
        names = [*self.home, *self.peers]
        scores = gate_scores(fitted, names, LABELS.query(features[None]), tokens)
        weights = capped_log_weights(
            scores + fitted["prior"][:, None], fitted["available"], self.cap, len(self.home)
        )
        mixed = LABELS.pooled(tokens, weights, self.pool)
        if "shift" in fitted:
            mixed = shifted(fitted, mixed[:, :, None])[:, :, 0]
        return mixed[0], each[0]


class Served(nn.Module):
    """A site's model: a row in, probabilities of its classes and the experts' opinions out.

    Attributes:
        names: Of the experts whose opinions are told, in order.
        serves: What the guard lets serve.
        temperature: By which logarithms are divided.
    """

    temperature: Tensor

    def __init__(
        self,
        site: SiteId,
        scaling: nn.Module,
        alone: nn.Module,
        *,
        mixing: Mixing | None = None,
        taught: nn.Module | None = None,
        serves: Serves = "own",
        temperature: float = 1.0,
    ) -> None:
        """Join what a site has alone and its mixture.

        Args:
            site: Whose model it is.
            scaling: From rows as they are read to rows as they are learnt from.
            alone: The best model that the site has without any peer.
            mixing: Own and borrowed heads; none before anything was borrowed.
            taught: The own network as peers taught it, if they did.
            serves: What the guard lets serve.
            temperature: By which logarithms are divided, fitted out of fold.
        """
        super().__init__()
        self.scaling, self.alone, self.mixing, self.taught = scaling, alone, mixing, taught
        self.site, self.serves = site, serves
        self.register_buffer("temperature", torch.tensor(temperature))

    @property
    def names(self) -> list[str]:
        """The experts in the order of their opinions."""
        if self.mixing is None:
            return [self.site]
        home = {OWN: self.site, ALONE: f"{self.site} (alone)", TAUGHT: f"{self.site} (taught)"}
        return [*(home[name] for name in self.mixing.home), *self.mixing.peers]

    def forward(
        self, x: Float[Tensor, "row ..."]
    ) -> tuple[Float[Tensor, "row class"], Float[Tensor, "row expert class"]]:
        """Return calibrated probabilities, and what each expert says by itself."""
        x = self.scaling(x)
        alone = F.log_softmax(self.alone(x), dim=1)
        said, opinions = alone, alone[:, None]
        if self.mixing is not None:
            of = {ALONE: alone}
            if self.taught is not None:
                of[TAUGHT] = F.log_softmax(self.taught(x), dim=1)
            mixed, opinions = self.mixing(x, [of[name] for name in self.mixing.home[1:]])
            if self.serves == "mixture":
                said = mixed
            if self.serves == "hedge":
                said = hedged(alone[None], mixed[None], LABELS, self.mixing.pool)[0]
        return F.softmax(said / self.temperature, dim=1), opinions.exp()

    def predict(
        self, x: Float[Tensor, "row ..."]
    ) -> tuple[Float[Tensor, "row class"], Float[Tensor, "row expert class"]]:
        """Return the same of any number of rows, some at a time; nothing is learnt."""
        with torch.no_grad():
            parts = [self(rows) for rows in x.split(ROWS)]
        return torch.cat([p for p, _ in parts]), torch.cat([o for _, o in parts])


def mixing_of(network: Network, dials: Dials, outcome: Outcome, split: int = 0) -> Mixing | None:
    """Return the mixture that a round came to; none if it borrowed nothing.

    Args:
        network: Whose heads are lent.
        dials: The method's.
        outcome: Of a method that keeps what it fitted (``DFLMoE.keeps``).
        split: Which split.
    """
    if not outcome.fitted:
        return None
    parts = {
        part: {name: p[split].detach().clone() for name, p in params.items()}
        for part, params in outcome.fitted.items()
    }
    gate = dict(parts["mixture"])
    common = gate.pop("common", None)
    borrowed: dict[SiteId, nn.Module] = {}
    for part in sorted(parts):
        kind, _, peer = part.partition("/")
        if kind != "head":
            continue
        to: nn.Module = nn.Identity()
        if f"to/{peer}" in gate and common is not None:
            to = AffineMap(gate.pop(f"to/{peer}") @ common)
        if f"map/{peer}" in parts:
            to = AffineMap(parts[f"map/{peer}"]["weight"], parts[f"map/{peer}"]["bias"])
        borrowed[peer] = Borrowed(to, with_params(network.head, parts[part]))
    home = [OWN]
    home += [ALONE] if dials.with_alone else []
    home += [TAUGHT] if "taught/head" in parts else []
    return Mixing(
        with_params(network.body, parts["body"]),
        with_params(network.head, parts["own"]),
        borrowed,
        home=home,
        pool=dials.pool,
        cap=dials.cap,
        fitted={**gate, **parts["weighing"]},
    )


def taught_by(network: Network, outcome: Outcome, split: int = 0) -> Whole | None:
    """Return the own network as peers taught it; none if they did not."""
    if "taught/head" not in outcome.fitted:
        return None
    parts = {
        part: {name: p[split] for name, p in outcome.fitted[f"taught/{part}"].items()}
        for part in ("body", "head")
    }
    return whole_of(network, parts)


def whole_of(network: Network, params: Mapping[str, Params]) -> Whole:
    """Return a network with its parameters, without leading axes."""
    return Whole(
        with_params(network.body, params["body"]), with_params(network.head, params["head"])
    )


def with_params(module: nn.Module, params: Params) -> nn.Module:
    """Return a plain copy of a module with these parameters, whatever stands around it at home.

    A body that reads its rows is given them instead; one that moves from public weights has moved.
    """
    if isinstance(module, Streaming):
        return with_params(module.body, {n.removeprefix("body."): p for n, p in params.items()})
    made = copy.deepcopy(module).cpu()
    names = dict(made.named_parameters())
    with torch.no_grad():
        for name, p in params.items():
            names[name].copy_(p)
    for part in list(made.modules()):
        for name in list(getattr(part, "parametrizations", {})):
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    if isinstance(made, Given):
        made = made.plain()
    return made.requires_grad_(False).eval()


def served_by(outcome: Outcome, split: int = 0) -> Serves:
    """Return what the guard lets serve."""
    if not bool(outcome.used[split]):
        return "own"
    return "mixture" if outcome.whole is not None and bool(outcome.whole[split]) else "hedge"


def heat(
    log_probs: Float[Tensor, "row class"],
    y: Tensor,
    weight: Float[Tensor, " row"] | Bool[Tensor, " row"],
    *,
    sd: float = 0.5,
) -> float:
    """Return the temperature at which predictions are best believed; 1 where rows say nothing.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017; here with a normal prior on its
    logarithm, so that few rows move it little. Which class is the likeliest never changes.

    Args:
        log_probs: Out of fold.
        y: Classes.
        weight: How often a row counts.
        sd: Of the prior.
    """
    grid = torch.linspace(-math.log(8), math.log(8), 241, dtype=torch.float64)
    scaled = F.log_softmax(log_probs.double()[None] / grid.exp()[:, None, None], dim=2)
    losses = -scaled[:, torch.arange(len(y)), y] * weight.double()
    cost = losses.sum(1) + grid.square() / (2 * sd**2)
    return float(grid[int(cost.argmin())].exp())
