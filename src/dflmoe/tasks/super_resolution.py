"""A finer image from a coarse one; sites of different scale factors meet at the fine resolution."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.mixture import Pool, averaged
from dflmoe.core.task import training_mean
from dflmoe.errors import MissingExtraError

PERFECT_DB = 100.0
"""What an image without any error counts, whose ratio has no end."""


@dataclass(frozen=True)
class Images:
    """Super-resolution: an image is predicted, L1 says how wrong, experts' images are averaged."""

    calibrates: bool = False

    def said(self, raw: Tensor, dim: int) -> Tensor:  # noqa: ARG002 - nothing to normalise
        """See ``Task.said``: the image."""
        return raw

    def losses(
        self,
        said: Float[Tensor, "model row channel height width"],
        y: Float[Tensor, "model row channel height width"],
    ) -> Float[Tensor, "model row"]:
        """See ``Task.losses``: mean absolute error, in percent of the range of values."""
        return 100 * (said - y).abs().flatten(2).mean(2)

    def score(
        self,
        said: Float[Tensor, "split row channel height width"],
        y: Tensor,
        fold: Int[Tensor, "split row"],
    ) -> Float[Tensor, " split"]:
        """See ``Task.score``: minus the loss, which falls as PSNR rises."""
        return -training_mean(self.losses(said, y), fold)

    def pooled(
        self,
        tokens: Float[Tensor, "model row expert channel height width"],
        log_weights: Float[Tensor, "model _ expert ..."],
        pool: Pool,  # noqa: ARG002 - images have one mean
    ) -> Float[Tensor, "model row channel height width"]:
        """See ``Task.pooled``: the weighted mean image."""
        return averaged(tokens, log_weights)

    def query(self, features: Float[Tensor, "model row feature ..."]) -> Tensor:
        """See ``Task.query``: the features of every pixel."""
        return features


def psnr(
    said: Float[Tensor, "row channel height width"],
    y: Float[Tensor, "row channel height width"],
) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image, in dB, of values 0 to 1; 100 at most."""
    image = _torchmetrics()
    values = image.peak_signal_noise_ratio(
        said.clamp(0, 1), y, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )
    ratios: NDArray[np.float64] = values.double().clamp(max=PERFECT_DB).numpy()
    return ratios


def scores(
    said: Float[Tensor, "row channel height width"],
    y: Float[Tensor, "row channel height width"],
) -> dict[str, float | None]:
    """Return the mean structural similarity."""
    image = _torchmetrics()
    similarity = image.structural_similarity_index_measure(said.clamp(0, 1), y, data_range=1.0)
    return {"ssim": float(similarity)}


def _torchmetrics() -> ModuleType:
    try:
        from torchmetrics.functional import image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(
            "image scores need torchmetrics; install it with: pip install 'dflmoe[bench]'"
        ) from error
    return image
