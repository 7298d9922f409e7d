"""One class a row: of a table, an image, a stretch of a signal."""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from torch import Tensor

from dflmoe.errors import MissingExtraError
from dflmoe.metrics.area import auroc_parts


def right(said: Float[Tensor, "row class"], y: Int[Tensor, " row"]) -> NDArray[np.float64]:
    """Return 1 for each row whose most likely class is true, else 0; its mean is the accuracy."""
    right_: NDArray[np.float64] = (said.argmax(1) == y).double().numpy()
    return right_


def auroc(said: Float[Tensor, "row class"], y: Int[Tensor, " row"]) -> NDArray[np.float64]:
    """Return each row's part of the AUROC of the second of two classes (``metrics.area``)."""
    return auroc_parts(said[:, 1].double().numpy(), (y == 1).numpy())


def scores(said: Float[Tensor, "row class"], y: Int[Tensor, " row"]) -> dict[str, float | None]:
    """Return macro-F1, AUROC (one against the rest), log-loss and calibration error.

    Classes that no row has are left out of the averages; an AUROC of one class is ``None``.

    Args:
        said: Log probabilities.
        y: Classes.

    Raises:
        MissingExtraError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.classification import (  # noqa: PLC0415 - an extra
            multiclass_calibration_error,
        )
    except ImportError as error:
        raise MissingExtraError(
            "calibration needs torchmetrics; install it with: pip install 'dflmoe[bench]'"
        ) from error
    probs = said.double().exp()
    probs = probs / probs.sum(1, keepdim=True)
    there = torch.unique(y)
    classes = said.shape[1]
    return {
        "macro_f1": float(
            f1_score(y, said.argmax(1), labels=there, average="macro", zero_division=0)
        ),
        "auroc": _auroc(probs.numpy(), y.numpy()),
        "log_loss": float(log_loss(y, probs, labels=range(classes))),
        "ece": float(multiclass_calibration_error(probs, y, num_classes=classes, n_bins=10)),
    }


def _auroc(probs: NDArray[np.float64], y: NDArray[np.int64]) -> float | None:
    there = np.unique(y)
    if len(there) < 2:  # noqa: PLR2004 - there is nothing to tell apart
        return None
    if probs.shape[1] == 2:  # noqa: PLR2004
        return float(roc_auc_score(y, probs[:, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        areas = [roc_auc_score(y == k, probs[:, k]) for k in there]
    return float(np.mean(areas))
