"""What a charter means here: the network that is lent, and what a head must look like."""

from collections.abc import Mapping
from functools import lru_cache

from dflmoe.core.auto import Exchange
from dflmoe.core.site import LentKind, Network
from dflmoe.errors import HeadError
from dflmoe.networks import build
from dflmoe.security.charter import Charter
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.payload import HeadSpec

KINDS: Mapping[Exchange, frozenset[LentKind]] = {
    "shared": frozenset({"head"}),
    "averaged": frozenset({"fits", "head"}),
    "anchored": frozenset({"head"}),
    "seeded": frozenset({"head"}),
    "paper": frozenset({"head"}),
}
"""What each exchange lends."""


def network_of(charter: Charter) -> Network:
    """Return the network whose head the sites lend.

    Raises:
        NetworkError: The charter names none that is known here, or that fits its shape.
    """
    return build(charter.network, charter.shape, len(charter.classes), at=charter.head_from)


@lru_cache
def _head_of(charter: Charter) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Return the width of the head that is lent, and the shapes of its tensors."""
    network = network_of(charter)
    return network.width, {n: tuple(p.shape) for n, p in network.head.named_parameters()}


def spec_of(charter: Charter, manifest: Manifest) -> HeadSpec:
    """Return what the head of a manifest must look like.

    Raises:
        HeadError: The charter lends no tensors of this kind, or heads of another width.
        NetworkError: The charter's network is not known here.
    """
    width, shapes = _head_of(charter)
    every = manifest.kind == "fits"
    if manifest.kind not in KINDS[charter.exchange]:
        raise HeadError(f"{manifest.site} lends {manifest.kind}, which the charter does not know")
    if manifest.width != width:
        raise HeadError(f"the head of {manifest.site} reads {manifest.width} features, not {width}")
    leading = (1, charter.inner_folds + 1) if every else (1,)
    return HeadSpec(
        {name: (*leading, *shape) for name, shape in shapes.items()},
        max_bytes=charter.max_head_bytes,
        max_norm=charter.max_norm,
        dtype=charter.dtype,
        leading=len(leading),
    )
