"""What was made of rows once, so that it need not be made again: in memory, or on a disk."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dflmoe.errors import OutputError


class Kept(NamedTuple):
    """What is made of each row of many.

    Attributes:
        values: ``[row, ...]``; zeros where it is not there.
        there: Which of it is.
    """

    values: Tensor
    there: Tensor

    @classmethod
    def in_memory(cls, shape: tuple[int, ...]) -> "Kept":
        """Return room for so much."""
        return cls(
            torch.zeros(shape, device="cpu"), torch.zeros(shape[0], dtype=torch.bool, device="cpu")
        )

    @classmethod
    def on_disk(cls, path: Path, shape: tuple[int, ...]) -> "Kept":
        """Return what is in a file and one beside it, made if they are not there.

        Raises:
            OutputError: They cannot be made, or hold something else.
        """
        return cls(
            _mapped(path.with_name(f"{path.name}.npy"), shape, np.float32),
            _mapped(path.with_name(f"{path.name}.there.npy"), shape[:1], np.bool_),
        )


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Return an array that lives in a file, made of zeros if it is not there.

    Raises:
        OutputError: It cannot be made, or is another.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.{os.getpid()}.new")
            try:
                np.lib.format.open_memmap(new, mode="w+", dtype=dtype, shape=shape)
                with new.open("r+b") as stream:
                    _reserve(stream.fileno(), new.stat().st_size)
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} cannot be kept: {error}; name another cache in [data]"
        ) from error
    if array.shape != shape or array.dtype != dtype:
        raise OutputError(f"{path} holds something else; name another cache in [data]")
    return torch.from_numpy(array)


def _reserve(file: int, size: int) -> None:
    """Take the room on the disk now: to run out of it later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
