"""NIfTI volumes, turned to the nearest axes of right, anterior and superior.

A slice is shown as people look at it: the head, or in axial slices the front, is up, and the
patient's right, or in sagittal slices the front, is left. So do DICOM files of the same slices.

Numbers of magnetic resonance have no unit. Each volume is scaled by the 1st and the 99.5th
percentile of its voxels that are not zero, unless ``range`` says which values become -1 and 1: say
it for CT. NIfTI files name no patient; names as of BIDS (``sub-...``) do.
"""

import gzip
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.imageglobals import logger as loud
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from dflmoe.data.formats import FORMS, Part, suffix_of
from dflmoe.data.formats.decoding import decoding
from dflmoe.data.formats.subjects import bids_subject
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError, SettingsError

loud.setLevel("CRITICAL")  # it writes to the terminal what it thinks of headers

PERCENTILES = (1, 99.5)
"""Of the voxels that are not zero; they become -1 and 1."""

LOOKED_AT = 2**22
"""Voxels that percentiles are found from at most: those of every k-th slice of a larger volume."""

PACKED = 1032
"""Times that gzip can make anything smaller at most."""

SPACE = 3
"""Axes of a volume."""

KIND = "a NIfTI volume"


class Volume(NamedTuple):
    """A volume, before its voxels are read.

    Attributes:
        voxels: In the order of the file.
        turn: How to turn its axes (``nibabel.orientations``).
        shape: Once they are turned.
    """

    voxels: ArrayProxy
    turn: NDArray[np.float64]
    shape: tuple[int, ...]

    def read(self, *cut: slice) -> NDArray[np.generic]:
        """Return some voxels in the order of the file, by a slice along each axis."""
        beyond = (0,) * (self.voxels.ndim - SPACE)
        return np.asarray(self.voxels[(*cut, *beyond)])

    def shown(self, axis: int, at: int | None) -> NDArray[np.float32]:
        """Return one slice along a turned axis, or all, ``[slice, height, width]``."""
        cut = [slice(None)] * SPACE
        if at is not None:
            stored = self.turn[:, 0].tolist().index(axis)
            place = at if self.turn[stored, 1] > 0 else self.shape[axis] - 1 - at
            cut[stored] = slice(place, place + 1)
        turned = np.moveaxis(apply_orientation(self.read(*cut), self.turn), axis, 0)
        return np.asarray(turned[:, ::-1, ::-1].swapaxes(1, 2), dtype=np.float32)


class NiftiVolumes:
    """See ``Format``."""

    def __init__(self, source: Source) -> None:
        """Take the settings.

        Raises:
            SettingsError: Slices are to be channels, and something else as well.
        """
        self._source, self._nifti = source, source.nifti
        if self._nifti.slices == "volume" and source.channels is not None:
            raise SettingsError(
                'with slices = "volume" in [data.nifti] the slices are the channels; '
                "leave out channels in [data]"
            )
        mask = self._nifti.mask
        self.extent: tuple[float, float] | None = (0, 1) if mask is None else (min(mask), max(mask))
        self._last: tuple[Path, Volume] | None = None
        self._windows: dict[Path, tuple[float, float]] = {}
        self._known: set[Path] = set()

    def belongs(self, file: Path) -> bool:
        """See ``Format``."""
        return suffix_of(file) in FORMS["nifti"][2]

    def parts(self, file: Path) -> Sequence[Part]:
        """See ``Format``."""
        with decoding(file, KIND):
            shape = opened(file).shape
        patient = bids_subject(file, self._source.where)
        axis = self._nifti.axis
        width, height = (side for k, side in enumerate(shape) if k != axis)
        what = "volumes" if self._nifti.mask is None else "masks"
        if self._nifti.slices == "volume":
            what = f"{what} of {shape[axis]} slices"
            return [Part(0, (shape[axis], height, width), what, patient)]
        middle = self._nifti.slices == "middle"
        places = [shape[axis] // 2] if middle else range(shape[axis])
        return [Part(at, (1, height, width), f"slices of {what}", patient) for at in places]

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """Return one row, in 0..1; as it is in the file, if the settings say a range or a mask."""
        with decoding(file, KIND):
            volume = self._volume(file)
            whole = self._nifti.slices == "volume"
            values = volume.shown(self._nifti.axis, None if whole else at)
            if self._nifti.mask is not None:
                self._must_know(file, volume, self._nifti.mask)
            elif self._source.range is None:
                low, high = self._window(file, volume)
                values = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
            return values

    def _volume(self, file: Path) -> Volume:
        """Return a volume; the last one is kept, as its next slice is often asked for."""
        last = self._last
        if last is not None and last[0] == file:
            return last[1]
        volume = opened(file, 2**20 * self._source.memory_mb)
        self._last = file, volume
        return volume

    def _window(self, file: Path, volume: Volume) -> tuple[float, float]:
        """Return the percentiles that a volume is scaled by.

        Raises:
            DataFileError: All its voxels are zero.
        """
        if file not in self._windows:
            step = math.ceil(math.prod(volume.voxels.shape) / LOOKED_AT)
            some = volume.read(slice(None), slice(None), slice(None, None, step))
            some = some[np.isfinite(some) & (some != 0)]
            if not some.size:
                raise DataFileError(
                    f"{file} is empty, all of its voxels are zero; export it again or move it away"
                )
            low, high = np.percentile(some, PERCENTILES)
            self._windows[file] = float(low), float(high)
        return self._windows[file]

    def _must_know(self, file: Path, volume: Volume, values: tuple[int, ...]) -> None:
        """Check once that a whole mask holds nothing but what it may.

        Raises:
            DataFileError: It does.
        """
        if file in self._known:
            return
        voxels = volume.read(*[slice(None)] * SPACE)
        other = voxels[~np.isin(voxels, values)]
        if other.size:
            raise DataFileError(
                f"{file} holds {other[0]:g}, which is none of the values of a mask "
                f"({', '.join(map(str, values))}); mend it, or mask in [data.nifti]"
            )
        self._known.add(file)


def opened(file: Path, unpacked: int = 0) -> Volume:
    """Return a volume of which nothing but the header has been read.

    Args:
        file: Where it is.
        unpacked: Bytes that a packed volume may have to be held unpacked in memory; a larger one is
            unpacked anew for each slice.

    Raises:
        DataFileError: It is no volume of numbers in space, or the file ends too early.
    """
    image = nibabel.load(file, mmap=False)  # a mapped file whose disk has gone ends the process
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataFileError(f"{file} is no NIfTI volume; convert it, or move it away")
    voxels: Any = image.dataobj  # nibabel's protocol of it knows no offset
    if voxels.dtype.kind not in "iuf" or len(voxels.shape) < SPACE or not all(voxels.shape):
        raise DataFileError(
            f"{file} holds {voxels.dtype} of shape {_by(voxels.shape)}, and a volume has numbers "
            f"along three axes; convert it, or move it away"
        )
    if any(side > 1 for side in voxels.shape[SPACE:]):
        raise DataFileError(
            f"{file} is of shape {_by(voxels.shape)}, which is more than one volume, of several "
            f"times or kinds; export the one that is meant"
        )
    packed = suffix_of(file) == ".nii.gz"
    size = voxels.offset + math.prod(voxels.shape) * voxels.dtype.itemsize
    if size > file.stat().st_size * (PACKED if packed else 1):
        raise DataFileError(f"{file} ends before its voxels do; copy or export it again")
    if packed and size <= unpacked:
        with gzip.open(file) as stream:
            data = BytesIO(stream.read(size))
            stream.read(1)  # at its end gzip compares what it has read with a sum of it
        about = voxels.shape, voxels.dtype, voxels.offset, voxels.slope, voxels.inter
        voxels = ArrayProxy(data, about)
    turn = io_orientation(image.affine)
    if np.isnan(turn).any():
        raise DataFileError(f"{file} does not say where right and front are; export it again")
    shape = [0] * SPACE
    for side, axis in zip(voxels.shape, turn[:, 0], strict=False):
        shape[int(axis)] = side
    return Volume(voxels, turn, tuple(shape))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
