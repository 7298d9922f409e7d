"""What the readers return: sites with their rows, ready to be split."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from dflmoe.core.streaming import Rows
from dflmoe.data.schema import Schema
from dflmoe.data.source import Source
from dflmoe.errors import SiteError

MIN_ROWS = 20
"""Rows that a site must have before any of them are set aside."""


@dataclass(frozen=True)
class Streamed:
    """Rows that do not fit into memory.

    Attributes:
        rows: Where they are read, by their numbers.
        shape: Of each.
        small: All of them at a few places a side, for what must see all at once.
    """

    rows: Rows
    shape: tuple[int, ...]
    small: NDArray[np.float32]


@dataclass(frozen=True)
class SiteRows:
    """All labelled rows of one site.

    Attributes:
        name: The site.
        x: Inputs, ``[row, feature]``, ``[row, channel, height, width]`` or ``[row, channel,
            time]``, NaN where missing; or ``[row]``, the numbers of rows that are read as needed.
        y: Classes, 0 to C-1.
        patient: Patient of each row, unique within the site.
        subgroups: Labels of each row by what they divide, for example ``sex``; empty if unknown.
        streamed: Where rows are read, if ``x`` has no more than their numbers.
        names_patients: Whether the rows name their patient; otherwise each is taken for one.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    patient: NDArray[np.int64]
    subgroups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    streamed: "Streamed | None" = None
    names_patients: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.x.shape[1:] if self.streamed is None else self.streamed.shape

    @property
    def seen(self) -> NDArray[np.float32]:
        """All rows, in small where they are read as needed."""
        return self.x if self.streamed is None else self.streamed.small[self.x.astype(np.int64)]

    def checked(self, classes: tuple[str, ...], remedy: str = "first") -> Self:
        """Return the rows if there are enough to learn from and to test on.

        Args:
            classes: Names of the classes.
            remedy: What to do, after "add rows".

        Raises:
            SiteError: There are too few, or of one class only.
        """
        if len(self.y) < MIN_ROWS:
            raise SiteError(
                f"site {self.name!r} has {len(self.y)} rows and needs {MIN_ROWS}; add rows {remedy}"
            )
        counts = np.bincount(self.y, minlength=len(classes))
        if (counts > 0).sum() < 2:  # noqa: PLR2004 - one class cannot be told from another
            raise SiteError(
                f"site {self.name!r} has rows of one class only "
                f"({classes[int(counts.argmax())]!r}); add rows {remedy}"
            )
        if sorted(counts[counts > 0])[0] < 4:  # noqa: PLR2004 - two to learn, two to test
            rare = classes[int(np.where(counts > 0, counts, counts.max() + 1).argmin())]
            raise SiteError(
                f"site {self.name!r} has fewer than 4 rows of class {rare!r}, too few to "
                f"learn from and to test on; add rows {remedy}"
            )
        return self


@dataclass(frozen=True)
class Study:
    """Some sites with a common question.

    Attributes:
        title: For people.
        task: What is predicted.
        classes: Names of the classes; of two, the second is the one looked for.
        sites: In the order of the file.
        kind: What a row is.
        own_scale: Columns of a table that each site standardises by its own training rows, as
            nobody agreed on constants. ``None`` if the features mean the same everywhere.
        has_patients: Whether rows name their patient; otherwise each row is taken for one.
        warnings: Sentences that the report repeats.
        anchors: Public rows without labels that all sites hold, ``[anchor, ...]``; ``None`` if
            there are none.
        columns: What the features of a table are; with ``own_scale`` its numbers are as they stand.
        source: How the rows of a site are read.
    """

    title: str
    task: str
    classes: tuple[str, ...]
    sites: tuple[SiteRows, ...]
    kind: Literal["table", "image", "series"]
    own_scale: NDArray[np.bool_] | None = None
    has_patients: bool = True
    warnings: tuple[str, ...] = ()
    anchors: NDArray[np.float32] | None = None
    columns: Schema | None = None
    source: Source | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.sites[0].shape

    @property
    def streamed(self) -> Streamed | None:
        """Where the rows of all sites are read, if they are read as needed."""
        return self.sites[0].streamed

    def without(self, names: tuple[str, ...]) -> Self:
        """Return the study without the named sites; a warning remembers them.

        Raises:
            SiteError: A name is not that of a site.
        """
        known = [site.name for site in self.sites]
        for name in names:
            if name not in known:
                raise SiteError(
                    f"site {name!r} cannot be left out: the sites are {', '.join(known)}"
                )
        warnings = [
            f"{site.name} ({len(site.y)} rows) was left out on request."
            for site in self.sites
            if site.name in names
        ]
        kept = tuple(site for site in self.sites if site.name not in names)
        return replace(self, sites=kept, warnings=(*self.warnings, *warnings))

    def checked(self) -> Self:
        """Return the study if every site can take part.

        Raises:
            SiteError: There is one site only, or a site is too small or has one class.
        """
        if len(self.sites) < 2:  # noqa: PLR2004 - it takes two to lend
            raise SiteError(
                f"{self.title}: lending takes two sites or more, and there is "
                f"{len(self.sites)}; check the site column"
            )
        for site in self.sites:
            site.checked(self.classes, f"or leave it out with --leave-out {site.name!r}")
        return self


def standardised(
    x: NDArray[np.float32],
    own_scale: NDArray[np.bool_] | None,
    learns: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return inputs for every split, scaled by nothing but the site's own training rows.

    Args:
        x: All rows of a site, ``[row, ...]``; NaN where missing.
        own_scale: Columns to scale; ``None`` for none.
        learns: Training rows of each split, ``[split, row]``.

    Returns:
        ``[split, row, ...]``; where nothing is scaled, a view. Missing values are zero, which is
        the centre; values beyond six standard deviations are cut.
    """
    if own_scale is None:
        filled = np.nan_to_num(x, nan=0.0)
        return np.broadcast_to(filled, (len(learns), *filled.shape))
    scaled = np.empty((len(learns), *x.shape), dtype=np.float32)
    for split, rows in enumerate(learns):
        centre, spread = constants(x[rows], own_scale)
        scaled[split] = np.nan_to_num((x - centre) / spread, nan=0.0)
    cut = cut_at(own_scale)
    return np.clip(scaled, -cut, cut)


def cut_at(own_scale: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return beyond what standardised values are cut: six standard deviations."""
    return np.where(own_scale, 6.0, np.inf).astype(np.float32)


def constants(
    seen: NDArray[np.float32], own_scale: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the standard deviation of each column; 0 and 1 of those left as is.

    Args:
        seen: Training rows; NaN where missing.
        own_scale: Columns to scale.
    """
    there = ~np.isnan(seen)
    count = np.maximum(there.sum(0), 1)
    centre = np.where(there, seen, 0).sum(0) / count
    spread = np.sqrt((np.where(there, seen - centre, 0) ** 2).sum(0) / count)
    return np.where(own_scale, centre, 0), np.where(own_scale & (spread > 0), spread, 1)
