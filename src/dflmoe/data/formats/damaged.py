"""Whatever a damaged file provokes in the library that decodes it becomes one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dflmoe.errors import DataFileError, DflmoeError


@contextmanager
def readable(file: Path, kind: str) -> Iterator[None]:
    """Decode a file within this.

    Several threads may: nothing that they share is changed, as ``warnings.catch_warnings`` would.

    Args:
        file: That is decoded.
        kind: What it should be, in words: ``an EDF recording``.

    Raises:
        DataFileError: The library failed, in whatever way.
    """
    try:
        with np.errstate(all="ignore"):  # NaN and infinite numbers are told where rows are read
            yield
    except DflmoeError:
        raise
    except Exception as error:  # bytes that anybody may have written provoke nearly everything
        raise DataFileError(f"{file} cannot be read as {kind}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Return a reason without the words of the library, which may quote what a patient wrote."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; mend that"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is; free some"
    return "it is damaged or something else; export it again"
