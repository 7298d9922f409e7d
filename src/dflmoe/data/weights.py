"""Weights of a network's body, from a file that the user names, and to one."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from dflmoe.errors import DataFileError
from dflmoe.files import replace_file
from dflmoe.types import Params

ORIGIN = "dflmoe"
"""Key under which a file says where it comes from."""

PICKLES = (b"PK\x03\x04", b"\x80")
"""How PyTorch's files begin: a zip of pickles, or, of old, a pickle."""


def is_pickle(path: Path) -> bool:
    """Return whether a file is one of PyTorch's own, which may hold code.

    Raises:
        DataFileError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataFileError(
            f"weights {path} cannot be read: {error.strerror or error}; name a safetensors file"
        ) from error
    header = start[8:9] == b"{"  # a safetensors file may begin with any length of it
    return start.startswith(PICKLES) and not header


def read_weights(path: Path) -> Params:
    """Return the tensors of a safetensors file by name; nothing in it is ever executed.

    Raises:
        DataFileError: It cannot be read, or is no such file.
    """
    with _read(path):
        return dict(load_file(path))


class Described(NamedTuple):
    """What a file says of one of its tensors."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many it has."""
        return math.prod(self.shape)


def describe(path: Path) -> tuple[dict[str, Described], str | None]:
    """Return what a safetensors file holds, and what it says of itself, but no numbers.

    Raises:
        DataFileError: It cannot be read, or is no such file.
    """
    with _read(path), safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in sorted(file.keys())}
        said = {n: Described(p.get_dtype(), tuple(p.get_shape())) for n, p in parts.items()}
        return said, (file.metadata() or {}).get(ORIGIN)


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a safetensors file into a sentence.

    Raises:
        DataFileError: It is of PyTorch's own, or cannot be read.
    """
    if is_pickle(path):
        raise DataFileError(
            f"weights {path} cannot be read as they are: a file of PyTorch's may hold code; "
            f"convert it once with: dflmoe body convert {path} --out body.safetensors"
        )
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataFileError(
            f"weights {path} cannot be read: {error}; name a safetensors file"
        ) from error


def write_weights(path: Path, weights: Params, origin: Mapping[str, str | int | float]) -> None:
    """Write tensors as a safetensors file, the same bytes for the same tensors.

    Args:
        path: The file.
        weights: Its tensors, by name.
        origin: What the file says of itself.

    Raises:
        OutputError: The folder cannot be written.
    """
    said = {ORIGIN: json.dumps(dict(origin), sort_keys=True)}  # one key: several have no order
    replace_file(path, save({name: p.contiguous() for name, p in weights.items()}, said))
