"""The area under a receiver operating characteristic, as a sum over rows."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc_parts(score: Floats, true: NDArray[np.bool_]) -> Floats:
    """Return each row's part of the AUROC; their mean is the AUROC.

    A row's part is the AUROC plus the row's influence on it (the structural components of DeLong et
    al., Biometrics 1988), so resampling rows, or patients, and taking means gives the AUROC's own
    spread to first order. Where one class has no rows nothing can be told apart: all parts are 0.5.

    Args:
        score: Higher for what should be true.
        true: What is.
    """
    if true.all() or not true.any():
        return np.full(len(true), 0.5)
    higher, lower = score[true], score[~true]
    wins = (higher[:, None] > lower).astype(np.float64) + 0.5 * (higher[:, None] == lower)
    area = wins.mean()
    parts = np.empty(len(true))
    parts[true] = area + (wins.mean(1) - area) / true.mean()
    parts[~true] = area + (wins.mean(0) - area) / (1 - true.mean())
    return parts
