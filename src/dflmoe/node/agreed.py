"""What a charter means here: the network that is lent, and what a head must look like."""

from dflmoe.core.site import Network
from dflmoe.networks import build
from dflmoe.security.charter import Charter
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.payload import HeadSpec


def network_of(charter: Charter) -> Network:
    """Return the network whose head the sites lend.

    Raises:
        NetworkError: The charter names none that is known here, or that fits its shape.
    """
    return build(charter.network, charter.shape, len(charter.classes), at=charter.head_from)


def spec_of(charter: Charter, manifest: Manifest) -> HeadSpec:
    """Return what the head of a manifest must look like.

    Raises:
        NetworkError: The charter's network is not known here.
    """
    head = network_of(charter).head
    every = manifest.kind == "fits"
    leading: tuple[int | None, ...] = (1, None) if every else (1,)
    return HeadSpec(
        {name: (*leading, *p.shape) for name, p in head.named_parameters()},
        max_bytes=charter.max_head_bytes,
        max_norm=charter.max_norm,
        dtype=charter.dtype,
        leading=len(leading),
    )
