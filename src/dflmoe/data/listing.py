"""The rows of a folder of files: which there are, whose, and what they show; nothing is decoded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dflmoe.data.formats import FORMS, Format, Part, files_in, form_of, format_of
from dflmoe.data.labels import Line, labels_of
from dflmoe.data.source import Source
from dflmoe.errors import ColumnError, DataFileError, LabelError

Step = Callable[[int, int], None]
"""Told how many files of how many were looked at, for a progress bar."""


@dataclass(frozen=True)
class Row:
    """One row, before it is decoded.

    Attributes:
        file: Where it is.
        part: What of the file it is.
        label: What it shows; empty if nobody says.
        patient: Whose it is; empty if nobody says.
        site: Of which site it is; empty if there is one only.
    """

    file: Path
    part: Part
    label: str
    patient: str
    site: str


@dataclass(frozen=True)
class Listing:
    """The rows of a source.

    Attributes:
        root: What file names are told relative to.
        format: What reads them.
        rows: In the order of the files.
        left_out: Files that were left out, by name, with the reason.
    """

    root: Path
    format: Format
    rows: tuple[Row, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def named(self, row: int) -> str:
        """Return the name of a row for people: its file, and its place where there are several."""
        one = self.rows[row]
        name = named(one.file, self.root)
        several = sum(other.file == one.file for other in self.rows[max(0, row - 1) : row + 2]) > 1
        return f"{name} ({one.part.at})" if several else name

    def only(self, rows: Sequence[int], left_out: Mapping[str, str]) -> "Listing":
        """Return some of the rows; what else was left out is remembered."""
        kept = tuple(self.rows[number] for number in rows)
        return replace(self, rows=kept, left_out={**self.left_out, **left_out})


def named(file: Path, root: Path) -> str:
    """Return the name of a file within a folder."""
    return file.relative_to(root).as_posix() if file != root else file.name


def listed(source: Source, *, labelled: bool = True, step: Step = lambda *_: None) -> Listing:
    """Return the rows of a file or folder.

    Args:
        source: Where it is and what is in it.
        labelled: Whether rows need a label; those to be predicted do not.
        step: Told how far it is.

    Raises:
        DataFileError: There is nothing to read, or a file cannot be read and none may be left out.
        ColumnError: The label table lacks a column, or is not clear about a file.
        LabelError: A file has no label, or a label no file.
        SettingsError: Settings of the format contradict others.
        MissingExtraError: The library for the format is not installed.
    """
    format_ = format_of(source)
    where = source.where
    root, files = _files(source, format_)
    table = labels_of(source, files, root) if source.labels is not None and labelled else None
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for number, file in enumerate(files):
        step(number, len(files))
        try:
            parts = format_.parts(file)
        except DataFileError as error:
            if not source.skip_unreadable:
                raise DataFileError(f"{error}; or go on without it: --skip-unreadable") from error
            left_out[named(file, root)] = str(error)
            continue
        if parts:
            said = _said(file, root, table, source)
            rows.extend(_row(file, part, said, root, labelled=labelled) for part in parts)
    step(len(files), len(files))
    if not rows:
        raise DataFileError(f"{where} holds no rows that can be read; run: dflmoe data check")
    if labelled and table is None and len({bool(r.part.label) for r in rows}) > 1:
        silent = next(r.file for r in rows if not r.part.label)
        raise LabelError(
            f"{named(silent, root)} does not say what it shows, and other files do; add what says "
            f"it, or move the file away"
        )
    if labelled:
        _every_patient_or_none(rows, root)
    return Listing(root, format_, tuple(rows), left_out)


def _files(source: Source, format_: Format) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files of a format in it.

    Raises:
        DataFileError: There is none.
    """
    where = source.where
    if not where.exists():
        raise DataFileError(f"{where} is not there; check path in [data]")
    every = files_in(where) if where.is_dir() else [where]
    files = [file for file in every if format_.belongs(file)]
    if not files:
        raise DataFileError(f"{where} holds no {form_of(source)} files; check path and form")
    return (where if where.is_dir() else where.parent), files


def _said(file: Path, root: Path, table: Mapping[Path, Line] | None, source: Source) -> Line:
    """Return what is said of a file by a table, or by the folder of a class that it lies in.

    Raises:
        LabelError: The table says nothing of it.
    """
    if table is None:
        inside = file.relative_to(root).parts
        return {"folder": inside[0]} if len(inside) > 1 else {}
    if file not in table:
        raise LabelError(
            f"{source.labels} has no label for {named(file, root)}; add one, or move the file"
        )
    return table[file]


def _row(file: Path, part: Part, said: Line, root: Path, *, labelled: bool) -> Row:
    """Return a row with its label.

    Raises:
        LabelError: Nobody says what it shows.
    """
    label = said.get("label") or part.label or said.get("folder", "")
    if labelled and not label:
        raise LabelError(
            f"{named(file, root)} has no label; name a table of labels with labels in "
            f"[data], or put the files of each class into a folder of its name"
        )
    return Row(file, part, label, said.get("patient") or part.patient, said.get("site", ""))


def _every_patient_or_none(rows: Sequence[Row], root: Path) -> None:
    """Check that no patient might be divided because only some are known.

    Raises:
        ColumnError: They are.
    """
    nobody = [row for row in rows if not row.patient]
    if nobody and len(nobody) < len(rows):
        raise ColumnError(
            f"{named(nobody[0].file, root)} names no patient ({len(nobody)} rows in all) and "
            f"others do; name one in the table of labels, so that no patient is divided"
        )


def agreeing(listing: Listing, source: Source) -> tuple[int, ...]:
    """Return the shape that all rows are brought to.

    Raises:
        DataFileError: Rows are of different kinds or shapes, and the settings say nothing of it.
    """
    _of_one_kind(listing, source)
    first = listing.rows[0]
    channels, *places = first.part.shape
    if source.channels is not None:
        odd = next((r for r in listing.rows if r.part.shape[0] not in COLOURS), None)
        if odd is not None:
            raise DataFileError(
                f"{named(odd.file, listing.root)} has {odd.part.shape[0]} channels, which are "
                f"neither grey nor colour; leave out channels in [data]"
            )
        channels = source.channels
    if source.size:
        if len(source.size) != len(places):
            raise DataFileError(
                f"size in [data] has {len(source.size)} numbers and rows such as "
                f"{named(first.file, listing.root)} have {len(places)} axes; give as many"
            )
        return (channels, *source.size)
    for row in listing.rows:
        if list(row.part.shape[1:]) != places:
            raise DataFileError(
                f"{named(first.file, listing.root)} is of size {_by(places)} and "
                f"{named(row.file, listing.root)} of {_by(row.part.shape[1:])}; "
                f"bring all to one size with size in [data]"
            )
    return (channels, *places)


COLOURS = (1, 3)
"""Channels that can be turned into each other: grey and colour."""


def _of_one_kind(listing: Listing, source: Source) -> None:
    """Check that all rows are of one kind, and of as many channels unless the settings say how.

    Raises:
        DataFileError: They are not.
    """
    kinds: dict[tuple[str, int], Row] = {}
    for row in listing.rows:
        what, channels = row.part.what, row.part.shape[0]
        mended = source.channels is not None
        kinds.setdefault((_colourless(what), 0) if mended else (what, channels), row)
    if len(kinds) == 1:
        return
    one, other = list(kinds.values())[:2]
    whats = [one.part.what, other.part.what]
    if whats[0] == whats[1]:
        whats = [f"{row.part.what} of {row.part.shape[0]} channels" for row in (one, other)]
    remedy = "move the others away"
    if _colourless(one.part.what) == _colourless(other.part.what):
        remedy += ", or say channels in [data]"
    raise DataFileError(
        f"{named(one.file, listing.root)} holds {whats[0]} and "
        f"{named(other.file, listing.root)} {whats[1]}; all rows must be of one kind: {remedy}"
    )


def _colourless(what: str) -> str:
    return what.replace("grey ", "").replace("colour ", "")


def _by(places: Sequence[int]) -> str:
    return " x ".join(map(str, places))


FILE_FORMS = frozenset(FORMS)
"""Forms whose rows are listed."""
