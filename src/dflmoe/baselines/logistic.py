"""Logistic regression, tuned over a grid: the baseline that small tables ask for.

On a few hundred rows of a table it beats most networks, so a site that has not tried it does not
know what it has alone.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dflmoe.core.algorithm import Outcome, alone_outcome
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.types import SiteId

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates of the inverse penalty C, chosen by out-of-fold log-loss."""

MAX_SIDE = 16
"""Images are averaged down to this many pixels a side."""

NARROW = 100
"""Up to this many features the exact second-order solver is the fastest."""

FLOOR = 1e-6
"""The least probability: what a class gets that a fit never saw."""


def tuned_logistic(data: SiteData, classes: int) -> Float[Tensor, "split row class"]:
    """Return log probabilities: out of fold on training rows, of the final fit elsewhere.

    The penalty of the final fit is the best over all folds; for the rows of a fold, the best over
    the other folds, so that no row is predicted with a penalty that it helped to choose.
    """
    return fitted_logistic(data, classes)[0]


def fitted_logistic(
    data: SiteData, classes: int
) -> tuple[Float[Tensor, "split row class"], list["Logistic"]]:
    """Return the same, and the final fit of each split."""
    inputs = data.seen
    shape = tuple(inputs.shape[2:])
    if inputs.dim() > 3:  # noqa: PLR2004 - images
        side = min(MAX_SIDE, inputs.shape[-1])
        inputs = F.adaptive_avg_pool2d(inputs.flatten(0, 1), side).view(*inputs.shape[:2], -1)
    said = np.empty((*inputs.shape[:2], classes))
    y = data.y.numpy()
    finals = []
    for split, fold in enumerate(data.crossfit.fold.numpy()):
        said[split], final = _one_split(inputs[split].numpy(), y, fold, classes)
        finals.append(Logistic.fitted(final, shape, classes))
    return torch.from_numpy(np.log(said)).float(), finals


class Logistic(nn.Module):
    """A fitted logistic regression as a module: rows in, log probabilities of all classes out."""

    seen: Tensor
    down: Tensor
    along: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """Make one that says the same of all classes.

        Args:
            shape: Of a row; images are averaged down to ``MAX_SIDE`` pixels a side.
            classes: Number of classes.
        """
        super().__init__()
        self.register_buffer("seen", torch.ones(classes, dtype=torch.bool))
        self.pools = len(shape) > 1
        features = math.prod(shape)
        if self.pools:
            side = min(MAX_SIDE, shape[-1])
            self.register_buffer("down", pooling(shape[-2], side))
            self.register_buffer("along", pooling(shape[-1], side))
            features = math.prod(shape[:-2]) * side**2
        self.linear = nn.Linear(features, classes)

    @classmethod
    def fitted(
        cls, model: LogisticRegression | int, shape: tuple[int, ...], classes: int
    ) -> "Logistic":
        """Return a model of scikit-learn, or the one class that was there."""
        made = cls(shape, classes)
        weight, bias = torch.zeros_like(made.linear.weight), torch.zeros(classes)
        known = [model] if isinstance(model, int) else model.classes_.tolist()
        if not isinstance(model, int):
            told = known[-1:] if len(model.coef_) == 1 else known  # of two, one is enough
            weight[told] = torch.from_numpy(model.coef_).float()
            bias[told] = torch.from_numpy(model.intercept_).float()
        made.linear.weight, made.linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        made.seen = torch.zeros(classes, dtype=torch.bool)
        made.seen[known] = True
        return made.requires_grad_(False)

    def forward(self, x: Float[Tensor, "row ..."]) -> Float[Tensor, "row class"]:
        """Return log probabilities; a class that the fit never saw has the least."""
        if self.pools:
            x = (self.down @ x @ self.along.mT).flatten(1)
        logits = self.linear(x).masked_fill(~self.seen, -torch.inf)
        probs = logits.softmax(1).clamp(min=FLOOR)
        said: Tensor = (probs / probs.sum(1, keepdim=True)).log()
        return said


def pooling(size: int, side: int) -> Float[Tensor, "side size"]:
    """Return the matrix that averages ``size`` places down to ``side``."""
    return F.adaptive_avg_pool1d(torch.eye(size)[None], side)[0].mT.contiguous()


def _one_split(
    x: NDArray[np.float32], y: NDArray[np.int64], fold: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], LogisticRegression | int]:
    trains = fold >= 0
    folds = int(fold.max()) + 1
    said = np.empty((len(GRID), len(y), classes))
    for k in range(folds):
        for g, model in enumerate(_path(x[trains & (fold != k)], y[trains & (fold != k)])):
            said[g, fold == k] = _probabilities(model, x[fold == k], classes)
    right = np.take_along_axis(said, y[None, :, None], axis=2)[..., 0]
    loss = np.stack([-np.log(right[:, fold == k]).sum(1) for k in range(folds)], axis=1)
    best = int(loss.sum(1).argmin())
    chosen = np.empty((len(y), classes))
    for k in range(folds):
        others = int((loss.sum(1) - loss[:, k]).argmin())
        chosen[fold == k] = said[others, fold == k]
    final = _path(x[trains], y[trains], (GRID[best],))[0]
    chosen[~trains] = _probabilities(final, x[~trains], classes)
    return chosen, final


def _path(
    x: NDArray[np.float32], y: NDArray[np.int64], grid: tuple[float, ...] = GRID
) -> list[LogisticRegression | int]:
    """Return one model for each penalty; a class number where there is nothing to tell apart."""
    if len(np.unique(y)) < 2:  # noqa: PLR2004
        return [int(y[0])] * len(grid)
    models: list[LogisticRegression | int] = []
    solver = "newton-cholesky" if x.shape[1] <= NARROW else "lbfgs"
    with (
        warnings.catch_warnings(),
        config_context(assume_finite=True, skip_parameter_validation=True),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties, never chosen
        models.extend(LogisticRegression(C=c, solver=solver, max_iter=200).fit(x, y) for c in grid)
    return models


def _probabilities(
    model: LogisticRegression | int, x: NDArray[np.float32], classes: int
) -> NDArray[np.float64]:
    """Return probabilities of all classes, also of those that the fit never saw."""
    said = np.full((len(x), classes), FLOOR)
    if isinstance(model, int):
        said[:, model] = 1
    elif len(x):
        said[:, model.classes_] = np.maximum(model.predict_proba(x), FLOOR)
    normalised: NDArray[np.float64] = said / said.sum(1, keepdims=True)
    return normalised


@dataclass(frozen=True)
class LogisticOnly:
    """Tuned logistic regression of one site; it lends nothing."""

    classes: int

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:  # noqa: ARG002
        """See ``Algorithm.init``."""
        return SiteState(site, 0, {})

    def prepare(
        self,
        state: SiteState,
        data: SiteData,  # noqa: ARG002 - fitted where it is asked for
        rng: torch.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> tuple[SiteState, Lent]:
        """See ``Algorithm.prepare``."""
        return state, Lent(state.site, state.round, "head", 0, {})

    def absorb(
        self,
        state: SiteState,
        inbox: Sequence[Lent],  # noqa: ARG002 - nobody lends
        data: SiteData,
        rng: torch.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> tuple[SiteState, Outcome]:
        """See ``Algorithm.absorb``."""
        return state, alone_outcome(tuned_logistic(data, self.classes), state, data)
