"""One row, brought to a size and to grey or colour: ``[channel, *place]``."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

THUMBNAIL = 16
"""Pixels a side of what stands for an image where all are looked at at once."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""How bright red, green and blue are (ITU-R BT.601)."""


def with_channels(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return a row with as many channels: grey is repeated, colour is weighed as eyes do.

    Raises:
        ValueError: It is neither grey nor colour.
    """
    if len(values) == channels:
        return values
    if len(values) == 1:
        return np.repeat(values, channels, axis=0)
    if (len(values), channels) == (len(LUMA), 1):
        return np.tensordot(LUMA, values, axes=1)[None]
    raise ValueError(f"{len(values)} channels cannot become {channels}")


def small_places(places: tuple[int, ...]) -> tuple[int, ...]:
    """Return how large a small picture is."""
    return tuple(min(THUMBNAIL, side) for side in places)


def shrunk(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a row with areas averaged, at most ``THUMBNAIL`` places a side."""
    whole = torch.from_numpy(row)[None]
    places = small_places(row.shape[1:])
    if len(places) == 1:
        small = F.adaptive_avg_pool1d(whole, places[0])
    else:
        small = F.adaptive_avg_pool2d(whole, (places[0], places[1]))
    return np.asarray(small[0].numpy())


def resized(values: NDArray[np.float32], places: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a row at another size: areas averaged, or interpolated."""
    now = values.shape[1:]
    if now == places:
        return np.ascontiguousarray(values)
    size = places if len(places) == 2 else (1, *places)  # noqa: PLR2004 - a series is one line
    row = torch.from_numpy(np.ascontiguousarray(values)).reshape(
        1, len(values), *(1,) * (len(size) - len(now)), *now
    )
    smaller = any(new < old for new, old in zip(places, now, strict=True))
    out = F.interpolate(row, size=size, mode="bilinear", align_corners=False, antialias=smaller)
    return np.asarray(out.reshape(len(values), *places).numpy(), dtype=np.float32)
