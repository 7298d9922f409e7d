"""What was made of rows once, so that it need not be made again: in memory, or on a disk.

A file is read and written row by row and never mapped: what is not needed takes no memory, and a
disk that goes away is an error like any other, where a mapped one would end the process.
"""

import math
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dflmoe.errors import OutputError

NUMBER = np.dtype(np.float32).itemsize


class Kept(Protocol):
    """What is made of each row of many.

    Attributes:
        there: Which of it is, ``[row]``.
    """

    there: Tensor

    def read(self, rows: Tensor) -> Tensor:
        """Return what was made of some rows, ``[row, ...]``.

        Raises:
            OutputError: It cannot be read any more.
        """
        ...

    def write(self, rows: Tensor, values: Tensor, lasts: Tensor) -> None:
        """Keep what was made of some rows.

        Args:
            rows: Their numbers.
            values: What was made of them.
            lasts: Whether it is there from now on, or to be made again.

        Raises:
            OutputError: It cannot be written.
        """
        ...


class InMemory:
    """``Kept`` in memory."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Make room for ``[row, ...]``."""
        self._values = torch.zeros(shape, device="cpu")
        self.there = torch.zeros(shape[0], dtype=torch.bool, device="cpu")

    def read(self, rows: Tensor) -> Tensor:
        """See ``Kept``."""
        return self._values[rows]

    def write(self, rows: Tensor, values: Tensor, lasts: Tensor) -> None:
        """See ``Kept``."""
        self._values[rows] = values.to(self._values)
        self.there[rows] = lasts


class OnDisk:
    """``Kept`` in a file, and which rows are there in another beside it."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Open the files, made if they are not there.

        Raises:
            OutputError: They cannot be made, or hold something else.
        """
        self._path, self._shape = path, shape[1:]
        self._marks = path.with_name(f"{path.name}.there")
        self._size = NUMBER * math.prod(self._shape)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _made(path, shape[0] * self._size)
            _made(self._marks, shape[0])
            marks = self._marks.read_bytes()
        except OSError as error:
            raise self._unkept(error) from error
        sizes = path.stat().st_size, len(marks)
        if sizes != (shape[0] * self._size, shape[0]):
            raise OutputError(f"{path} holds something else; name another cache in [data]")
        self.there = torch.from_numpy(np.frombuffer(marks, dtype=np.uint8) == 1)

    def read(self, rows: Tensor) -> Tensor:
        """See ``Kept``."""
        found = np.empty((len(rows), *self._shape), dtype=np.float32)
        try:
            with self._path.open("rb") as file:
                for k, row in enumerate(rows.tolist()):
                    raw = os.pread(file.fileno(), self._size, row * self._size)
                    found[k] = np.frombuffer(raw, dtype=np.float32).reshape(self._shape)
        except (OSError, ValueError) as error:
            raise self._unkept(error) from error
        return torch.from_numpy(found)

    def write(self, rows: Tensor, values: Tensor, lasts: Tensor) -> None:
        """See ``Kept``: a row counts as there once all of it is."""
        numbers = values.detach().cpu().float().numpy()
        try:
            with self._path.open("r+b") as file, self._marks.open("r+b") as marks:
                for k, row in enumerate(rows.tolist()):
                    os.pwrite(file.fileno(), numbers[k].tobytes(), row * self._size)
                    os.pwrite(marks.fileno(), bytes([bool(lasts[k])]), row)
        except OSError as error:
            raise self._unkept(error) from error
        self.there[rows] = lasts

    def _unkept(self, error: Exception) -> OutputError:
        return OutputError(f"{self._path} cannot be kept: {error}; name another cache in [data]")


def _made(path: Path, size: int) -> None:
    """Make a file of zeros with its room on the disk, if it is not there."""
    if path.exists():
        return
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as stream:
            stream.truncate(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(
                    stream.fileno(), 0, size
                )  # to run out of it later would cost more
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
