"""From the stored numbers of a DICOM picture to those that are seen (PS3.3, C.11 and C.7.6.3)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from scipy.special import expit

from dflmoe.errors import DataFileError

Values = NDArray[np.float64]


def in_units(stored: NDArray[Any], dataset: Dataset, at: int) -> Values:
    """Return the numbers of a frame in the units of its modality: Hounsfield units for CT."""
    if np.issubdtype(stored.dtype, np.integer):
        stored = stored.astype(np.int64)  # tables are looked up in what is stored, minus an offset
    rescaled = apply_modality_lut(
        stored, _of_frame(dataset, at, "PixelValueTransformationSequence")
    )
    return rescaled.astype(np.float64)


def padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Return which pixels the file says are none; not any if all would be."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    padded: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padded & ~padded.all()


def seen(
    values: Values,
    counts: NDArray[np.bool_],
    dataset: Dataset,
    at: int,
    *,
    file: Path,
    window: tuple[float, float] | None,
) -> Values:
    """Return numbers in 0..1, as the window says: the one given, or the file's first.

    A file without a window may have a table; where it has neither, the lowest number becomes 0 and
    the highest 1.

    Args:
        values: In the units of the modality.
        counts: Pixels that are no padding.
        dataset: The file.
        at: The frame.
        file: For people.
        window: Centre and width.

    Raises:
        DataFileError: The window of the file is none.
    """
    if window is not None:
        return _ramp(values, window[0] - window[1] / 2, window[0] + window[1] / 2)
    said = _of_frame(dataset, at, "FrameVOILUTSequence")
    centre, width = _first(said.get("WindowCenter")), _first(said.get("WindowWidth"))
    if centre is not None and width is not None:
        return _windowed(values, float(centre), float(width), said, file)
    if said.get("VOILUTSequence"):
        return _looked_up(values, said.VOILUTSequence[0], little=bool(dataset.original_encoding[1]))
    return _ramp(values, float(values[counts].min()), float(values[counts].max()))


def _windowed(values: Values, centre: float, width: float, said: Dataset, file: Path) -> Values:
    """Return numbers in 0..1 by the window of a file, C.11.2.1.2 and C.11.2.1.3.

    Raises:
        DataFileError: It is none.
    """
    function = str(said.get("VOILUTFunction") or "LINEAR").upper()
    if width < 1 if function == "LINEAR" else width <= 0:
        raise DataFileError(
            f"{file} asks for a window of width {width:g}; say another with window in [data.dicom]"
        )
    if function == "SIGMOID":
        return np.asarray(expit(4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return _ramp(values, centre - width / 2, centre + width / 2)


def _ramp(values: Values, low: float, high: float) -> Values:
    risen: Values = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return risen


def _looked_up(values: Values, table: Dataset, *, little: bool) -> Values:
    """Return numbers in 0..1 by a table, C.11.2.1.1; pydicom's wraps where it has 8 bits."""
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    data = table.LUTData
    if isinstance(data, bytes):
        length = min(len(data) // (entries or 2**16), 2)
        data = np.frombuffer(data, f"{'<' if little else '>'}u{length}")
    numbers = np.asarray(data, dtype=np.float64) / (2**bits - 1)
    place = np.clip(np.rint(values) - first, 0, len(numbers) - 1)
    found: Values = np.clip(numbers[place.astype(np.int64)], 0, 1)
    return found


def coloured(
    stored: NDArray[Any], dataset: Dataset, file: Path, *, in_fractions: bool
) -> NDArray[np.float32]:
    """Return a picture in colour, ``[channel, height, width]``.

    Args:
        stored: RGB, or places in a palette.
        dataset: The file.
        file: For people.
        in_fractions: Of the largest value, rather than as they are.

    Raises:
        DataFileError: Its palette is none that can be read.
    """
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        entries, _, bits = (int(n) for n in dataset.RedPaletteColorLookupTableDescriptor)
        stored = apply_color_lut(stored, dataset)
        if stored.dtype == np.uint8 and (entries or 2**16) > 2**8:  # pydicom would wrap
            raise DataFileError(f"{file} has a palette of too many colours; export it as RGB")
    if stored.ndim != 3 or stored.shape[2] != 3:  # noqa: PLR2004 - red, green and blue
        raise DataFileError(f"{file} has colours beside red, green and blue; export it as RGB")
    values = np.ascontiguousarray(stored.transpose(2, 0, 1), dtype=np.float32)
    return values / np.float32(2**bits - 1) if in_fractions else values


def _of_frame(dataset: Dataset, at: int, what: str) -> Dataset:
    """Return where something is said of a frame: of it alone, of all frames, or of the file."""
    groups = []
    if own := dataset.get("PerFrameFunctionalGroupsSequence"):
        groups.append(own[at])
    groups.extend(dataset.get("SharedFunctionalGroupsSequence") or [])
    said = [group.get(what) for group in groups]
    return next((found[0] for found in said if found), dataset)


def _first(value: Any) -> Any:  # noqa: ANN401 - as pydicom has it
    """Return the first of several values; none if there is none."""
    if isinstance(value, MultiValue):
        return value[0] if value else None
    return None if value in (None, "") else value
