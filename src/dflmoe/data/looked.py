"""What one look at all rows of a site leaves behind, whatever holds them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.findings import Finding, found
from dflmoe.data.schema import Schema
from dflmoe.data.shaping import THUMBNAIL, resized, shrunk
from dflmoe.data.study import SiteRows

if TYPE_CHECKING:
    import pandas as pd

SIDE = 64
"""Pixels a side of the grey picture by which copies are found."""

PERCENTS = (1, 50, 99)

TOLD = 3
"""Names that a sentence tells at most."""

Kind = Literal["table", "image", "series"]


class Measured(NamedTuple):
    """What is kept of a row that has been decoded.

    Attributes:
        key: The same for rows of the same values.
        small: What simple models see of it, ``[channel, ...]``.
        picture: In grey; nothing of a series.
        percentiles: Of its values in their own units, at ``PERCENTS``.
        flat: Whether it holds one value only.
    """

    key: bytes
    small: NDArray[np.float32]
    picture: NDArray[np.uint8]
    percentiles: NDArray[np.float64]
    flat: bool


@dataclass(frozen=True)
class Looked:
    """All rows of a site, in small.

    Attributes:
        kind: What a row is.
        rows: Those that can be read; none if there are none.
        names: Of each row, for people.
        classes: Their names; empty if the labels cannot be used.
        people: Patient of each row, by name; empty if nobody names them.
        measured: Of each row of images or recordings.
        shape: That all rows have, or are brought to; none if they cannot be.
        what: What rows are, as their headers say.
        extent: Values that become -1 and 1; each row's own if none.
        sizes: Rows of each shape, before they are brought to one.
        unreadable: Files and rows that cannot be read, by name, with the reason.
        unlabelled: Files that have no label.
        frame: Columns of a table that are features, label, patient or site.
        schema: What is agreed of them.
        row: Decodes a row once more, in -1..1.
        troubles: What could not be done while looking.
        show_patients: Whether patients may be named.
    """

    kind: Kind
    rows: SiteRows | None = None
    names: Sequence[str] = ()
    classes: tuple[str, ...] = ()
    people: Sequence[str] = ()
    measured: Sequence[Measured] = ()
    shape: tuple[int, ...] | None = None
    what: str | None = None
    extent: tuple[float, float] | None = None
    sizes: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Sequence[str] = ()
    frame: "pd.DataFrame | None" = None
    schema: Schema | None = None
    row: Callable[[int], NDArray[np.float32]] | None = None
    troubles: tuple[Finding, ...] = ()
    show_patients: bool = False

    @property
    def keys(self) -> list[bytes] | None:
        """Of each row, the same for rows of the same values; none where nothing was decoded."""
        return [one.key for one in self.measured] or None


def measured(values: NDArray[np.float32], row: NDArray[np.float32]) -> Measured:
    """Return what is kept of a row.

    Args:
        values: In their own units, ``[channel, ...]``.
        row: What is learnt from, ``[channel, *place]``.
    """
    digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=16)
    digest.update(values.tobytes())
    series = row.ndim == 2  # noqa: PLR2004 - channel and time
    return Measured(
        key=digest.digest(),
        small=np.concatenate([shrunk(row), _powers(row)], axis=1) if series else shrunk(row),
        picture=np.zeros((0, 0), np.uint8) if series else _grey(row),
        percentiles=np.percentile(values, PERCENTS),
        flat=bool((row == row.flat[0]).all()),
    )


def several(sites: Sequence[str], name: str) -> tuple[Finding, ...]:
    """Return a warning if rows are of several sites and none of them is this one."""
    if len(sites) < 2 or name in sites:  # noqa: PLR2004
        return ()
    told = ", ".join(sites[:TOLD]) + (", ..." if len(sites) > TOLD else "")
    return (
        found(
            "sites",
            f"rows of {len(sites)} sites ({told}) are looked at together, and none is of {name}",
            worse="warning",
            fix="a node reads its own rows only: give it those, or name the column with site in "
            "[data]",
        ),
    )


def as_one(sites: Sequence[SiteRows], name: str) -> SiteRows:
    """Return the rows of several sites as those of one."""
    people = np.cumsum([0, *(len(np.unique(site.patient)) for site in sites)])
    return SiteRows(
        name,
        np.concatenate([site.x for site in sites]),
        np.concatenate([site.y for site in sites]),
        np.concatenate(
            [site.patient + first for site, first in zip(sites, people[:-1], strict=True)]
        ),
    )


def _grey(row: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a picture of bytes; its own darkest is black and its brightest white."""
    sides = tuple(min(SIDE, side) for side in row.shape[1:])
    grey = resized(row.mean(0, keepdims=True), sides)[0]
    low, high = float(grey.min()), float(grey.max())
    scaled = (grey - low) / max(high - low, 1e-12)
    return np.asarray(np.rint(255 * scaled), dtype=np.uint8)


def _powers(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how strong a few bands of frequency are, as logarithms, ``[channel, band]``."""
    centred = row - row.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred)) ** 2 / row.shape[1]
    bands = np.array_split(power, min(THUMBNAIL, power.shape[1]), axis=1)
    strength = np.stack([band.mean(1) for band in bands], axis=1)
    return np.log(strength + 1e-9).astype(np.float32)
