"""Files that are replaced whole or not at all."""

import os
import tempfile
from pathlib import Path

from dflmoe.errors import OutputError


def replace_file(path: Path, text: str | bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file so that there is never half of it; missing folders are made.

    Args:
        path: The file.
        text: All that it holds from now on.
        mode: Who may read it.
        durable: Wait until it would survive a power cut; what is soon written anew need not.

    Raises:
        OutputError: The folder cannot be made or written; what was there stays as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            half = Path(file.name)
            try:
                file.write(text.encode() if isinstance(text, str) else text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                half.chmod(mode)
                half.replace(path)
                if durable:
                    _settled(path.parent)
            except BaseException:
                half.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written to {path.parent}: {error.strerror or error}; "
            f"choose another folder"
        ) from error


def _settled(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def writable(folder: Path) -> None:
    """Check that a folder can be made and written, before hours are spent.

    Raises:
        OutputError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"output folder {folder} cannot be written: {error.strerror or error}; "
            f"choose another one"
        ) from error
