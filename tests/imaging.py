"""Pictures on a disk, made up, for tests."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dflmoe.data.formats import Format

SIDES = (6, 8)
"""Height and width of made up pictures."""


def ramp(top: int = 255, sides: tuple[int, int] = SIDES) -> NDArray[np.int64]:
    """Return a picture that rises from 0 to ``top``, row by row."""
    return np.linspace(0, top, sides[0] * sides[1]).round().astype(np.int64).reshape(sides)


def grey(values: ArrayLike | None = None) -> Image.Image:
    """Return a grey picture of 8 bits."""
    return Image.fromarray(np.asarray(ramp() if values is None else values, dtype=np.uint8))


def colour() -> Image.Image:
    """Return a picture whose red rises and whose blue falls."""
    rises = ramp().astype(np.uint8)
    return Image.fromarray(np.stack([rises, rises // 2, 255 - rises], axis=2))


def class_folders(root: Path, of_each: int = 3, classes: tuple[str, ...] = ("ill", "well")) -> Path:
    """Return a folder with a folder of pictures for each class; no two are alike."""
    for k, name in enumerate(classes):
        for number in range(of_each):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            grey(np.roll(ramp() // (k + 1), number)).save(file)
    return root


def dicom(file: Path, pixels: ArrayLike | None = None, **elements: object) -> Path:
    """Return a DICOM file: a CT of 16 bits, or whatever else the elements say.

    Args:
        file: Where to write it.
        pixels: ``[row, column]``, or with a leading frame or a trailing colour; none for a
            document.
        elements: Of the data set, by keyword; ``None`` leaves one out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = elements.pop("SOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1")
    dataset.Modality, dataset.PatientID = "CT", "P-1"
    if pixels is not None:
        describe(dataset, np.asarray(pixels))
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)
    return file


def describe(dataset: Dataset, pixels: NDArray[np.generic]) -> None:
    """Write pixels into a data set, and what they are."""
    coloured = pixels.shape[-1] == 3 and pixels.ndim > 2
    places = pixels.shape[:-1] if coloured else pixels.shape
    dataset.Rows, dataset.Columns = places[-2:]
    if len(places) > 2:
        dataset.NumberOfFrames = places[0]
    dataset.SamplesPerPixel = 3 if coloured else 1
    dataset.PhotometricInterpretation = "RGB" if coloured else "MONOCHROME2"
    if coloured:
        dataset.PlanarConfiguration = 0
    kind = np.uint8 if coloured else np.int16
    bits = 8 * np.dtype(kind).itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(kind is np.int16)
    dataset.PixelData = pixels.astype(kind).tobytes()


def damaged(data: bytes, place: float, change: int | None) -> bytes:
    """Return a file cut off at a place, 0 to 1, or with the byte there changed."""
    at = int(place * (len(data) - 1))
    if change is None:
        return data[:at]
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def encoded(picture: Image.Image, kind: str, **how: object) -> bytes:
    """Return a picture as the bytes of a file."""
    stream = BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


def read_whole(format_: Format, file: Path) -> list[NDArray[np.float32]]:
    """Return every row of a file; each is of the shape that its header promised."""
    found = []
    for part in format_.parts(file):
        found.append(format_.read(file, part.at))
        assert found[-1].shape == part.shape
        assert found[-1].dtype == np.float32
    return found


Make = Callable[[Path], Path]
"""Makes a file in a folder."""
