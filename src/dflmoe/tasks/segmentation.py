"""One class a pixel: transforms, gate and mixture work at every pixel."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.mixture import Pool, mix
from dflmoe.core.task import training_mean
from dflmoe.errors import MissingExtraError


@dataclass(frozen=True)
class Pixels:
    """Segmentation into two classes or more, the first of which is background.

    The loss is cross-entropy plus one minus the soft Dice of the other classes (Milletari et al.,
    V-Net, 3DV 2016), each averaged over the image.
    """

    calibrates: bool = False

    def said(self, raw: Tensor, dim: int) -> Tensor:
        """See ``Task.said``: log probabilities of every pixel."""
        return F.log_softmax(raw, dim=dim)

    def losses(
        self,
        said: Float[Tensor, "model row class height width"],
        y: Shaped[Tensor, "model row ..."],
    ) -> Float[Tensor, "model row"]:
        """See ``Task.losses``."""
        log_probs = F.log_softmax(said, dim=2).flatten(0, 1).flatten(2)
        target = y if y.is_floating_point() else F.one_hot(y, said.shape[2]).movedim(-1, 2)
        target = target.flatten(0, 1).flatten(2)
        entropy = -(log_probs * target).sum(1).mean(1)
        probs, true = log_probs[:, 1:].exp(), target[:, 1:]
        overlap = (2 * (probs * true).sum(2) + 1) / (probs.sum(2) + true.sum(2) + 1)
        return (entropy + 1 - overlap.mean(1)).view(y.shape[:2])

    def score(
        self,
        said: Float[Tensor, "split row class height width"],
        y: Tensor,
        fold: Int[Tensor, "split row"],
    ) -> Float[Tensor, " split"]:
        """See ``Task.score``: minus the loss, of which the measure is already a part."""
        return -training_mean(self.losses(said, y), fold)

    def pooled(
        self,
        tokens: Float[Tensor, "model row expert class height width"],
        log_weights: Float[Tensor, "model _ expert ..."],
        pool: Pool,
    ) -> Float[Tensor, "model row class height width"]:
        """See ``Task.pooled``: a mixture of distributions at every pixel."""
        return mix(tokens, log_weights, pool)

    def query(self, features: Float[Tensor, "model row feature ..."]) -> Tensor:
        """See ``Task.query``: the features of every pixel."""
        return features


def dice(
    said: Float[Tensor, "row class height width"], y: Int[Tensor, "row height width"]
) -> NDArray[np.float64]:
    """Return the Dice of each image, averaged over all classes but the background.

    A class that is neither there nor found counts 1.
    """
    return _overlap(said, y, "compute_dice")


def scores(
    said: Float[Tensor, "row class height width"], y: Int[Tensor, "row height width"]
) -> dict[str, float | None]:
    """Return the intersection over union, averaged like ``dice``, and the pixel accuracy."""
    accuracy = float((said.argmax(1) == y).double().mean())
    return {"iou": float(_overlap(said, y, "compute_iou").mean()), "pixel_accuracy": accuracy}


def _overlap(said: Tensor, y: Tensor, measure: str) -> NDArray[np.float64]:
    try:
        from monai import metrics  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(
            "segmentation scores need MONAI; install it with: pip install 'dflmoe[bench]'"
        ) from error
    classes = said.shape[1]
    found, true = (F.one_hot(v, classes).movedim(-1, 1) for v in (said.argmax(1), y))
    values: Tensor = getattr(metrics, measure)(
        found, true, include_background=False, ignore_empty=False
    )
    means: NDArray[np.float64] = torch.nanmean(values.double(), dim=1).numpy()
    return means
