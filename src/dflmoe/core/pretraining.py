"""A body that learns without labels: two views of a row are to be alike, those of two rows not.

References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations (SimCLR),
    ICML 2020: equation 1, and section 4.2 on the projection that is thrown away.
    Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021, section 4.1: the
    spread of normalised features tells whether a body has collapsed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dflmoe.core.stacking import features_of, initial, stacked_call
from dflmoe.core.training import Adam, leaves
from dflmoe.core.views import view
from dflmoe.types import Params

Read = Callable[[Int[Tensor, " row"]], Float[Tensor, "row ..."]]
"""Rows by their numbers, which are on the CPU."""

PROJECTION = 64
"""Numbers that views are compared by."""

COLLAPSED = 0.01
"""Spread below which a body says the same of every row."""

LOOKED_AT = 128
"""Rows that a body is looked at with, at most."""


@dataclass(frozen=True)
class Pretraining:
    """How a body learns without labels.

    Attributes:
        steps: Of the optimiser.
        batch: Rows of a step; each is compared with all others.
        learning_rate: Of Adam.
        temperature: By which likeness is divided.
    """

    steps: int = 2000
    batch: int = 64
    learning_rate: float = 0.003
    temperature: float = 0.2


@dataclass(frozen=True)
class Pretrained:
    """A body that has learnt.

    Attributes:
        weights: Its parameters.
        spread: Of its normalised features over rows: 1 where they are as different as can be, 0
            where it says the same of every row.
        spread_before: The same before it learnt.
        told: How often a view of a row is liker to the other than to that of another row: one half
            by chance.
    """

    weights: Params
    spread: float
    spread_before: float
    told: float

    @property
    def collapsed(self) -> bool:
        """Whether it says the same of every row."""
        return not self.spread > COLLAPSED


def pretrained(
    body: nn.Module,
    read: Read,
    rows: int,
    plan: Pretraining,
    rng: torch.Generator,
    *,
    step: Callable[[int, int], None] = lambda *_: None,
) -> Pretrained:
    """Let a body learn what views of a row have in common, and other rows have not.

    Args:
        body: The architecture, ``[row, channel, ...] -> [row, feature, ...]``.
        read: The rows.
        rows: How many there are: two or more.
        plan: How it learns.
        rng: All chance.
        step: Told how many steps of how many are done.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    some = torch.linspace(0, rows - 1, min(rows, LOOKED_AT), device="cpu").round().long()
    shown = read(some).to(torch.get_default_device())
    pair = _Pair(body, shown, rng)
    with torch.no_grad():
        spread_before = spread_of(pair.features(shown))
    optimiser = Adam(pair.learnt, plan.learning_rate)
    batches: list[Tensor] = []
    for done in range(1, plan.steps + 1):
        if not batches:
            batches = _batches(rows, plan.batch, rng)
        x = read(batches.pop()).to(torch.get_default_device())
        optimiser.step(nt_xent(*pair(x), plan.temperature))
        step(done, plan.steps)
    with torch.no_grad():
        return Pretrained(
            weights={name: p.detach()[0].cpu() for name, p in pair.body_params.items()},
            spread=spread_of(pair.features(shown)),
            spread_before=spread_before,
            told=told_apart(*pair(shown)),
        )


class _Pair:
    """Two views of rows, as a body and a projection see them."""

    def __init__(self, body: nn.Module, shown: Tensor, rng: torch.Generator) -> None:
        self._body, self._rng = body, rng
        self.body_params = leaves(initial(body, 1, rng))
        width = self.features(shown[:1]).shape[1]
        self._projector = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION)
        )
        self._projection = leaves(initial(self._projector, 1, rng))
        self.learnt = self.body_params | {f"/{n}": p for n, p in self._projection.items()}

    def features(self, x: Float[Tensor, "row channel *place"]) -> Float[Tensor, "row feature"]:
        """Return the mean of each feature over all places."""
        features = features_of(self._body, self.body_params, x[None])[0]
        return features if features.dim() == 2 else features.flatten(2).mean(-1)  # noqa: PLR2004

    def __call__(
        self, x: Float[Tensor, "row channel *place"]
    ) -> tuple[Float[Tensor, "row feature"], Float[Tensor, "row feature"]]:
        views = torch.cat([view(x, self._rng), view(x, self._rng)])
        projected = stacked_call(self._projector, self._projection, self.features(views)[None])[0]
        return projected[: len(x)], projected[len(x) :]


def _batches(rows: int, batch: int, rng: torch.Generator) -> list[Tensor]:
    """Return one pass over rows by chance; what fills no batch waits for the next pass."""
    order = torch.randperm(rows, generator=rng, device="cpu")
    batch = min(batch, rows)
    return [order[k : k + batch] for k in range(0, rows - batch + 1, batch)]


def cosines(
    one: Float[Tensor, "row feature"], other: Float[Tensor, "another feature"]
) -> Float[Tensor, "row another"]:
    """Return how alike the directions are: 1 for the same, -1 for opposite ones."""
    return F.normalize(one, dim=1) @ F.normalize(other, dim=1).mT


def nt_xent(
    one: Float[Tensor, "row feature"], other: Float[Tensor, "row feature"], temperature: float
) -> Float[Tensor, ""]:
    """Return how badly each view is told from those of other rows, given the other of its own.

    Args:
        one: A view of each row.
        other: Another view of each row.
        temperature: By which the cosine is divided.

    References:
        Chen et al., ICML 2020, equation 1 (NT-Xent).
    """
    views = torch.cat([one, other])
    like = (cosines(views, views) / temperature).fill_diagonal_(-torch.inf)
    own = torch.arange(len(views), device=views.device).roll(len(one))
    return F.cross_entropy(like, own)


def told_apart(one: Float[Tensor, "row feature"], other: Float[Tensor, "row feature"]) -> float:
    """Return how often a view of a row is liker to its own other than to that of another row.

    Args:
        one: A view of each row.
        other: Another view of each row.
    """
    like = cosines(one, other)
    return float((like < like.diagonal()[:, None]).sum() / (len(one) * (len(one) - 1)))


def spread_of(features: Float[Tensor, "row feature"]) -> float:
    """Return how different rows are: 0 if all are alike, 1 if they lie in all directions.

    It is the distance of features of length 1 from their mean (its root mean square).
    """
    directions = F.normalize(features.detach().float(), dim=1)
    return float(directions.std(0, correction=0).square().sum().sqrt())
