"""Rows of files, decoded when they are needed and brought to one shape and range."""

import hashlib
import logging
import math
import threading
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.data.listing import Listing, Step, agreeing
from dflmoe.data.source import Source, Transform
from dflmoe.errors import DataFileError, MissingExtraError, OutputError, SettingsError

logger = logging.getLogger(__name__)

THUMBNAIL = 16
"""Pixels a side of what stands for an image where all are looked at at once."""


class Reads:
    """The rows of a listing by their numbers, decoded whenever they are asked for.

    Attributes:
        listing: Which rows there are.
        source: What is made of them.
        shape: Of each row, ``[channel, height, width]`` or ``[channel, time]``.
    """

    def __init__(self, listing: Listing, source: Source) -> None:
        """Look at what the rows will be; none is decoded yet.

        Raises:
            DataFileError: Rows are of different kinds or shapes.
            SettingsError: A transform is unknown, or draws by chance.
            MissingExtraError: Transforms need a library that is not installed.
        """
        self.listing, self.source = listing, source
        self.shape = agreeing(listing, source)
        self._transforms = [(one.name, made(one)) for one in source.transforms]
        self._lock = threading.Lock()
        self._features: dict[str, tuple[Tensor, Tensor] | None] = {}
        self._small: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.listing.rows)

    @property
    def streams(self) -> bool:
        """Whether all rows would take more memory than the settings allow."""
        return 4 * len(self) * math.prod(self.shape) > self.source.memory_mb * 2**20

    def row(self, number: int) -> NDArray[np.float32]:
        """Return one row, in -1..1.

        Raises:
            DataFileError: It cannot be decoded, or holds numbers that are not finite.
            SettingsError: A transform cannot be used on it.
        """
        one = self.listing.rows[number]
        values = self.listing.format.read(one.file, one.part.at)
        for name, transform in self._transforms:
            try:
                values = np.asarray(transform(values), dtype=np.float32)
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                raise SettingsError(
                    f"transform {name} cannot be used on {self.listing.named(number)}: {error}; "
                    f"mend transforms in [data]"
                ) from error
        if not np.isfinite(values).all():
            raise DataFileError(f"{self.listing.named(number)} holds NaN or infinite numbers")
        values = with_channels(values, self.shape[0])
        extent = self.source.range or self.listing.format.extent
        low, high = extent or (float(values.min()), float(values.max()))
        scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 2 - 1
        return resized(scaled.astype(np.float32), self.shape[1:])

    def __call__(self, numbers: Tensor) -> Tensor:
        """Return some rows, ``[row, *shape]``.

        A row that could be read when all were looked at and cannot be any more, as its disk has
        gone, is stood for by its small picture: one file never ends a run that has begun.
        """
        return torch.from_numpy(np.stack([self._row_or_small(k) for k in numbers.tolist()]))

    def _row_or_small(self, number: int) -> NDArray[np.float32]:
        try:
            return self.row(number)
        except DataFileError as error:
            if self._small is None:
                raise
            logger.warning("%s; its small picture stands for it", error)
            return resized(self._small[number], self.shape[1:])

    def looked_at(self, step: Step) -> tuple["Reads", NDArray[np.float32]]:
        """Decode every row once.

        Args:
            step: Told how far it is.

        Returns:
            The rows that can be read, and what there is of them in memory: all, or where that
            would be too much no more than ``THUMBNAIL`` places a side.

        Raises:
            DataFileError: A row cannot be read, and none may be left out.
        """
        streams = self.streams
        shape = (self.shape[0], *small_places(self.shape[1:])) if streams else self.shape
        values = np.empty((len(self), *shape), dtype=np.float32)
        left_out: dict[int, str] = {}
        for number in range(len(self)):
            step(number, len(self))
            try:
                row = self.row(number)
            except DataFileError as error:
                if not self.source.skip_unreadable:
                    raise DataFileError(f"{error}; or go on without: --skip-unreadable") from error
                left_out[number] = str(error)
                continue
            values[number] = shrunk(row) if streams else row
        step(len(self), len(self))
        good = [number for number in range(len(self)) if number not in left_out]
        if not good:
            raise DataFileError(f"no row of {self.source.path} can be decoded; export them again")
        names = {self.listing.named(number): why for number, why in left_out.items()}
        kept = Reads(self.listing.only(good, names), self.source)
        values = values if len(good) == len(self) else values[good]
        if streams:
            kept._small = values
        return kept, values

    def keep(self, made_by: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """See ``core.streaming.Rows``: in memory, or in the cache where one is named."""
        with self._lock:
            if made_by not in self._features:
                self._features[made_by] = self._room(made_by, shape)
            return self._features[made_by]

    def _room(self, made_by: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        whole = (len(self), *shape)
        if self.source.cache is not None:
            return self._cached(f"features-{made_by}", whole)
        if 4 * math.prod(whole) > self.source.memory_mb * 2**20:
            return None
        return torch.zeros(whole), torch.zeros(len(self), dtype=torch.bool)

    def _cached(self, what: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return arrays in the cache, of these very files read in this very way."""
        if self.source.cache is None:
            raise ValueError("no cache is named")
        where = self.source.cache / self.key / what
        return on_disk(where, shape, np.float32), on_disk(
            where.with_name(f"{what}.there"), shape[:1], np.bool_
        )

    @cached_property
    def key(self) -> str:
        """What these rows are known by: the contents of the files, and what is made of them."""
        made = {"form", "size", "channels", "range", "transforms", "dicom", "nifti", "edf"}
        digest = hashlib.sha256(self.source.model_dump_json(include=made).encode())
        digest.update(repr(self.shape).encode())
        hashed: dict[Path, bytes] = {}
        for row in self.listing.rows:
            if row.file not in hashed:
                with row.file.open("rb") as stream:
                    hashed[row.file] = hashlib.file_digest(stream, "sha256").digest()
            digest.update(hashed[row.file] + row.part.at.to_bytes(8))
        return digest.hexdigest()[:32]


def on_disk(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Return an array that lives in a file, made of zeros if it is not there.

    Raises:
        OutputError: It cannot be made.
    """
    path = path.with_name(f"{path.name}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
        return torch.from_numpy(
            np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        )
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be kept: {error}; name another cache") from error


def small_places(places: tuple[int, ...]) -> tuple[int, ...]:
    """Return how large a small picture is."""
    return tuple(min(THUMBNAIL, side) for side in places)


def shrunk(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a row ``[channel, *place]`` with areas averaged, at most ``THUMBNAIL`` a side."""
    whole = torch.from_numpy(row)[None]
    places = small_places(row.shape[1:])
    if len(places) == 1:
        small = F.adaptive_avg_pool1d(whole, places[0])
    else:
        small = F.adaptive_avg_pool2d(whole, (places[0], places[1]))
    return np.asarray(small[0].numpy())


def resized(values: NDArray[np.float32], places: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a row ``[channel, *place]`` at another size: areas averaged, or interpolated."""
    if values.shape[1:] == places:
        return np.ascontiguousarray(values)
    mode = "bilinear" if len(places) == 2 else "linear"  # noqa: PLR2004 - height and width
    smooth = any(new < old for new, old in zip(places, values.shape[1:], strict=True))
    row = torch.from_numpy(np.ascontiguousarray(values))[None]
    antialias = {"antialias": smooth} if mode == "bilinear" else {}
    out = F.interpolate(row, size=places, mode=mode, align_corners=False, **antialias)[0]
    return np.asarray(out.numpy(), dtype=np.float32)


def with_channels(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return a row with as many channels: grey is repeated, colour is weighed as eyes do."""
    if len(values) == channels:
        return values
    if len(values) == 1:
        return np.repeat(values, channels, axis=0)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.tensordot(weights, values[:3], axes=1)[None]


def made(transform: Transform) -> Any:  # noqa: ANN401 - MONAI's transforms share no type
    """Return a transform of MONAI.

    Raises:
        SettingsError: There is none of this name, its arguments do not fit, or it draws by chance.
        MissingExtraError: MONAI is not installed.
    """
    try:
        transforms = import_module("monai.transforms")
    except ImportError as error:
        raise MissingExtraError(
            f"transforms need {error.name}; install it with: pip install 'dflmoe[transforms]'"
        ) from error
    kind: Any = getattr(transforms, transform.name, None)
    array = isinstance(kind, type) and issubclass(kind, transforms.Transform)
    if not array or issubclass(kind, transforms.MapTransform | transforms.Randomizable):
        raise SettingsError(
            f"transform {transform.name!r} is no array transform of MONAI without chance; "
            f"choose another or leave it out"
        )
    try:
        return kind(**(transform.model_extra or {}))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"transform {transform.name} does not take that: {error}") from error
