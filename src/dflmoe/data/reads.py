"""Rows of files, decoded when they are needed and brought to one shape and range."""

import hashlib
import logging
import math
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.streaming import AT_ONCE, Make
from dflmoe.data.kept import InMemory, Kept, OnDisk
from dflmoe.data.listing import Listing, Step, agreeing
from dflmoe.data.shaping import resized, shrunk, small_places, with_channels
from dflmoe.data.source import READ_BY, Source
from dflmoe.data.transforms import Transforms
from dflmoe.errors import DataFileError, DflmoeError, OutputError

logger = logging.getLogger(__name__)

Seen = NDArray[np.float32]


class Reads:
    """The rows of a listing by their numbers (``core.streaming.Rows``).

    Rows are decoded whenever they are asked for, unless they are in memory or in the cache.

    Attributes:
        listing: Which rows there are.
        source: What is made of them.
        shape: Of each row, ``[channel, height, width]`` or ``[channel, time]``.
        streams: Whether all rows would take more memory than the settings allow.
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
        self.streams = not self._fits((len(self), *self.shape))
        self._transforms = Transforms(source)
        self._lock = threading.Lock()
        self._features: dict[str, Kept | None] = {}
        self._decoded: tuple[Kept, list[int]] | None = None
        self._seen: Seen | None = None
        self._stood_for: set[int] = set()

    def __getstate__(self) -> dict[str, object]:
        """Return what goes to another process: all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take it up there."""
        vars(self).update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.listing.rows)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return 4 * math.prod(shape) <= self.source.memory_mb * 2**20

    def row(self, number: int) -> Seen:
        """Return one row, in -1..1, decoded from its file.

        Raises:
            DataFileError: It cannot be decoded, or holds numbers that are not finite.
            SettingsError: A transform cannot be used on it.
        """
        one, name = self.listing.rows[number], self.listing.named(number)
        values = self.listing.format.read(one.file, one.part.at)
        if values.shape != one.part.shape:
            raise DataFileError(f"{name} is not of the size that its header says; export it again")
        values = self._transforms(values, name)
        if not np.isfinite(values).all():
            raise DataFileError(f"{name} holds NaN or infinite numbers; export it again")
        try:
            values = with_channels(values, self.shape[0])
        except ValueError as error:
            raise DataFileError(f"{name} does not fit: {error}; mend channels in [data]") from error
        extent = self.source.range or self.listing.format.extent
        low, high = extent or (float(values.min()), float(values.max()))
        scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 2 - 1
        return resized(scaled.astype(np.float32), self.shape[1:])

    def __call__(self, numbers: Tensor) -> Tensor:
        """Return some rows, ``[row, *shape]``.

        A row that could be read when all were looked at and cannot be any more, as its disk has
        gone, is stood for by its small picture: one file never ends a run that has begun.
        """
        rows = np.empty((len(numbers), *self.shape), dtype=np.float32)
        for place, number in enumerate(numbers.tolist()):
            rows[place] = self._ready(number)
        return torch.from_numpy(rows)

    def _ready(self, number: int) -> Seen:
        if self._seen is not None and not self.streams:
            return np.asarray(self._seen[number])
        try:
            row = self._from_cache_or_file(number)
        except DflmoeError as error:
            if self._seen is None:
                raise
            if number not in self._stood_for:
                logger.warning("%s; its small picture stands for it", error)
                self._stood_for.add(number)
            return resized(self._seen[number], self.shape[1:])
        self._stood_for.discard(number)
        return row

    def _from_cache_or_file(self, number: int) -> Seen:
        """Return one row, decoded if it has not been before.

        Raises:
            DataFileError: See ``row``.
        """
        if self._decoded is None:
            return self.row(number)
        decoded, places = self._decoded
        place = torch.tensor([places[number]])
        try:
            if bool(decoded.there[place]):
                return np.asarray(decoded.read(place)[0].numpy())
            row = self.row(number)
            decoded.write(place, torch.from_numpy(row)[None], torch.tensor([True]))
        except OutputError as error:  # a run that has begun goes on
            logger.warning("%s; its file is read instead", error)
            return self.row(number)
        return row

    def looked_at(self, step: Step) -> tuple["Reads", Seen]:
        """Decode every row once.

        Args:
            step: Told how far it is.

        Returns:
            The rows that can be read, and what there is of them in memory: all, or where that
            would be too much no more than a few places a side.

        Raises:
            DataFileError: A row cannot be read, and none may be left out.
            OutputError: The cache cannot be written.
        """
        streams = self.streams
        if self.source.cache is not None:
            rows = OnDisk(self._cache("rows"), (len(self), *self.shape))
            self._decoded = rows, list(range(len(self)))
        shape = (self.shape[0], *small_places(self.shape[1:])) if streams else self.shape
        values = np.empty((len(self), *shape), dtype=np.float32)
        left_out: dict[int, str] = {}
        for number in range(len(self)):
            step(number, len(self))
            try:
                row = self._from_cache_or_file(number)
            except DataFileError as error:
                if not self.source.skip_unreadable:
                    raise DataFileError(f"{error}; or go on without: --skip-unreadable") from error
                left_out[number] = str(error)
                continue
            values[number] = shrunk(row) if streams else row
        step(len(self), len(self))
        return self._without(left_out, values)

    def _without(self, left_out: dict[int, str], values: Seen) -> tuple["Reads", Seen]:
        """Return the rows that can be read.

        Raises:
            DataFileError: There is none.
        """
        good = [number for number in range(len(self)) if number not in left_out]
        if not good:
            raise DataFileError(f"no row of {self.source.path} can be decoded; export them again")
        names = {self.listing.named(number): why for number, why in left_out.items()}
        kept = Reads(self.listing.only(good, names), self.source)
        kept.streams = self.streams
        kept._seen = values[good] if left_out else values
        if self._decoded is not None:
            kept._decoded = self._decoded[0], good
            kept.key = _hashed([self.key, *map(str, left_out)])
        return kept, kept._seen

    def keep(self, made_by: str, shape: tuple[int, ...], numbers: Tensor, make: Make) -> Tensor:
        """See ``core.streaming.Rows``: in memory, or in the cache where one is named.

        What was made of a small picture that stands for its row is made again next time.
        """
        with self._lock:
            if made_by not in self._features:
                self._features[made_by] = self._room(made_by, (len(self), *shape))
            kept = self._features[made_by]
        if kept is None:
            return torch.cat([make(some) for some in numbers.split(AT_ONCE)])
        try:
            missing = numbers[~kept.there[numbers]].unique()
            for some in missing.split(AT_ONCE) if len(missing) else ():
                made = make(some)
                lasts = torch.tensor([n not in self._stood_for for n in some.tolist()])
                kept.write(some, made, lasts)
            return kept.read(numbers)
        except OutputError as error:  # a run that has begun goes on
            logger.warning("%s; features are made again", error)
            return torch.cat([make(some) for some in numbers.split(AT_ONCE)])

    def _room(self, made_by: str, shape: tuple[int, ...]) -> Kept | None:
        """Return where features are kept; nowhere if there is not enough memory."""
        if self.source.cache is not None:
            try:
                return OnDisk(self._cache(f"features-{made_by}"), shape)
            except OutputError as error:  # a run that has begun goes on
                logger.warning("%s; features stay in memory", error)
        return InMemory(shape) if self._fits(shape) else None

    def _cache(self, what: str) -> Path:
        if self.source.cache is None:
            raise ValueError("no cache is named")
        return self.source.cache / self.key / what

    @cached_property
    def key(self) -> str:
        """What these rows are known by: the contents of the files, and what is made of them.

        Raises:
            DataFileError: A file cannot be read, and none may be left out.
        """
        made = self.source.model_dump_json(include={*READ_BY})
        facts = [version("dflmoe"), repr(self.shape), made]
        hashes = {row.file: "" for row in self.listing.rows}
        for file in hashes:
            try:
                with file.open("rb") as stream:
                    hashes[file] = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                if not self.source.skip_unreadable:
                    raise DataFileError(
                        f"{file} cannot be read: {error.strerror or error}; check its disk, or go "
                        f"on without: --skip-unreadable"
                    ) from error
        return _hashed(facts + [f"{hashes[row.file]}{row.part.at}" for row in self.listing.rows])


def _hashed(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]
