"""Logistic regression, tuned over a grid: the baseline that small tables ask for.

On a few hundred rows of a table it beats most networks, so a site that has not tried it does not
know what it has alone.
"""

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
from torch import Tensor

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
    inputs = data.seen
    if inputs.dim() > 3:  # noqa: PLR2004 - images
        side = min(MAX_SIDE, inputs.shape[-1])
        inputs = F.adaptive_avg_pool2d(inputs.flatten(0, 1), side).view(*inputs.shape[:2], -1)
    said = np.empty((*inputs.shape[:2], classes))
    y = data.y.numpy()
    for split, fold in enumerate(data.crossfit.fold.numpy()):
        said[split] = _one_split(inputs[split].numpy(), y, fold, classes)
    return torch.from_numpy(np.log(said)).float()


def _one_split(
    x: NDArray[np.float32], y: NDArray[np.int64], fold: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
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
    return chosen


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
