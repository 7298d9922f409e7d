"""PyTorch files as weights by name; what reads them is a process that has nothing to lose."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, ValidationError

from dflmoe.data import untrusted
from dflmoe.data.weights import is_pickle, read_weights
from dflmoe.errors import DataFileError, MissingExtraError
from dflmoe.networks.fitting import some
from dflmoe.types import Params

SAVE = "save a state dict with torch.save(model.state_dict(), ...)"

WHY_NOT = {
    "script": "is a TorchScript archive, which holds code",
    "objects": "holds objects beside tensors{named}, which only running code would bring back",
    "nothing": "holds no state dict{named}",
    "tensor": "has a tensor that is not made of plain floating-point numbers{named}",
    "damaged": "is damaged, or no file of PyTorch",
}
"""What is said of a file that is not taken."""

NO_ANSWER = "asks for more time or memory than a file of its size needs"
"""What is said where reading it came to no end."""

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before all names."""

KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment, what Python itself may need to start."""

SECONDS = 1800
"""After which reading is given up, however slow the disk."""

SAID_BYTES = 2**22

FIRST_SAFE = (2, 6)
"""PyTorch before it could be made to run code by a file of weights (CVE-2025-32434)."""


class Said(BaseModel, frozen=True, extra="forbid"):
    """What the other process says; it may have been taken over by the file that it read."""

    outcome: Literal["begun", "read", "script", "objects", "nothing", "tensor", "damaged", "large"]
    named: Annotated[str, Field(max_length=2**16)] = ""
    left_out: Annotated[tuple[str, ...], Field(max_length=untrusted.TOLD)] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        weights: By name.
        left_out: Entries that are no weights, or have no such prefix, by name.
    """

    weights: Params
    left_out: tuple[str, ...]


def read_checkpoint(path: Path, prefix: str = "") -> Checkpoint:
    """Return the weights of a PyTorch or safetensors file; no code in it is ever run.

    Args:
        path: The file: a state dict, or a checkpoint that has one beside other things.
        prefix: Names that begin with it are taken, without it, and others left out.

    Raises:
        DataFileError: The file is missing, is damaged, holds something else than weights, or none
            with the prefix.
        MissingExtraError: PyTorch is too old to read such files safely.
    """
    if not path.is_file():
        raise DataFileError(f"weights {path} are not there; check the path")
    read = _apart(path) if is_pickle(path) else Checkpoint(read_weights(path), ())
    return _named(_finite(read, path), prefix, path)


def _apart(path: Path) -> Checkpoint:
    """Return the weights of a pickle, read by another process.

    Raises:
        DataFileError: They cannot be read.
        MissingExtraError: PyTorch is too old.
    """
    check_version(torch.__version__)
    with tempfile.TemporaryDirectory(prefix="dflmoe-") as folder:
        said = _said(path, Path(folder))
        weights = Path(folder) / untrusted.WEIGHTS
        if said.outcome != "read" or not _plain_file(weights):
            named = f" ({plain(said.named)})" if said.named else ""
            raise DataFileError(
                f"{path} {WHY_NOT.get(said.outcome, NO_ANSWER).format(named=named)}; {SAVE}"
            )
        return Checkpoint(read_weights(weights), said.left_out)


def check_version(version: str) -> None:
    """Check that a PyTorch can read weights without running code.

    Raises:
        MissingExtraError: It is too old.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < FIRST_SAFE:
        raise MissingExtraError(
            f"PyTorch {version} can be made to run code by a file of weights; install 2.6 or newer"
        )


def _said(path: Path, folder: Path) -> Said:
    """Let the other process read a file, and return what it says of it.

    Raises:
        DataFileError: The file cannot be opened, or the process did not start.
    """
    python = os.pathsep.join(entry for entry in sys.path if Path(entry).is_absolute())
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    alone = {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with path.open("rb") as file:
            subprocess.run(  # noqa: S603 - this very Python, and a module of ours
                [sys.executable, "-I", untrusted.__file__, python],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=kept | alone,
                timeout=SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Said(outcome="begun")
    except OSError as error:
        raise DataFileError(
            f"weights {path} cannot be read: {error.strerror or error}; check who may read them"
        ) from error
    if not _plain_file(folder / untrusted.SAID):
        raise DataFileError(
            f"weights {path} were not read, as no process could be started for it; "
            f"check that {sys.executable} can import torch"
        )
    try:
        with (folder / untrusted.SAID).open("rb") as answer:
            return Said.model_validate_json(answer.read(SAID_BYTES))
    except ValidationError:
        return Said(outcome="begun")


def _plain_file(path: Path) -> bool:
    """Return whether a file is there and is no link or pipe, which could lead or wait anywhere."""
    return path.is_file() and not path.is_symlink()


def _finite(read: Checkpoint, path: Path) -> Checkpoint:
    """Return the same, if it holds numbers only.

    Raises:
        DataFileError: It does not.
    """
    for name, p in read.weights.items():
        if not p.is_floating_point() or not torch.isfinite(p.float()).all():
            raise DataFileError(
                f"{name!r} of {path} holds something else than finite numbers; "
                f"take the file from its source again"
            )
    return read


def _named(read: Checkpoint, prefix: str, path: Path) -> Checkpoint:
    """Return weights by the names that their layers have.

    Raises:
        DataFileError: No name begins with the prefix.
    """
    weights = read.weights
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): p for name, p in weights.items()}
    kept = {n.removeprefix(prefix): p for n, p in weights.items() if n.startswith(prefix)}
    if not kept:
        starts = sorted({name.partition(".")[0] + "." for name in weights})
        raise DataFileError(
            f"{path} has no weights that begin with {prefix!r}; its names begin with {some(starts)}"
        )
    others = (name for name in weights if not name.startswith(prefix))
    return Checkpoint(kept, (*read.left_out, *others))


def plain(text: str, most: int = 200) -> str:
    """Return a text of unknown origin without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])
