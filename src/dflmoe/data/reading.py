"""From where a site says that its rows are to rows that can be learnt from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.streaming import Make
from dflmoe.data.arrays import joined, read_arrays
from dflmoe.data.formats import form_of
from dflmoe.data.listing import Listing, Step, listed, named
from dflmoe.data.reads import Reads
from dflmoe.data.schema import Schema
from dflmoe.data.shaping import shrunk
from dflmoe.data.source import Source, read_settings
from dflmoe.data.study import SiteRows, Streamed, Study
from dflmoe.data.tables import Roles, frame_of, read_table, read_with_schema
from dflmoe.errors import ColumnError, DataFileError, LabelError, SiteError

TOLD = 5
"""Files that a sentence names at most."""


@dataclass(frozen=True)
class Rows:
    """The labelled rows of a source of files.

    Attributes:
        listing: Of those that can be read.
        reads: What decodes them.
        x: As in ``SiteRows``.
        y: Classes, 0 to C-1.
        classes: Their names.
        streamed: Where rows are read as needed.
    """

    listing: Listing
    reads: Reads
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    classes: tuple[str, ...]
    streamed: Streamed | None

    def sites(self, name: str) -> tuple[SiteRows, ...]:
        """Return the rows of each site, or of the one that is named where files name none."""
        of = np.array([row.site or name for row in self.listing.rows])
        people = np.array([row.patient for row in self.listing.rows])
        if not people[0]:
            people = np.arange(len(people)).astype(str)
        return tuple(
            SiteRows(
                site,
                self.x[of == site],
                self.y[of == site],
                np.unique(people[of == site], return_inverse=True)[1].astype(np.int64),
                streamed=self.streamed,
                names_patients=self.names_patients,
            )
            for site in dict.fromkeys(of.tolist())
        )

    @property
    def names_patients(self) -> bool:
        """Whether rows name their patient."""
        return bool(self.listing.rows[0].patient)

    @property
    def warning(self) -> str | None:
        """What the report says of files that were left out; none if there are none."""
        left_out = self.listing.left_out
        if not left_out:
            return None
        told = ", ".join([*left_out][:TOLD]) + (", ..." if len(left_out) > TOLD else "")
        return f"{len(left_out)} files or rows could not be read and were left out: {told}."


def rows_of(
    source: Source,
    *,
    classes: tuple[str, ...] = (),
    listing: Listing | None = None,
    step: Step = lambda *_: None,
) -> Rows:
    """Read a file or folder of images, volumes or recordings.

    Args:
        source: Where it is and what is in it.
        classes: That the federation agreed on; those of the source, or all that there are, if not
            given.
        listing: Its rows, if they have been listed.
        step: Told how far it is.

    Raises:
        DataFileError: A file cannot be read, or is not like the others.
        LabelError: A label is missing, or is none of the classes.
        SettingsError: A transform cannot be used.
        MissingExtraError: The library for the format is not installed.
    """
    listing = listed(source, step=step) if listing is None else listing
    names = classes or source.classes or tuple(sorted({row.label for row in listing.rows}))
    coded(listing, names, source)  # a wrong label is told before anything is decoded
    reads, values = Reads(listing, source).looked_at(step)
    y = coded(reads.listing, names, source)
    if not reads.streams:
        return Rows(reads.listing, reads, values, y, names, None)
    numbers = np.arange(len(reads), dtype=np.float32)
    return Rows(reads.listing, reads, numbers, y, names, Streamed(reads, reads.shape, values))


def coded(listing: Listing, classes: tuple[str, ...], source: Source) -> NDArray[np.int64]:
    """Return the class of each row by its place among the names.

    A site may call the classes otherwise (``classes`` in its settings, in the same order), and
    numbers 0 to C-1 do as well where no class is called by a number.

    Raises:
        LabelError: A label is none of them, or there are too few or too many.
    """
    if not 2 <= len(classes) <= 1000:  # noqa: PLR2004
        raise LabelError(
            f"{source.path} has {len(classes)} classes ({', '.join(classes[:3])}); a model needs "
            f"two or more, and a label that differs from row to row is none"
        )
    here = _called_here(classes, source)
    places = {name: k for k, name in enumerate(here)}
    if not any(name.isdigit() for name in here):
        places |= {str(k): k for k in range(len(here))}
    for row in listing.rows:
        if row.label not in places:
            raise LabelError(
                f"{named(row.file, listing.root)} is labelled {row.label!r}, which is none of the "
                f"classes {', '.join(here)}; mend the label, or say with classes in [data] what "
                f"they are called here, in this order"
            )
    return np.array([places[row.label] for row in listing.rows], dtype=np.int64)


def _called_here(classes: tuple[str, ...], source: Source) -> tuple[str, ...]:
    """Return what a site calls the classes, in their order.

    Raises:
        LabelError: It names others than there are, or the same in another order.
    """
    own = source.classes
    if not own or set(own) == set(classes):
        return classes
    if len(own) != len(classes) or set(own) & set(classes):
        raise LabelError(
            f"classes in [data] are {', '.join(own)}, and all sites agreed on "
            f"{', '.join(classes)}; leave them out, or give each another name in this order"
        )
    return own


# --- a pilot of several sources ---


class Several:
    """The rows of several sources by one count of numbers (``core.streaming.Rows``)."""

    def __init__(self, parts: Sequence[Reads]) -> None:
        """Put them one after the other; they must be of one shape."""
        self._parts = parts
        self._first = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = parts[0].shape

    def __call__(self, numbers: Tensor) -> Tensor:
        """See ``core.streaming.Rows``."""
        rows = torch.empty(len(numbers), *self.shape, device="cpu")
        for part, first, here in self._dealt(numbers):
            rows[here] = part(numbers[here] - first)
        return rows

    def keep(self, made_by: str, shape: tuple[int, ...], numbers: Tensor, make: Make) -> Tensor:
        """See ``core.streaming.Rows``: each source keeps what is made of its own rows."""
        known = torch.empty(len(numbers), *shape, device="cpu")
        for part, first, here in self._dealt(numbers):
            make_here = partial(_shifted, make, first)
            known[here] = part.keep(made_by, shape, numbers[here] - first, make_here).to(known)
        return known

    def _dealt(self, numbers: Tensor) -> Iterator[tuple[Reads, int, Tensor]]:
        """Return each source that is meant with its first number, and which of the rows it has."""
        for part, first in zip(self._parts, self._first.tolist(), strict=False):
            here = (numbers >= first) & (numbers < first + len(part))
            if here.any():
                yield part, first, here


def _shifted(make: Make, first: int, numbers: Tensor) -> Tensor:
    return make(numbers + first)


def study_at(
    paths: Sequence[Path], *, skip_unreadable: bool = False, step: Step = lambda *_: None
) -> Study:
    """Return the sites whose ``site.toml`` are given; each is called as the folder that holds it.

    Args:
        paths: One of each site, or one of all where its rows name theirs.
        skip_unreadable: Leave out files that cannot be read, whatever the settings say.
        step: Told how far it is.

    Raises:
        SettingsError: A file is missing, or breaks a rule.
        DataError: A source cannot be read, or is not like the others.
        MissingExtraError: A library for a format is not installed.
    """
    sources = {path.resolve().parent.name: read_settings(path) for path in paths}
    if len(sources) < len(paths):
        raise SiteError("two site.toml lie in folders of one name; each site has its own")
    if skip_unreadable:
        sources = {
            name: source.model_copy(update={"skip_unreadable": True})
            for name, source in sources.items()
        }
    forms = {name: form_of(source) for name, source in sources.items()}
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{name} has {form}" for name, form in forms.items())
        raise DataFileError(f"sites hold different things: {told}; all must hold the same")
    match next(iter(forms.values())):
        case "table":
            return study_of_tables(sources)
        case "arrays":
            return study_of_arrays(sources)
        case _:
            return study_of(sources, step=step)


def study_of_tables(sources: Mapping[str, Source]) -> Study:
    """Return the sites of tables, which must have the same columns.

    Raises:
        DataError: A table cannot be read, or has other columns.
        SchemaError: The agreed columns are malformed.
    """
    first = next(iter(sources.values()))
    column = first.site or "site"
    frames = []
    for name, source in sources.items():
        frame = frame_of(source)
        frames.append(frame if column in frame.columns else frame.assign(**{column: name}))
        other = frames[0].columns.symmetric_difference(frames[-1].columns)
        if len(other):
            raise ColumnError(
                f"{name} and {next(iter(sources))} do not both have column {other[0]!r}; "
                f"bring their tables to the same columns, or leave it out with drop in [data]"
            )
    whole = pd.concat(frames, ignore_index=True)
    if first.schema_file is not None:
        return read_with_schema(first.where, Schema.load(first.schema_file), frame=whole)
    roles = Roles(column, first.label, first.patient, first.drop)
    return read_table(first.where, roles, frame=whole)


def study_of_arrays(sources: Mapping[str, Source]) -> Study:
    """Return the sites of ``.npz`` files: one that names its sites, or one of each site.

    Raises:
        DataError: A file cannot be read, or is not like the others.
    """
    if len(sources) == 1:
        return read_arrays(next(iter(sources.values())).where)
    return joined({name: source.where for name, source in sources.items()})


def study_of(sources: Mapping[str, Source], *, step: Step = lambda *_: None) -> Study:
    """Return the sites of one or several sources of files.

    Args:
        sources: By the name of the site where its files name none.
        step: Told how far it is.

    Raises:
        DataError: A source cannot be read, or is not like the others.
        SettingsError: A transform cannot be used.
        MissingExtraError: A library for a format is not installed.
    """
    first = next(iter(sources.values()))
    listings = {name: listed(source, step=step) for name, source in sources.items()}
    labels = {row.label for listing in listings.values() for row in listing.rows}
    classes = first.classes or tuple(sorted(labels))
    read = {
        name: rows_of(one, classes=classes, listing=listings[name], step=step)
        for name, one in sources.items()
    }
    shapes = {name: one.reads.shape for name, one in read.items()}
    for name, shape in shapes.items():
        if shape != next(iter(shapes.values())):
            raise DataFileError(
                f"rows of {name} are of shape {shape} and those of {next(iter(shapes))} of "
                f"{next(iter(shapes.values()))}; bring all to one with size and channels in [data]"
            )
    parts = list(read.values())
    if any(one.streamed is not None for one in parts):
        parts = _streamed(parts)
    sites = [site for name, one in zip(read, parts, strict=True) for site in one.sites(name)]
    if len({site.name for site in sites}) < len(sites):
        raise SiteError("two sites have one name; give each site.toml a folder of its own name")
    names = next(iter(read.values())).classes
    shape = next(iter(shapes.values()))
    return Study(
        title=Path(first.path).name,
        task=f"{' or '.join(names)}" if len(names) == 2 else f"{len(names)} classes",  # noqa: PLR2004
        classes=names,
        sites=tuple(sites),
        kind="series" if len(shape) == 2 else "image",  # noqa: PLR2004 - channel and time
        has_patients=all(one.names_patients for one in parts),
        source=first,
        warnings=tuple(warning for one in parts if (warning := one.warning) is not None),
    )


def _streamed(parts: Sequence[Rows]) -> list[Rows]:
    """Return sources as parts of one: all are read as needed, by one count of numbers."""
    several = Several([one.reads for one in parts])
    small = [
        np.stack([shrunk(row) for row in one.x]) if one.streamed is None else one.streamed.small
        for one in parts
    ]
    streamed = Streamed(several, parts[0].reads.shape, np.concatenate(small))
    first = np.cumsum([0, *(len(one.reads) for one in parts)])
    return [
        replace(one, x=np.arange(start, end, dtype=np.float32), streamed=streamed)
        for one, start, end in zip(parts, first[:-1], first[1:], strict=True)
    ]
