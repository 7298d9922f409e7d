"""The rows of a folder of files: which there are, whose, and what they show; nothing is decoded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from dflmoe.data.formats import FORMS, Format, Part, files_in, form_of, format_of, suffix_of
from dflmoe.data.source import Source
from dflmoe.data.tables import read_frame
from dflmoe.errors import ColumnError, DataFileError, LabelError

Step = Callable[[int, int], None]
"""Told how many files of how many were looked at, for a progress bar."""

Labels = Mapping[str, Mapping[str, str]]
"""Columns of a label table by file: relative path, name, and name without its ending."""


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
    return str(file.relative_to(root)) if file != root else file.name


def listed(source: Source, *, labelled: bool = True, step: Step = lambda *_: None) -> Listing:
    """Return the rows of a file or folder.

    Args:
        source: Where it is and what is in it.
        labelled: Whether rows need a label; those to be predicted do not.
        step: Told how far it is.

    Raises:
        DataFileError: There is nothing to read, or a file cannot be read and none may be left out.
        ColumnError: The label table lacks a column.
        LabelError: A file has no label, or a label no file.
        MissingExtraError: The library for the format is not installed.
    """
    format_ = format_of(source)
    where = source.where
    if not where.exists():
        raise DataFileError(f"{where} is not there; check path in [data]")
    root = where if where.is_dir() else where.parent
    files = [f for f in (files_in(where) if where.is_dir() else [where]) if format_.belongs(f)]
    if not files:
        raise DataFileError(f"{where} holds no {form_of(source)} files; check path and form")
    table = _labels(source) if source.labels is not None and labelled else None
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
        said = {} if table is None else _said(table, file, root)
        if table is not None and parts and not said:
            raise LabelError(
                f"{source.labels} has no label for {named(file, root)}; add one, or move the file"
            )
        folder = file.parent.name if table is None and file.parent != root else ""
        for part in parts:
            label = said.get("label") or part.label or folder
            if labelled and not label:
                raise LabelError(
                    f"{named(file, root)} has no label; name a table of labels with labels in "
                    f"[data], or put the files of each class into a folder of its name"
                )
            patient = said.get("patient") or part.patient
            rows.append(Row(file, part, label, patient, said.get("site", "")))
    step(len(files), len(files))
    if table is not None:
        _all_there(table, files, root, source)
    if not rows:
        raise DataFileError(f"{where} holds no rows that can be read; run: dflmoe data check")
    if labelled and any(r.patient for r in rows) and not all(r.patient for r in rows):
        nobody = next(r.file for r in rows if not r.patient)
        raise ColumnError(
            f"{named(nobody, root)} names no patient and other files do; "
            f"name one in the table of labels, so that no patient is divided"
        )
    return Listing(root, format_, tuple(rows), left_out)


def _labels(source: Source) -> dict[str, dict[str, str]]:
    """Return what a label table says of each file, by the file's name as it stands there.

    Raises:
        DataFileError: It cannot be read.
        ColumnError: A column is missing, or a file is named twice.
        LabelError: A label is missing.
    """
    path = source.labels
    if path is None:
        return {}
    frame = read_frame(path)
    roles = {"label": source.label, "patient": source.patient, "site": source.site}
    asked = {role: column for role, column in roles.items() if column is not None}
    for column in (source.file, *asked.values()):
        if column not in frame.columns:
            raise ColumnError(
                f"{path} has no column {column!r}; it has {', '.join(map(str, frame.columns[:12]))}"
            )
    names = frame[source.file].astype(str).str.replace("\\", "/").str.removeprefix("./")
    twice = names[names.duplicated()]
    if len(twice):
        raise ColumnError(f"{path} names {twice.iloc[0]!r} twice; leave one line of it")
    for role, column in asked.items():
        empty = frame[column].isna()
        if empty.any():
            kind = LabelError if role == "label" else ColumnError
            raise kind(
                f"{path} has no {role} for {names[empty].iloc[0]!r} ({int(empty.sum())} lines in "
                f"all); fill column {column!r} or remove the lines"
            )
    columns = {role: _texts(frame[column]) for role, column in asked.items()}
    return {
        name: {role: texts[k] for role, texts in columns.items()} for k, name in enumerate(names)
    }


def _texts(column: "pd.Series") -> list[str]:
    """Return a column as text, whole numbers without a point."""
    whole = pd.api.types.is_float_dtype(column) and bool((column % 1 == 0).all())
    return [str(value).strip() for value in (column.astype("int64") if whole else column)]


def _keys(file: Path, root: Path) -> tuple[str, str, str]:
    """Return the ways in which a table may name a file."""
    return named(file, root), file.name, file.name[: -len(suffix_of(file)) or None]


def _said(table: Labels, file: Path, root: Path) -> Mapping[str, str]:
    """Return what a label table says of a file; nothing if it does not name it."""
    return next((table[key] for key in _keys(file, root) if key in table), {})


def _all_there(table: Labels, files: Iterable[Path], root: Path, source: Source) -> None:
    """Check that every file that has a label is there.

    Raises:
        LabelError: One is not.
    """
    there = {key for file in files for key in _keys(file, root)}
    gone = [name for name in table if name not in there]
    if gone and not source.skip_unreadable:
        raise LabelError(
            f"{source.labels} names {gone[0]!r} ({len(gone)} such lines in all), and there is no "
            f"such file in {root}; check column {source.file!r}, or go on without: "
            f"--skip-unreadable"
        )


def agreeing(listing: Listing, source: Source) -> tuple[int, ...]:
    """Return the shape that all rows are brought to.

    Raises:
        DataFileError: Rows are of different kinds or shapes, and the settings say nothing of it.
    """
    first = listing.rows[0]
    whats = {row.part.what: row.file for row in reversed(listing.rows)}
    if len(whats) > 1 and source.channels is None:
        (one, at), (other, there) = list(whats.items())[:2]
        raise DataFileError(
            f"{named(at, listing.root)} holds {one} and {named(there, listing.root)} {other}; "
            f"all rows must be of one kind: move the others away, or say channels in [data]"
        )
    channels, *places = first.part.shape
    channels = source.channels or channels
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


def _by(places: Sequence[int]) -> str:
    return " x ".join(map(str, places))


FILE_FORMS = frozenset(FORMS)
"""Forms whose rows are listed."""
