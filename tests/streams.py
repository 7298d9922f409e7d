"""Rows of files that stream, for tests."""

from pathlib import Path

import torch
from tests.imaging import class_folders
from torch import Tensor, nn

from dflmoe.core.streaming import Rows, Streaming
from dflmoe.data.listing import listed
from dflmoe.data.reads import Reads
from dflmoe.data.source import Source

LARGE = (96, 96)
"""So large that 40 rows are more than the megabyte that they may take."""


def never(_done: int, _of: int) -> None:
    """Show no progress."""


def many(root: Path, of_each: int = 20) -> Path:
    """Return a folder of 40 pictures of two classes."""
    return class_folders(root, of_each=of_each)


def source(path: Path, **settings: object) -> Source:
    """Return where rows are, by settings as they stand in a file."""
    return Source.model_validate({"path": path, **settings})


def small(path: Path, **settings: object) -> Source:
    """Return a source whose rows stream."""
    return source(path, size=LARGE, memory_mb=1, **settings)


def looked_at(where: Source) -> Reads:
    """Return the rows of a source, each decoded once."""
    return Reads(listed(where), where).looked_at(never)[0]


def everything(reads: Rows, count: int = 40) -> Tensor:
    """Return all rows."""
    return reads(torch.arange(count))


def features(reads: Rows, body: nn.Module, count: int = 40) -> Tensor:
    """Return what a body that stays as it is makes of all rows."""
    with torch.no_grad():
        said: Tensor = Streaming(body, reads, keeps=True)(torch.arange(count).float())
    return said


def summing() -> nn.Module:
    """Return a body that stays as it is."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(LARGE[0] * LARGE[1], 3))
    return body.requires_grad_(requires_grad=False)
