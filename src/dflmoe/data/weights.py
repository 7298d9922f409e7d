"""Public weights of a network's body, from a file that the user names."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from dflmoe.errors import DataFileError
from dflmoe.types import Params


def read_weights(path: Path) -> Params:
    """Return the tensors of a safetensors file by name; nothing in it is ever executed.

    Raises:
        DataFileError: It cannot be read, or is no such file.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataFileError(
            f"weights {path} cannot be read: {error}; name a safetensors file"
        ) from error
