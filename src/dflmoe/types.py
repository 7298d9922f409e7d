"""The words that every layer shares."""

import hashlib
from collections.abc import Callable
from datetime import datetime

import torch
from torch import Tensor

SiteId = str
"""Name of a site: unique in its federation."""

Clock = Callable[[], datetime]
"""Says what time it is."""

Params = dict[str, Tensor]
"""Named tensors of a module. *Stacked* parameters carry one more, leading, axis: the fit."""


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return the random stream of one purpose.

    Streams are derived by name (SHA-256 of the seed and the purpose), so that adding a site, a
    round or an arm changes no other stream.

    Args:
        seed: The run's seed.
        purpose: What the stream is for, for example ``("budapest", 3, "prepare")``.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
