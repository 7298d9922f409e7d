"""What a federation predicts: what a head puts out, how wrong that is, where the gate looks.

``core`` learns any task that says these few things about itself; ``dflmoe.tasks`` has them. Tensors
carry the axes ``model row class`` (or ``model row expert class``), and behind them the places of a
row: none for a class, ``height width`` for a mask or an image.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dflmoe.core.mixture import Pool, mix
from dflmoe.metrics.resampling import auc_within


@runtime_checkable
class Task(Protocol):
    """A kind of prediction; no state, no chance."""

    @property
    def calibrates(self) -> bool:
        """Whether a mixture is shifted to the own prevalence (``core.calibration``)."""
        ...

    def said(self, raw: Tensor, dim: int) -> Tensor:
        """Return predictions from what a head puts out; saying them again changes nothing.

        Args:
            raw: Outputs of a head, ``[model, row, ..., class, *place]``.
            dim: The class axis.
        """
        ...

    def losses(
        self, said: Float[Tensor, "model row class ..."], y: Tensor
    ) -> Float[Tensor, "model row"]:
        """Return the loss of each row, averaged over its places.

        Args:
            said: Predictions, or what a head puts out.
            y: What came true, ``[model, row, ...]``, or probabilities of it.
        """
        ...

    def score(
        self,
        said: Float[Tensor, "split row class ..."],
        y: Tensor,
        fold: Int[Tensor, "split row"],
    ) -> Float[Tensor, " split"]:
        """Return what people judge predictions of training rows by; higher is better.

        Args:
            said: Predictions, out of fold.
            y: What came true, ``[split, row, ...]``.
            fold: Of each row; below zero for rows that do not count.
        """
        ...

    def pooled(
        self,
        tokens: Float[Tensor, "model row expert class ..."],
        log_weights: Float[Tensor, "model _ expert ..."],
        pool: Pool,
    ) -> Float[Tensor, "model row class ..."]:
        """Return the mixture of what the experts say."""
        ...

    def query(self, features: Float[Tensor, "model row feature ..."]) -> Tensor:
        """Return what the gate sees: one vector a row, or one a place."""
        ...


@dataclass(frozen=True)
class Labels:
    """One class a row: cross-entropy, and one decision of the gate a row.

    Attributes:
        calibrates: See ``Task.calibrates``.
        ranks: Whether people judge by AUROC (one class against the rest) instead of accuracy.
    """

    calibrates: bool = True
    ranks: bool = False

    def said(self, raw: Tensor, dim: int) -> Tensor:
        """See ``Task.said``: log probabilities."""
        return F.log_softmax(raw, dim=dim)

    def losses(
        self, said: Float[Tensor, "model row class ..."], y: Tensor
    ) -> Float[Tensor, "model row"]:
        """See ``Task.losses``: cross-entropy."""
        loss = F.cross_entropy(said.flatten(0, 1), y.flatten(0, 1), reduction="none")
        return loss.view(*y.shape[:2], -1).mean(2)

    def score(
        self,
        said: Float[Tensor, "split row class ..."],
        y: Tensor,
        fold: Int[Tensor, "split row"],
    ) -> Float[Tensor, " split"]:
        """See ``Task.score``: accuracy, or AUROC within folds."""
        if self.ranks:
            splits = zip(said.double(), y, fold, strict=True)
            return torch.tensor(
                [_auroc(*(v[f >= 0].cpu() for v in (p, t, f))) for p, t, f in splits]
            )
        right = (said.argmax(2) == y).double().view(*y.shape[:2], -1).mean(2)
        return training_mean(right, fold)

    def pooled(
        self,
        tokens: Float[Tensor, "model row expert class ..."],
        log_weights: Float[Tensor, "model _ expert ..."],
        pool: Pool,
    ) -> Float[Tensor, "model row class ..."]:
        """See ``Task.pooled``: a mixture of distributions."""
        return mix(tokens, log_weights, pool)

    def query(self, features: Float[Tensor, "model row feature ..."]) -> Tensor:
        """See ``Task.query``: feature maps are averaged over the image."""
        return over_places(features)


LABELS = Labels()


def _auroc(
    said: Float[Tensor, "row class"], y: Int[Tensor, " row"], fold: Int[Tensor, " row"]
) -> float:
    """Return the AUROC of each class against the rest, within folds, averaged over classes.

    Of a class that no fold can tell from another it is 0.5.
    """
    classes = [1] if said.shape[1] == 2 else y.unique().tolist()  # noqa: PLR2004 - one mirrors the other
    once = np.ones((1, len(y)))
    areas = [auc_within(said[:, k].numpy(), (y == k).numpy(), once, fold.numpy()) for k in classes]
    return float(np.nan_to_num(areas, nan=0.5).mean())


def training_mean(
    values: Float[Tensor, "split row"], fold: Int[Tensor, "split row"]
) -> Float[Tensor, " split"]:
    """Return the mean over each split's training rows."""
    trains = fold >= 0
    return (values * trains).sum(1) / trains.sum(1)


def over_places(values: Float[Tensor, "model row value ..."]) -> Float[Tensor, "model row value"]:
    """Return the mean over the places of a row; what has none stays as it is."""
    return values if values.dim() <= 3 else values.flatten(3).mean(-1)  # noqa: PLR2004


def log_halves(tokens: Float[Tensor, "model row expert class ..."]) -> Float[Tensor, "model 1 2"]:
    """Return log weights that mix two experts in halves."""
    return torch.full((len(tokens), 1, 2), 0.5).log()
