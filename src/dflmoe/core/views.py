"""Views of a row: what might have been recorded of the same patient instead, drawn by chance.

What is added or taken away is measured by the row's own spread, so it does not matter in which
units rows are.

References:
    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020,
    section 3 and appendix A (images: crop and resize, flip, intensity).
    Um et al., Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring using
    Convolutional Neural Networks, ICMI 2017 (series: crop, scale, jitter).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

IMAGE, SERIES = 4, 3
"""Axes of several rows."""

SMALLEST_AREA = 0.3
"""Of an image that a crop shows, at least."""

SMALLEST_STRETCH = 0.5
"""Of a series that a crop shows, at least."""

LIGHT = 0.4
"""How far contrast may be from 1, and brightness from 0 in spreads, either way."""

NOISE = 0.05
"""What is added to every number, in spreads."""

MISSING = 0.1
"""How often a channel of a series is not there."""


def view(x: Float[Tensor, "row channel *place"], rng: torch.Generator) -> Tensor:
    """Return one view of each row, of its shape.

    Args:
        x: Images ``[row, channel, height, width]`` or series ``[row, channel, time]``.
        rng: Chance; drawn on the CPU, so that a seed draws the same wherever the rows are.

    Raises:
        ValueError: The rows are neither.
    """
    if x.dim() == IMAGE:
        return _noisy(_lit(_cropped(x, rng), rng), rng)
    if x.dim() == SERIES:
        return _noisy(_heard(_stretched(x, rng), rng), rng)
    raise ValueError(f"rows of {x.dim() - 1} axes have no views; give images or series")


def _cropped(
    x: Float[Tensor, "row channel height width"], rng: torch.Generator
) -> Float[Tensor, "row channel height width"]:
    """Return a part of each image at the size of the whole, half of them flipped."""
    area, shape, flip, across, down = _even(5, len(x), rng)
    area = SMALLEST_AREA + (1 - SMALLEST_AREA) * area
    ratio = torch.exp((2 * shape - 1) * math.log(4 / 3))
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    side = torch.where(flip < 1 / 2, -wide, wide)
    return _looked_at(x, (side, high), ((2 * across - 1) * (1 - wide), (2 * down - 1) * (1 - high)))


def _stretched(
    x: Float[Tensor, "row channel time"], rng: torch.Generator
) -> Float[Tensor, "row channel time"]:
    """Return a part of each series at the length of the whole."""
    long, start = _even(2, len(x), rng)
    long = SMALLEST_STRETCH + (1 - SMALLEST_STRETCH) * long
    middle = (2 * start - 1) * (1 - long)
    one, nought = torch.ones_like(long), torch.zeros_like(long)
    return _looked_at(x[:, :, None], (long, one), (middle, nought))[:, :, 0]


def _looked_at(
    x: Float[Tensor, "row channel height width"],
    size: tuple[Tensor, Tensor],
    middle: tuple[Tensor, Tensor],
) -> Float[Tensor, "row channel height width"]:
    """Return a window of each image at the size of the whole.

    Args:
        x: Images; the whole of one goes from -1 to 1, either way.
        size: Half the width and height of the windows; negative for what is mirrored.
        middle: Where they are.
    """
    window = torch.zeros(len(x), 2, 3, device="cpu")
    window[:, 0, 0], window[:, 1, 1] = size
    window[:, 0, 2], window[:, 1, 2] = middle
    grid = F.affine_grid(window, list(x.shape), align_corners=False).to(x.device, x.dtype)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _lit(
    x: Float[Tensor, "row channel height width"], rng: torch.Generator
) -> Float[Tensor, "row channel height width"]:
    """Return images with another contrast and brightness."""
    contrast, brightness = (2 * _each(_even(2, len(x), rng), x) - 1) * LIGHT
    middle = x.mean((1, 2, 3), keepdim=True)
    lit: Tensor = middle + (x - middle) * (1 + contrast) + brightness * _spread(x)
    return lit


def _heard(
    x: Float[Tensor, "row channel time"], rng: torch.Generator
) -> Float[Tensor, "row channel time"]:
    """Return series with every channel louder or quieter, and some of several missing."""
    loud, there = torch.rand(2, *x.shape[:2], 1, generator=rng, device="cpu").to(x.device, x.dtype)
    louder = torch.exp((2 * loud - 1) * LIGHT)
    return x * (louder if x.shape[1] == 1 else louder * (there >= MISSING))


def _noisy(
    x: Float[Tensor, "row channel *place"], rng: torch.Generator
) -> Float[Tensor, "row channel *place"]:
    """Return rows with noise on every number."""
    noise = torch.randn(x.shape, generator=rng, device="cpu").to(x.device, x.dtype)
    return x + NOISE * _spread(x) * noise


def _even(numbers: int, rows: int, rng: torch.Generator) -> Float[Tensor, "number row"]:
    """Return numbers between 0 and 1 for each row."""
    return torch.rand(numbers, rows, generator=rng, device="cpu")


def _each(drawn: Float[Tensor, "number row"], x: Tensor) -> Float[Tensor, "number row *one"]:
    """Return what was drawn for each row, to be multiplied with rows."""
    return drawn.to(x.device, x.dtype).view(*drawn.shape, *[1] * (x.dim() - 1))


def _spread(x: Float[Tensor, "row channel *place"]) -> Tensor:
    """Return the standard deviation of each row, to be multiplied with rows."""
    return x.flatten(1).std(1).view(-1, *[1] * (x.dim() - 1))
