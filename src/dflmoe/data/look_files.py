"""Look at all files of a site: images, volumes, recordings; one that is spoilt ends nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.findings import Finding, found
from dflmoe.data.formats import form_of, format_of
from dflmoe.data.listing import Listing, Step, files_of, label_table, listed, named, said_of
from dflmoe.data.looked import SIDE, Kind, Looked, Measured, measured
from dflmoe.data.reading import coded
from dflmoe.data.reads import Reads, resized
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import ColumnError, DataFileError, LabelError

Made = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]
"""What is made of a decoded row, by its number."""


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
    lenient = source.model_copy(update={"skip_unreadable": True})
    try:
        listing, troubles, unlabelled = _listing(lenient, name, step)
    except DataFileError:
        if unreadable := _unreadable(lenient):
            return Looked(kind, unreadable=unreadable)
        raise
    made, shape, mixed = _made(listing, source)
    classes, y, wrong = _labels(listing, source) if not troubles else ((), None, ())
    seen, good, unreadable = _decoded(listing, made, step)
    kept = listing.only(good, unreadable)
    looked = Looked(
        kind,
        what=_most([row.part.what for row in listing.rows]),
        shape=shape,
        extent=source.range or listing.format.extent,
        sizes=Counter(row.part.shape for row in listing.rows),
        unreadable=kept.left_out,
        unlabelled=unlabelled,
        troubles=(*troubles, *mixed, *wrong),
    )
    if not good:
        return looked
    people = [row.patient for row in kept.rows] if all(r.patient for r in kept.rows) else []
    codes = np.unique(people, return_inverse=True)[1] if people else np.arange(len(good))
    x = np.stack([one.small for one in seen])
    labels = np.zeros(len(good), np.int64) if y is None else y[good]
    return replace(
        looked,
        rows=SiteRows(name, x, labels, codes.astype(np.int64)),
        names=[kept.named(number) for number in range(len(good))],
        classes=classes,
        people=people,
        measured=seen,
        row=lambda number: made(good[number], _read(listing, good[number])),
    )


def _most(words: Sequence[str]) -> str:
    return Counter(words).most_common(1)[0][0]


def _read(listing: Listing, number: int) -> NDArray[np.float32]:
    one = listing.rows[number]
    return listing.format.read(one.file, one.part.at)


def _listing(
    source: Source, name: str, step: Step
) -> tuple[Listing, tuple[Finding, ...], Sequence[str]]:
    """Return the rows, with labels if all have one; what is wrong; and files without a label."""
    try:
        listing = listed(source, step=step)
    except (LabelError, ColumnError) as error:
        listing = listed(source, labelled=False, step=step)
        trouble = found("labels", str(error), worse="failed", fix="do as it says")
        return listing, (trouble,), _unlabelled(listing, source)
    own = [number for number, row in enumerate(listing.rows) if row.site == name]
    return (listing.only(own, {}) if own else listing), (), ()


def _unlabelled(listing: Listing, source: Source) -> Sequence[str]:
    """Return the names of all files that have no label."""
    try:
        table = label_table(source) if source.labels is not None else None
    except (LabelError, ColumnError, DataFileError):
        return ()  # the table itself is wrong, which has been told
    return list(
        dict.fromkeys(
            named(row.file, listing.root)
            for row in listing.rows
            if (not row.label if table is None else not said_of(table, row.file, listing.root))
        )
    )


def _unreadable(source: Source) -> Mapping[str, str]:
    """Return why the headers of files cannot be read."""
    format_ = format_of(source)
    root, files = files_of(source, format_)
    why: dict[str, str] = {}
    for file in files:
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
        return _by_itself, None, (wrong,)
    return reads.prepared, reads.shape, ()


def _by_itself(_: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a row that is unlike the others as a small grey picture, so that all can be seen."""
    if not np.isfinite(values).all():
        raise DataFileError("it holds NaN or infinite numbers")
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
    listing: Listing, made: Made, step: Step
) -> tuple[list[Measured], list[int], dict[str, str]]:
    """Return what is kept of each row, the numbers of those, and why others cannot be decoded."""
    seen: list[Measured] = []
    good: list[int] = []
    unreadable: dict[str, str] = {}
    for number in range(len(listing.rows)):
        step(number, len(listing.rows))
        try:
            values = _read(listing, number)
            seen.append(measured(values, made(number, values)))
            good.append(number)
        except DataFileError as error:
            unreadable[listing.named(number)] = str(error)
    step(len(listing.rows), len(listing.rows))
    return seen, good, unreadable
