"""Look at all files of a site: images, volumes, recordings; one that is spoilt ends nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.findings import Finding, found
from dflmoe.data.formats import Format, Part, files_in, form_of, format_of
from dflmoe.data.listing import Listing, Step, listed, named
from dflmoe.data.looked import SIDE, Kind, Looked, Measured, measured, several
from dflmoe.data.reading import coded
from dflmoe.data.reads import Reads
from dflmoe.data.shaping import resized
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import ColumnError, DataFileError, LabelError

Made = Callable[[int], NDArray[np.float32]]
"""What is made of a row, by its number."""


class Remembering:
    """A format that remembers what it read last: a row is decoded once and seen twice."""

    def __init__(self, format_: Format) -> None:
        """Read with another format."""
        self._format = format_
        self.extent = format_.extent
        self.last = np.zeros((1, 1), np.float32)

    def belongs(self, file: Path) -> bool:
        """See ``Format.belongs``."""
        return self._format.belongs(file)

    def parts(self, file: Path) -> Sequence[Part]:
        """See ``Format.parts``."""
        return self._format.parts(file)

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """See ``Format.read``."""
        self.last = self._format.read(file, at)
        return self.last


def look_at_files(source: Source, name: str, step: Step) -> Looked:
    """Return what all files hold, and which cannot be read.

    Args:
        source: Where they are.
        name: The site.
        step: Told how far it is.

    Raises:
        DataFileError: There is no file to look at.
        SettingsError: A transform cannot be used.
        MissingExtraError: The library for the format is not installed.
    """
    kind: Kind = "series" if form_of(source) == "edf" else "image"
    try:
        every, troubles, labelled = _listing(source, step)
    except DataFileError:
        if unreadable := _unreadable(source):
            return Looked(kind, unreadable=unreadable)
        raise
    listing, others = _own(every, name)
    format_ = Remembering(listing.format)
    listing = replace(listing, format=format_)
    made, shape, mixed = _made(listing, source)
    classes, y, wrong = _labels(listing, source) if labelled else ((), None, ())
    seen, good, unreadable = _decoded(listing, format_, made, step)
    kept = listing.only(good, unreadable)
    return Looked(
        kind,
        rows=_rows(kept, name, seen, None if y is None else y[good]),
        names=[kept.named(number) for number in range(len(good))],
        classes=classes,
        people=_people(kept),
        measured=seen,
        shape=shape,
        what=_most([row.part.what for row in listing.rows]),
        extent=source.range or listing.format.extent,
        sizes=Counter(row.part.shape for row in listing.rows),
        unreadable=kept.left_out,
        unlabelled=_unlabelled(listing, source),
        row=lambda number: made(good[number]),
        troubles=(*troubles, *others, *mixed, *wrong),
    )


def _rows(
    listing: Listing, name: str, seen: Sequence[Measured], y: NDArray[np.int64] | None
) -> SiteRows | None:
    """Return all rows that can be read, in small; none if there are none."""
    if not seen:
        return None
    people = _people(listing)
    codes = np.unique(people, return_inverse=True)[1] if people else np.arange(len(seen))
    labels = np.zeros(len(seen), np.int64) if y is None else y
    return SiteRows(name, np.stack([one.small for one in seen]), labels, codes.astype(np.int64))


def _people(listing: Listing) -> Sequence[str]:
    """Return the patient of each row; nothing unless all are known."""
    people = [row.patient for row in listing.rows]
    return people if all(people) else []


def _most(words: Sequence[str]) -> str:
    return Counter(words).most_common(1)[0][0]


def _listing(source: Source, step: Step) -> tuple[Listing, tuple[Finding, ...], bool]:
    """Return the rows, what is wrong with their labels, and whether those can be used.

    What a node would refuse is told, and the look goes on: without the files that cannot be read,
    and then without labels.
    """
    lenient = source.model_copy(update={"skip_unreadable": True})
    wrong: dict[str, Finding] = {}
    for attempt in (source, lenient):
        try:
            return listed(attempt, step=step), (*wrong.values(),), True
        except (LabelError, ColumnError) as error:
            wrong[str(error)] = found("labels", str(error), worse="failed", fix="do as it says")
        except DataFileError:
            if attempt.skip_unreadable:
                raise
    return listed(lenient, labelled=False, step=step), (*wrong.values(),), False


def _own(listing: Listing, name: str) -> tuple[Listing, tuple[Finding, ...]]:
    """Return the rows of a site if there are any; all otherwise, with a warning."""
    own = [number for number, row in enumerate(listing.rows) if row.site == name]
    sites = list(dict.fromkeys(row.site for row in listing.rows))
    return (listing.only(own, {}) if own else listing), several(sites, name)


def _unlabelled(listing: Listing, source: Source) -> Sequence[str]:
    """Return all files without a label, where no table should name it."""
    if source.labels is not None:
        return []
    names = (named(row.file, listing.root) for row in listing.rows if not row.label)
    return list(dict.fromkeys(names))


def _unreadable(source: Source) -> Mapping[str, str]:
    """Return why the headers of files cannot be read."""
    format_, where = format_of(source), source.where
    root, files = (where, files_in(where)) if where.is_dir() else (where.parent, [where])
    why: dict[str, str] = {}
    for file in filter(format_.belongs, files):
        try:
            format_.parts(file)
        except DataFileError as error:
            why[named(file, root)] = str(error)
    return why


def _made(
    listing: Listing, source: Source
) -> tuple[Made, tuple[int, ...] | None, tuple[Finding, ...]]:
    """Return what is made of each row, its shape, and why rows cannot be brought to one."""
    try:
        reads = Reads(listing, source)
    except DataFileError as error:
        wrong = found("sizes", str(error), worse="failed", fix="do as it says")
        return lambda number: _by_itself(listing, number), None, (wrong,)
    return reads.row, reads.shape, ()


def _by_itself(listing: Listing, number: int) -> NDArray[np.float32]:
    """Return a row that is unlike the others as a small grey picture, so that all can be seen."""
    one = listing.rows[number]
    values = listing.format.read(one.file, one.part.at)
    if not np.isfinite(values).all():
        raise DataFileError(f"{listing.named(number)} holds NaN or infinite numbers")
    return resized(values.mean(0, keepdims=True), (SIDE,) * (values.ndim - 1))


def _labels(
    listing: Listing, source: Source
) -> tuple[tuple[str, ...], NDArray[np.int64] | None, tuple[Finding, ...]]:
    """Return the classes and that of each row, or what is wrong with them."""
    names = source.classes or tuple(sorted({row.label for row in listing.rows}))
    try:
        return names, coded(listing, names, source), ()
    except LabelError as error:
        return (), None, (found("labels", str(error), worse="failed", fix="do as it says"),)


def _decoded(
    listing: Listing, format_: Remembering, made: Made, step: Step
) -> tuple[list[Measured], list[int], dict[str, str]]:
    """Return what is kept of each row, the numbers of those, and why others cannot be decoded."""
    seen: list[Measured] = []
    good: list[int] = []
    unreadable: dict[str, str] = {}
    for number in range(len(listing.rows)):
        step(number, len(listing.rows))
        try:
            row = made(number)
        except DataFileError as error:
            unreadable[listing.named(number)] = str(error)
        else:
            seen.append(measured(format_.last, row))
            good.append(number)
    step(len(listing.rows), len(listing.rows))
    return seen, good, unreadable
