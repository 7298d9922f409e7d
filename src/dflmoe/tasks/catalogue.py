"""The kinds of task by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.task import LABELS, Labels, Task
from dflmoe.tasks import classification, segmentation, super_resolution

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Kind:
    """A kind of task as the bench sees it.

    Attributes:
        task: What ``core`` needs to know.
        metric: Name of the score that methods are compared by; higher is better.
        unit: What one step of the last printed digit means: scores are printed times this.
        row_scores: That score of each row.
        scores: Further scores of all rows together.
    """

    task: Task
    metric: str
    unit: float
    row_scores: Callable[[Tensor, Tensor], NDArray[np.float64]]
    scores: Callable[[Tensor, Tensor], Scores]


_CLASSES = Kind(LABELS, "accuracy", 100, classification.right, classification.scores)

TASKS: Mapping[str, Kind] = {
    "table": _CLASSES,
    "image": _CLASSES,
    "series": _CLASSES,
    "segmentation": Kind(
        segmentation.Pixels(), "Dice", 100, segmentation.dice, segmentation.scores
    ),
    "super_resolution": Kind(
        super_resolution.Images(), "PSNR", 1, super_resolution.psnr, super_resolution.scores
    ),
}

UNITS: Mapping[str, float] = {kind.metric: kind.unit for kind in TASKS.values()} | {"AUROC": 100}
"""What one step of the last printed digit means, by metric."""


def scored_by(kind: Kind, metric: str | None) -> Kind:
    """Return a kind whose methods are compared by another metric.

    Args:
        kind: Of the task.
        metric: ``auroc`` for two classes, where one is so rare that accuracy sees little; ``None``
            for the kind's own.
    """
    if metric is None:
        return kind
    return replace(kind, task=Labels(ranks=True), metric="AUROC", row_scores=classification.auroc)
