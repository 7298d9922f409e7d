"""DICOM files, by pydicom: their headers for what there is, one frame at a time for the pixels.

Documents that lie beside images (reports, presentation states, contours, waveforms, a DICOMDIR)
hold no rows. Who the patient is keeps a patient's rows together and is told nobody.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dflmoe.data.formats import FORMS, Part, suffix_of
from dflmoe.data.formats.apart import apart
from dflmoe.data.formats.decoding import MAX_PIXELS, decoding
from dflmoe.data.formats.shades import coloured, in_units, padding, seen
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError, SettingsError

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it quotes values, which are patients'

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})

DICOM = "1.2.840.10008."
"""How numbers begin that the standard itself has given."""

HEADERS = 8
"""Headers that are kept for the next frames of their files."""


class Header(NamedTuple):
    """What a file says before its pixels.

    Attributes:
        dataset: All of it.
        syntax: How what follows is written.
        goes_on: Whether anything follows.
    """

    dataset: Dataset
    syntax: UID
    goes_on: bool


class DicomFiles:
    """DICOM files (``Format``)."""

    extent: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, source: Source) -> None:
        """Take the settings.

        Raises:
            SettingsError: They contradict each other.
        """
        self._settings, self._range = source.dicom, source.range
        if self._range is not None and self._settings.window is not None:
            raise SettingsError(
                "range in [data] and window in [data.dicom] both say what becomes -1 and 1; "
                "leave out one of them"
            )
        self._kept = lru_cache(HEADERS)(_header)

    def belongs(self, file: Path) -> bool:
        """See ``Format``."""
        if file.name.upper() == "DICOMDIR":
            return False
        if suffix_of(file) in FORMS["dicom"][2]:
            return True
        try:
            with file.open("rb") as stream:
                return stream.read(132)[128:] == b"DICM"
        except OSError:
            return False

    def parts(self, file: Path) -> Sequence[Part]:
        """See ``Format``."""
        with decoding(file, "DICOM"):
            header = self._header(file)
            if not _is_picture(header, file):
                return []
            modality = self._modality(header.dataset, file)
            shape = _shape(header, file)
            what = f"{modality} {'grey' if shape[0] == 1 else 'colour'} images".strip()
            patient = str(header.dataset.get("PatientID") or "").strip()
            frames = int(header.dataset.get("NumberOfFrames") or 1)
            if not 1 <= frames <= file.stat().st_size:
                raise DataFileError(f"{file} claims to hold {frames} frames; export it again")
            places = {"all": range(frames), "first": [0], "middle": [frames // 2]}
            return [Part(at, shape, what, patient) for at in places[self._settings.frames]]

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """See ``Format``."""
        with decoding(file, "DICOM"):
            header = self._header(file)
            dataset = header.dataset
            channels = _shape(header, file)[0]
            stored = _frame(header, file, at)
            if channels > 1:
                return coloured(stored, dataset, file, in_fractions=self._range is None)
            values = in_units(stored, dataset, at)
            if not np.isfinite(values).all():
                raise DataFileError(f"{file} holds NaN or infinite numbers; export it again")
            black, white = self._range or (0.0, 1.0)
            padded = padding(stored, dataset)
            if self._range is None:
                window = self._settings.window
                values = seen(values, ~padded, dataset, at, file=file, window=window)
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                values = black + white - values
            values[padded] = black
            return values[None].astype(np.float32)

    def _header(self, file: Path) -> Header:
        facts = file.stat()
        return self._kept(file, (facts.st_mtime_ns, facts.st_size))

    def _modality(self, dataset: Dataset, file: Path) -> str:
        """Return the modality of a file.

        Raises:
            DataFileError: The settings ask for another.
        """
        said, asked = str(dataset.get("Modality") or ""), self._settings.modality
        modality = said if said.isalnum() else ""
        if asked is not None and modality.upper() != asked.upper():
            raise DataFileError(
                f"{file} is {modality or 'of no modality'} and modality in [data.dicom] says "
                f"{asked}; move it away"
            )
        return modality


def _header(file: Path, _changed: tuple[int, int]) -> Header:
    """Return what a file says before its pixels; files without a preamble are read as well."""
    with file.open("rb") as stream:
        dataset = dcmread(stream, stop_before_pixels=True, force=True)
        goes_on = bool(stream.read(1))
    implicit, little = dataset.original_encoding
    native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = dataset.file_meta.get("TransferSyntaxUID") or (
        ImplicitVRLittleEndian if implicit else native
    )
    return Header(dataset, syntax, goes_on or syntax == DeflatedExplicitVRLittleEndian)


def _is_picture(header: Header, file: Path) -> bool:
    """Return whether a file holds pixels, and no document.

    Raises:
        DataFileError: It should and does not, or is not DICOM at all.
    """
    dataset = header.dataset
    kind = dataset.get("SOPClassUID")
    if not kind:
        raise DataFileError(f"{file} is no DICOM file; move it away")
    sized = bool(dataset.get("Rows")) and bool(dataset.get("Columns"))
    if sized and header.goes_on:
        return True
    if sized or "Image" in UID(kind).keyword:
        raise DataFileError(f"{file} is an image without pixels; export it again")
    if not UID(kind).keyword and (kind.startswith(DICOM) or not UID(kind).is_valid):
        raise DataFileError(f"{file} is of a kind that DICOM does not know; export it again")
    return False


def _shape(header: Header, file: Path) -> tuple[int, int, int]:
    """Return the shape of each frame.

    Raises:
        DataFileError: Its colours or its compression are none that can be decoded.
    """
    dataset, syntax = header.dataset, header.syntax
    height, width = int(dataset.Rows), int(dataset.Columns)
    if height * width > MAX_PIXELS:
        raise DataFileError(f"{file} claims to be of {width} x {height} pixels; export it smaller")
    colours = str(dataset.PhotometricInterpretation)
    if colours not in GREY | COLOUR:
        raise DataFileError(f"{file} has colours as {colours!r}; export it as RGB")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DataFileError(
            f"{file} is written in a way that no library here decodes ({syntax.name!r}); export "
            f"it as single pictures without compression"
        ) from error
    if not decoder.is_available:
        raise DataFileError(_needs(syntax, file))
    return (1 if colours in GREY else 3), height, width


def _needs(syntax: UID, file: Path) -> str:
    """Return what might decode a file, in a sentence; pydicom names libraries as ``x - y``."""
    lacking = get_decoder(syntax).missing_dependencies
    wanted = " or ".join(one.partition(" requires ")[2] for one in lacking)
    return (
        f"{file} is damaged, or compressed as {syntax.name} in a way that takes another library; "
        f"export it again without compression, or install {wanted}"
    )


def _frame(header: Header, file: Path, at: int) -> NDArray[Any]:
    """Return the stored numbers of one frame, colours as RGB.

    Raises:
        DataFileError: It is damaged, or a library is missing that would decode it.
    """
    syntax = header.syntax
    if syntax == DeflatedExplicitVRLittleEndian:
        return pixel_array(dcmread(file), index=at)
    if not syntax.is_compressed:
        return pixel_array(file, index=at, transfer_syntax_uid=syntax)
    try:
        said, numbers = apart.decoded(file, at, syntax=syntax)
    except RuntimeError as error:
        if get_decoder(syntax).missing_dependencies:
            raise DataFileError(_needs(syntax, file)) from error
        raise
    return np.frombuffer(numbers, said["dtype"]).reshape(said["shape"])
