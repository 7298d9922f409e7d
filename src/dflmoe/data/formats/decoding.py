"""Where libraries that decode files are called: no warning of theirs passes, and no exception."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dflmoe.errors import DataFileError, DflmoeError

MAX_PIXELS = 2**27
"""A picture that claims more is not one: the largest of medicine, mammograms, have 2**25."""


class Quiet:
    """No warning is heard while any thread is within.

    ``warnings.catch_warnings`` alone would not do: filters belong to the process, and of two
    threads that change them by turns, one may put back what the other had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        """Silence warnings if nobody has yet."""
        with self._lock:
            if not self._within:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._within += 1

    def __exit__(self, *_: object) -> None:
        """Let warnings be heard again if nobody else is within."""
        with self._lock:
            self._within -= 1
            if not self._within:
                self._before.__exit__(None, None, None)


quiet = Quiet()
"""The one of the process."""


@contextmanager
def decoding(file: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into one sentence.

    What the library says of it is kept for programmers (``__cause__``) and not repeated: it may
    quote what is in the file, and that is a patient's.

    Args:
        file: The file.
        what: What it is decoded as, for people.

    Raises:
        DataFileError: It cannot be read, or is damaged.
    """
    try:
        with quiet:
            yield
    except DflmoeError:
        raise
    except Exception as error:  # a damaged file makes a library raise anything
        if isinstance(error, OSError) and error.strerror:
            raise DataFileError(
                f"{file} cannot be read: {error.strerror}; check the disk that it is on"
            ) from error
        raise DataFileError(
            f"{file} cannot be read as {what}: it is damaged or something else; "
            f"export it again, or move it away"
        ) from error
