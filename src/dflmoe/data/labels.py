"""Tables of labels: which line speaks of which file."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dflmoe.data.formats import suffix_of
from dflmoe.data.source import Source
from dflmoe.data.tables import read_frame
from dflmoe.errors import ColumnError, LabelError

WHOLE = re.compile(r"^(-?\d+)\.0+$")
"""A whole number as programs write it that know no other numbers than fractions."""

Line = Mapping[str, str]
"""What a line says: ``label``, and if asked ``patient`` and ``site``."""


def labels_of(source: Source, files: Sequence[Path], root: Path) -> dict[Path, Line]:
    """Return the line of each file that the table of labels speaks of.

    A line names a file by its path within the folder, by its name, or by its name without ending.

    Args:
        source: Says where the table is and what its columns are.
        files: That there are.
        root: The folder that they are in.

    Raises:
        DataFileError: The table cannot be read.
        ColumnError: A column is missing or has gaps, or it is not clear which line or file counts.
        LabelError: A label is missing, or there is no such file.
    """
    lines = _lines(source)
    by_name = _by_name(files, root)
    gone = [name for name in lines if name not in by_name]
    if gone and not source.skip_unreadable:
        raise LabelError(
            f"{source.labels} names {gone[0]!r} ({len(gone)} such lines in all), and there is no "
            f"such file in {root}; check column {source.file!r}, or go on without: "
            f"--skip-unreadable"
        )
    found: dict[Path, str] = {}
    for name in lines:
        meant = by_name.get(name, [])
        if len(meant) > 1:
            one, other = (file.relative_to(root).as_posix() for file in meant[:2])
            raise ColumnError(
                f"{source.labels} names {name!r}, which may be {one} or {other}; write which"
            )
        for file in meant:
            if file in found:
                raise ColumnError(
                    f"{source.labels} names one file twice, as {found[file]!r} and as {name!r}; "
                    f"leave one line of it"
                )
            found[file] = name
    return {file: lines[name] for file, name in found.items()}


def _by_name(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Return what a name may mean; where it is the whole path of a file, nothing else."""
    names: dict[str, list[Path]] = {}
    for told in (
        [file.relative_to(root).as_posix() for file in files],
        [file.name for file in files],
        [file.name[: -len(suffix_of(file)) or None] for file in files],
    ):
        found: dict[str, list[Path]] = {}
        for name, file in zip(told, files, strict=True):
            found.setdefault(_plain(name), []).append(file)
        names = found | names
    return names


def _plain(name: str) -> str:
    """Return a name in one spelling; systems differ in how they write letters with marks."""
    return unicodedata.normalize("NFC", name)


def _lines(source: Source) -> dict[str, Line]:
    """Return the lines of a table of labels by what they name.

    Raises:
        DataFileError: It cannot be read.
        ColumnError: A column is missing or has gaps, or a name stands twice.
        LabelError: A label is missing.
    """
    path = Path(source.labels or "")
    frame = read_frame(path, as_text=True)
    roles = {"file": source.file, "label": source.label}
    roles |= {"patient": source.patient} if source.patient else {}
    roles |= {"site": source.site} if source.site else {}
    for column in roles.values():
        if column not in frame.columns:
            raise ColumnError(
                f"{path} has no column {column!r}; it has {', '.join(map(str, frame.columns[:12]))}"
            )
    said = {role: _texts(frame[column]) for role, column in roles.items()}
    names = [_plain(name.replace("\\", "/").removeprefix("./")) for name in said.pop("file")]
    for role, texts in {"file": names, **said}.items():
        gaps = [names[k] for k, text in enumerate(texts) if not text]
        if gaps:
            kind = LabelError if role == "label" else ColumnError
            raise kind(
                f"{path} has no {role} for {gaps[0]!r} ({len(gaps)} lines in all); fill column "
                f"{roles[role]!r} or remove the lines"
            )
    lines: dict[str, Line] = {
        name: {role: said[role][k] for role in said} for k, name in enumerate(names)
    }
    if len(lines) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise ColumnError(f"{path} names {twice!r} twice; leave one line of it")
    return lines


def _texts(column: "pd.Series") -> list[str]:
    """Return a column as text, whole numbers without a point, and what is missing as nothing."""
    missing = column.isna()
    return [
        "" if gap else WHOLE.sub(r"\1", str(value).strip())
        for value, gap in zip(column, missing, strict=True)
    ]
