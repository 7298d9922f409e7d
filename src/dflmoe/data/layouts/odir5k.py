"""ODIR-5K: photographs of both eyes of 5,000 people, and what doctors said of each eye."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dflmoe.data.layouts.files import SIDE, folder_of, pictures_in, pixels, scaled
from dflmoe.data.rows import Rows, coded
from dflmoe.errors import DataFileError

EYES = {
    "N": "normal",
    "D": "diabetes",
    "G": "glaucoma",
    "C": "cataract",
    "A": "macular degeneration",
    "H": "hypertension",
    "M": "myopia",
    "O": "other",
}
"""The letters that ODIR-5K names what an eye shows by."""

KEYWORDS = {
    "normal fundus": "N",
    "diabetic retinopathy": "D",
    "proliferative retinopathy": "D",
    "glaucoma": "G",
    "cataract": "C",
    "macular degeneration": "A",
    "hypertensive retinopathy": "H",
    "myopi": "M",
}
"""The letter of a keyword that has one of these in it; all others are of other diseases."""

QUALITY = frozenset(
    {
        "lens dust",
        "optic disk photographically invisible",
        "low image quality",
        "image offset",
    }
)
"""Keywords that say something of the picture and nothing of the eye."""

COMMA = re.compile("[,\N{FULLWIDTH COMMA}]")
"""What keywords are divided by."""

NO_FUNDUS = frozenset({"anterior segment image", "no fundus image"})
"""Keywords of pictures that do not show what the others show."""

PER_EYE = "full_df.csv"
"""A table that others ship with the set: one line an eye."""

PER_PATIENT = ("data.csv", "ODIR-5K_Training_Annotations(Updated)_V2.csv")
"""The publisher's spreadsheet, saved as CSV: one line a patient."""

KEYS = "Diagnostic Keywords"
"""What the columns with keywords are called, after the side of the eye."""


class Eye(NamedTuple):
    """A picture of an eye.

    Attributes:
        patient: Whose it is.
        letters: What it shows.
        file: The name of the picture.
    """

    patient: str
    letters: str
    file: str


def odir5k(root: Path | None, side: int | None) -> Rows:
    """Return ODIR-5K: what an eye shows, one of eight, by patient; eyes of one label only.

    Raises:
        DataFileError: There is no table, or it has no such columns or no rows, or a picture is
            missing or cannot be read.
        MissingExtraError: Pillow is not installed.

    References:
        Peking University International Competition on Ocular Disease Intelligent Recognition, 2019;
        Li et al., A Benchmark of Ocular Disease Intelligent Recognition, 2021.
    """
    folder = folder_of(root, "odir5k")
    table, eyes = _eyes(folder)
    clear = [eye for eye in eyes if len(eye.letters) == 1]
    lie = {file.name: file for file in pictures_in(folder)}
    gone = [eye.file for eye in clear if eye.file not in lie]
    if gone or not clear:
        raise DataFileError(
            f"{folder} lacks {len(gone)} of the {len(clear)} pictures that {table.name} names"
            f"{f', {gone[0]} first' if gone else ''}; unpack the archive as it is, whole"
        )
    y = np.array([list(EYES).index(eye.letters) for eye in clear], dtype=np.int64)
    group = coded(np.array([eye.patient for eye in clear]))
    x = scaled(pixels([lie[eye.file] for eye in clear], side or SIDE))
    left_out = len(eyes) - len(clear)
    by = f"patient; {left_out} of {len(eyes)} eyes, without one clear label, are left out"
    return Rows("odir5k", "image", x, y, group, by, tuple(EYES.values()))


def _eyes(folder: Path) -> tuple[Path, list[Eye]]:
    """Return a table of the set, and all eyes that it names.

    Raises:
        DataFileError: There is none that can be read.
    """
    for name in (PER_EYE, *PER_PATIENT):
        for table in sorted(folder.rglob(name)):
            return table, _of_eyes(table) if name == PER_EYE else _of_patients(table)
    for sheet in sorted(folder.rglob("*.xlsx")):
        raise DataFileError(
            f"{sheet} is a spreadsheet; save it as {folder / PER_PATIENT[0]}, a CSV in UTF-8 with "
            f"the same columns"
        )
    raise DataFileError(
        f"{folder} has no {PER_EYE} or {PER_PATIENT[0]}, which name each eye's patient and label"
    )


def _of_eyes(table: Path) -> list[Eye]:
    lines = _lines(table, ("ID", "labels", "filename"))
    return [
        Eye(line["ID"], re.sub(f"[^{''.join(EYES)}]", "", line["labels"]), line["filename"])
        for line in lines
    ]


def _of_patients(table: Path) -> list[Eye]:
    columns = [f"{side}-{what}" for side in ("Left", "Right") for what in ("Fundus", KEYS)]
    eyes = []
    for line in _lines(table, ("ID", *columns, *EYES)):
        known = {letter for letter in EYES if line[letter].strip() == "1"}
        eyes += [
            Eye(line["ID"], letters_of(line[f"{side}-{KEYS}"], known), line[f"{side}-Fundus"])
            for side in ("Left", "Right")
        ]
    return eyes


def letters_of(keywords: str, known: Collection[str]) -> str:
    """Return what an eye shows by its keywords; nothing if they do not say it.

    The set has letters for patients and keywords for eyes, so an eye has the letters of its
    keywords, if its patient has them too. One eye may be normal while the other is not.

    Args:
        keywords: Of the eye, between commas, ASCII or Chinese.
        known: The letters of its patient.
    """
    words = {word.strip().lower() for word in COMMA.split(keywords)} - QUALITY - {""}
    found = {
        next((letter for text, letter in KEYWORDS.items() if text in word), "O") for word in words
    }
    if words & NO_FUNDUS or not found - {"N"} <= set(known):
        return ""
    return "".join(letter for letter in EYES if letter in found)


def _lines(table: Path, columns: Collection[str]) -> Sequence[Mapping[str, str]]:
    """Return the lines of a table by column.

    Raises:
        DataFileError: It is no CSV, has no lines, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.DictReader(stream, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{table} cannot be read as CSV in UTF-8; save it anew") from error
    if not lines:
        raise DataFileError(f"{table} has no rows; copy it again, whole")
    for name in columns:
        if name not in lines[0]:
            raise DataFileError(f"{table} has no column {name!r}; take the table as it is shipped")
    return lines
