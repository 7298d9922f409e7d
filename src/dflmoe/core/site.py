"""What a site is made of: its network, its rows, and the state it carries between rounds.

Two leading axes run through the whole method and keep it honest and fast:

``split``
    Test splits played side by side. A hospital's node has one; the simulator stacks the folds of
    one repeat, so that a round of all of them is one batched call.
``fit``
    The cross-fitting axis. Fits ``0 .. K-1`` each leave one fold of the training rows out; the
    last fit learns from all of them and is the one that is lent and served. Whatever is decided
    about the site's own head or its mixture is decided on the rows that a fit did not see.

Where both are flattened into one axis it is called ``model`` (``split * fit``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from dflmoe.core.task import LABELS, Task
from dflmoe.types import Params, SiteId

LentKind = Literal["head", "fits", "model", "predictions"]

LEADING: Mapping[LentKind, int] = {"head": 1, "fits": 2, "model": 1, "predictions": 1}
"""Axes before those of a parameter: the split, and the fit where every fit is lent."""


@dataclass(frozen=True)
class Network:
    """A body that stays at home and a head that travels.

    Attributes:
        body: Rows to features, ``[row, ...] -> [row, feature, ...]``.
        head: Features to outputs, ``[row, feature, ...] -> [row, class, ...]``: logits of a class,
            of the class of every pixel, or the channels of an image.
        width: Number of features, the size of the head's input (its channel axis).
        classes: Number of classes, or channels of an image.
        common: Whether every site computes the very same features from the same row: the body has
            no weights that learn, and nothing in it was fitted to a site's rows.
        recipe: How to make its modules anew (``networks.from_recipe``); empty for the user's own.
    """

    body: nn.Module
    head: nn.Module
    width: int
    classes: int
    common: bool = False
    recipe: str = ""


EVERY = -2
"""The fold of rows that are not the site's own: public ones, with the peers' opinion of them."""


def packed(
    times: Float[Tensor, "model row"],
) -> tuple[Int[Tensor, "model pick"], Float[Tensor, "model pick"]]:
    """Return the rows that each model uses and weights that sum to one.

    Models with fewer rows are padded with weight zero.

    Args:
        times: How often a model uses a row.
    """
    used = times > 0
    order = torch.argsort(used.to(torch.int8), dim=1, descending=True, stable=True)
    order = order[:, : int(used.sum(1).max())]
    weight = times.gather(1, order)
    return order, weight / weight.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class CrossFit:
    """Which rows each fit learns from, for every split.

    Attributes:
        fold: The fold of a training row, 0 to K-1; -1 for a test row of the split; ``EVERY`` for a
            row that every fit learns from and none is judged by.
    """

    fold: Int[Tensor, "split row"]

    @cached_property
    def folds(self) -> int:
        """K, the number of folds."""
        return int(self.fold.max()) + 1

    @property
    def splits(self) -> int:
        """The number of test splits."""
        return len(self.fold)

    @cached_property
    def fits(self) -> int:
        """Fits of each split: one for each fold, and the last on all training rows."""
        return self.folds + 1

    @cached_property
    def learns(self) -> Bool[Tensor, "split fit row"]:
        """Whether a fit learns from a row."""
        left_out = torch.arange(self.fits)[None, :, None]
        fold = self.fold[:, None, :]
        return (fold >= 0) & (fold != left_out) | (fold == EVERY)

    @cached_property
    def judges(self) -> Bool[Tensor, "split fit row"]:
        """Whether a fit predicts a training row that it did not see."""
        return self.fold[:, None, :] == torch.arange(self.fits)[None, :, None]

    def out_of_fold(self, values: Shaped[Tensor, "model row *rest"]) -> Shaped[Tensor, "..."]:
        """Return for each row the value of the fit that did not see it.

        That is the fit which left the row out for a training row, and the last fit for a test row.

        Returns:
            Values of shape ``[split, row, *rest]``.
        """
        stacked: Tensor = values.unflatten(0, (self.splits, self.fits))
        fit = torch.where(self.fold >= 0, self.fold, self.fits - 1)
        split = torch.arange(self.splits)[:, None]
        row = torch.arange(self.fold.shape[1])[None, :]
        return stacked[split, fit, row]

    @cached_property
    def asked(self) -> tuple[Int[Tensor, "model pick"], Bool[Tensor, "model pick"]]:
        """The rows that each fit is asked about, and which of them are: ``out_of_fold`` in short.

        A fit of a fold is asked about the rows that it left out, the last fit about all others.
        """
        asks = self.judges.clone()
        asks[:, -1] = self.fold < 0
        row, weight = packed(asks.flatten(0, 1).float())
        return row, weight > 0

    def gathered(
        self, values: Shaped[Tensor, "model pick *rest"]
    ) -> Shaped[Tensor, "split row *rest"]:
        """Return for each row what the fit says that is asked about it.

        Args:
            values: Of the rows that each fit is asked about.
        """
        row, there = self.asked
        split = torch.arange(self.splits).repeat_interleave(self.fits)[:, None].expand_as(row)
        whole = values.new_zeros(*self.fold.shape, *values.shape[2:])
        whole[split[there], row[there]] = values[there]
        return whole

    def by_fit(self, params: Params) -> Params:
        """Return the parameters of every fit of each split: ``[split, fit, ...]``."""
        return {name: p.unflatten(0, (self.splits, self.fits)) for name, p in params.items()}

    def final(self, params: Params) -> Params:
        """Return the parameters of the last fit of each split."""
        return {name: p[:, -1] for name, p in self.by_fit(params).items()}

    def spread(self, params: Params) -> Params:
        """Repeat parameters of each split for all of its fits: ``[split, ...] -> [model, ...]``."""
        return {name: p.repeat_interleave(self.fits, dim=0) for name, p in params.items()}


@dataclass(frozen=True)
class SiteData:
    """The rows of one site and what may be learnt from which.

    Attributes:
        x: Inputs of all rows, training and test, as each split standardises them.
        y: What is to be predicted: a class from 0 to C-1, one of every pixel, or an image. Only
            that of training rows is ever looked at.
        crossfit: Training rows and folds of each split.
        group: Patient of each row; rows of one patient are never judged as if independent.
        alone: Log probabilities of the best model that the site has without any peer: out of fold
            on training rows, plain elsewhere. The guard falls back to it; without it, to the own
            head.
        times: How often a row counts (a bootstrap sample, or a weight); ``None`` for once.
        task: What is predicted.
        anchors: Inputs without labels that all sites hold; ``None`` where there are none.
        small: The inputs at a few places a side, for what must see all rows at once, where ``x``
            has no more than their numbers (``core.streaming``); ``None`` where ``x`` does.
    """

    x: Float[Tensor, "split row ..."]
    y: Shaped[Tensor, "row ..."]
    crossfit: CrossFit
    group: Int[Tensor, " row"]
    alone: Float[Tensor, "split row class ..."] | None = None
    times: Shaped[Tensor, "split row"] | None = None
    task: Task = LABELS
    anchors: Float[Tensor, "anchor ..."] | None = None
    small: Float[Tensor, "row ..."] | None = None

    @property
    def seen(self) -> Float[Tensor, "split row ..."]:
        """The inputs, in small where they are read as needed."""
        return self.x if self.small is None else self.small.expand(len(self.x), *self.small.shape)

    def only(self, split: int) -> "SiteData":
        """Return the same rows in one of the splits."""
        one = slice(split, split + 1)
        return replace(
            self,
            x=self.x[one],
            crossfit=CrossFit(self.crossfit.fold[one]),
            alone=None if self.alone is None else self.alone[one],
            times=None if self.times is None else self.times[one],
        )

    @property
    def learnt(self) -> Float[Tensor, "split fit row"]:
        """How often each fit learns from each row."""
        return self._counted(self.crossfit.learns)

    @property
    def judged(self) -> Float[Tensor, "split fit row"]:
        """How often each fit is judged on each row."""
        return self._counted(self.crossfit.judges)

    def without_rare(self, fewest: int) -> "SiteData":
        """Return the same rows, of which those of a rare class count for nothing.

        Args:
            fewest: Patients whom a class must have among the training rows of every split.
        """
        if self.y.dim() != 1 or self.y.is_floating_point():
            return self
        times = torch.ones(self.crossfit.fold.shape) if self.times is None else self.times.float()
        for split, fold in enumerate(self.crossfit.fold):
            for label in self.y[fold >= 0].unique():
                rows = (fold >= 0) & (self.y == label)
                if len(self.group[rows].unique()) < fewest:
                    times[split, rows] = 0
        return self if bool((times == 1).all()) else replace(self, times=times)

    @property
    def of_two_classes(self) -> bool:
        """Whether the last fit of every split learns from two classes, where there are classes."""
        if self.y.dim() != 1 or self.y.is_floating_point():
            return True
        return all(len(self.y[last > 0].unique()) > 1 for last in self.learnt[:, -1])

    def _counted(self, mask: Bool[Tensor, "split fit row"]) -> Float[Tensor, "split fit row"]:
        counts = mask.float()
        return counts if self.times is None else counts * self.times[:, None, :]


@dataclass(frozen=True)
class Lent:
    """What one site lends in one round: named tensors with a kind.

    Attributes:
        site: Who lends.
        round: The lender's round; it informs, it does not order other sites' heads.
        kind: ``head``; ``fits`` of a head that is averaged; ``model`` or ``predictions`` (on the
            anchors) for rivals that send those.
        width: Input width of the head, so that the receiver can size its transform.
        tensors: ``[split, ...]`` each, or ``[split, fit, ...]`` where every fit is lent; on a node
            the split axis has length one. None at all if the site lends nothing in this round.
        withheld: Why nothing is lent, in a sentence; none where something is.
    """

    site: SiteId
    round: int
    kind: LentKind
    width: int
    tensors: Params
    withheld: str | None = None


@dataclass(frozen=True)
class Expert:
    """A head in use in somebody's mixture.

    Attributes:
        head: Its parameters.
        width: Its input width.
        heard: The own round in which it was last heard.
        anchors: The lender's features of the anchors, if it lent them.
        opinion: What it says of the anchors: probabilities, or images.
    """

    head: Params
    width: int
    heard: int
    anchors: Float[Tensor, "split place feature"] | None = None
    opinion: Float[Tensor, "split anchor class ..."] | None = None


@dataclass(frozen=True)
class SiteState:
    """Everything a site carries from one round to the next.

    All of it is named tensors and small numbers, so that it can be stored and resumed byte for
    byte.

    Attributes:
        site: The site.
        round: Own rounds played.
        params: The algorithm's own stacked parameters by part (``body``, ``head``, ...).
        experts: The newest head of each peer.
    """

    site: SiteId
    round: int
    params: Mapping[str, Params]
    experts: Mapping[SiteId, Expert] = field(default_factory=dict)
