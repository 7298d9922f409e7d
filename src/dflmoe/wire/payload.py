"""The payload of a lent head: a safetensors file, addressed by its SHA-256.

Nothing is ever unpickled. ``decode`` checks in order: size, digest, header, names, shapes, dtypes,
finite values, norm; each refusal is a ``HeadError`` that says which.
"""

import hashlib
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dflmoe.errors import HeadError
from dflmoe.types import Params

ENVELOPE_BYTES = 1536
"""What a signed manifest adds to each head, assumed until a node has measured it."""


@dataclass(frozen=True)
class HeadSpec:
    """What the federation lends: names and shapes, and limits.

    Attributes:
        shapes: Shape of each tensor; ``None`` stands for any length of an axis.
        max_bytes: Larger payloads are refused unread.
        max_norm: Largest Euclidean norm of a tensor.
    """

    shapes: dict[str, tuple[int | None, ...]]
    max_bytes: int = 8 * 1024**2
    max_norm: float = 1e3


def encode(tensors: Params) -> bytes:
    """Return tensors as a safetensors file in fp32."""
    return save({name: p.detach().float().contiguous() for name, p in sorted(tensors.items())})


def digest(payload: bytes) -> str:
    """Return the address of a payload."""
    return hashlib.sha256(payload).hexdigest()


def decode(payload: bytes, address: str, spec: HeadSpec, sender: str) -> Params:
    """Return the tensors of a payload, once all that can be checked has been.

    Raises:
        HeadError: The payload is too large, was changed on its way, is no safetensors file, does
            not fit the specification, or holds numbers that are not finite or far too large.
    """
    if len(payload) > spec.max_bytes:
        raise HeadError(f"{sender} sent {len(payload)} bytes; the limit is {spec.max_bytes}")
    if digest(payload) != address:
        raise HeadError(f"the head of {sender} was changed on its way; it will be asked for again")
    try:
        tensors: Params = load(payload)
    except SafetensorError as error:
        raise HeadError(f"the head of {sender} is no safetensors file: {error}") from error
    if set(tensors) != set(spec.shapes):
        raise HeadError(f"the head of {sender} holds {sorted(tensors)}, not {sorted(spec.shapes)}")
    for name, p in tensors.items():
        wanted = spec.shapes[name]
        fits = len(wanted) == p.dim() and all(
            w in (None, n) for w, n in zip(wanted, p.shape, strict=True)
        )
        if not fits or p.dtype != torch.float32:
            raise HeadError(f"{name!r} of {sender} is {p.dtype} {tuple(p.shape)}, not {wanted}")
        if not torch.isfinite(p).all():
            raise HeadError(f"{name!r} of {sender} holds numbers that are not finite")
        norm = float(p.flatten(1).norm(dim=1).max()) if p.dim() > 1 else float(p.norm())
        if norm > spec.max_norm:
            raise HeadError(f"{name!r} of {sender} has norm {norm:.3g}; limit {spec.max_norm:.3g}")
    return dict(sorted(tensors.items()))
