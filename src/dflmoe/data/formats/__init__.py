"""What files of medical data hold, one format a module, each behind the same two questions.

``parts`` asks what rows a file holds and reads no more than its header; ``read`` decodes one row.
Neither writes anything, and what a file cannot answer is a ``DataFileError`` with its name.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.source import Form, Source
from dflmoe.errors import DataFileError, MissingExtraError


class Part(NamedTuple):
    """One row of a file: a picture, a frame, a slice, an epoch.

    Attributes:
        at: Its place in the file, 0 for the only one.
        shape: Of the row, ``[channel, height, width]`` or ``[channel, time]``.
        what: What all rows of one data set must be, in words: ``grey images``, ``CT``.
        patient: Whose it is, as the file says; empty if it does not.
        label: What it shows, as the file says; empty if it does not.
    """

    at: int
    shape: tuple[int, ...]
    what: str
    patient: str = ""
    label: str = ""


class Format(Protocol):
    """A format of files; made with the settings of a source."""

    extent: tuple[float, float] | None
    """Values that become -1 and 1; each row's own if none."""

    def belongs(self, file: Path) -> bool:
        """Return whether a file, by its name or first bytes, is meant to be read."""
        ...

    def parts(self, file: Path) -> Sequence[Part]:
        """Return the rows of a file in order; none if it holds only what belongs to another file.

        Raises:
            DataFileError: The file is damaged, or is not what the settings say.
        """
        ...

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """Return one row of a file, ``[channel, ...]``, in its own units.

        Raises:
            DataFileError: The row cannot be decoded.
        """
        ...


FORMS: dict[Form, tuple[str, str, frozenset[str]]] = {
    "images": ("images", "Images", frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})),
    "dicom": ("dicom", "DicomFiles", frozenset({".dcm", ".dicom", ".ima"})),
    "nifti": ("nifti", "NiftiVolumes", frozenset({".nii", ".nii.gz"})),
    "edf": ("edf", "EdfRecordings", frozenset({".edf"})),
}
"""Module and class of each format that is made of files, and the endings of their names."""

SUFFIXES: dict[str, Form] = {".csv": "table", ".parquet": "table", ".pq": "table", ".npz": "arrays"}
SUFFIXES |= {suffix: form for form, (_, _, suffixes) in FORMS.items() for suffix in suffixes}


def suffix_of(file: Path) -> str:
    """Return the ending of a file's name in small letters; a packed file has two."""
    name = file.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def form_of(source: Source) -> Form:
    """Return what files a source is made of.

    Raises:
        DataFileError: There is no such file or folder, or it holds several kinds or none.
    """
    if source.form is not None:
        return source.form
    if source.database:
        return "table"
    where = source.where
    if where.is_file() and suffix_of(where) in SUFFIXES:
        return SUFFIXES[suffix_of(where)]
    if not where.exists():
        raise DataFileError(f"{where} is not there; check path in [data]")
    files = [where] if where.is_file() else files_in(where)
    found = {form for one in files if (form := _guessed(one)) in FORMS}
    if len(found) != 1:
        kinds = f"holds {' and '.join(sorted(map(str, found)))}" if found else "holds no data files"
        raise DataFileError(
            f"{where} {kinds}; say which to read with form in [data]: images, dicom, nifti or edf"
        )
    return found.pop()


def _guessed(file: Path) -> Form | None:
    """Return the form of a file from its name, or from its first bytes where it has no ending."""
    if not file.suffix or file.suffix[1:].isdigit():  # DICOM exports name files by their UID
        try:
            with file.open("rb") as stream:
                return "dicom" if stream.read(132)[128:] == b"DICM" else None
        except OSError:
            return None
    return SUFFIXES.get(suffix_of(file))


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder in the order of their names; hidden ones are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def format_of(source: Source) -> Format:
    """Return what reads the files of a source.

    Raises:
        MissingExtraError: The library for it is not installed.
        DataFileError: It cannot be found out what the files are.
    """
    form = form_of(source)
    module, name, _ = FORMS[form]
    try:
        made: Format = getattr(import_module(f"dflmoe.data.formats.{module}"), name)(source)
    except ImportError as error:
        raise MissingExtraError(
            f"{form} files need {error.name}; install it with: pip install 'dflmoe[{form}]'"
        ) from error
    return made
