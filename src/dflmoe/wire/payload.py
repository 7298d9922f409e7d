"""The payload of a lent head: a safetensors file, addressed by its SHA-256.

Nothing is ever unpickled. ``decode`` checks in order: size, digest, header, names, dtypes, shapes,
finite values, norm; each refusal is a ``HeadError`` that says which. The header is read and
compared before any tensor is made of it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dflmoe.errors import HeadError
from dflmoe.types import Params

ENVELOPE_BYTES = 1536
"""What a signed manifest adds to each head, assumed until a node has measured it."""

HEADER_BYTES = 64 * 1024
"""Longer headers are refused unread."""

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""

WireDtype = Literal["fp32", "fp16", "int8"]
"""How numbers travel; ``int8`` with one scale for each output channel of a matrix or kernel."""

SCALE = ":scale"
"""Ends the name of the scales of a tensor that travels as int8; no module's parameter has it."""

WHOLE = 127


@dataclass(frozen=True)
class HeadSpec:
    """What the federation lends: names and shapes, and limits.

    Attributes:
        shapes: Shape of each tensor; ``None`` stands for any length of an axis.
        max_bytes: Larger payloads are refused unread.
        max_norm: Largest Euclidean norm of a tensor.
        dtype: How numbers travel.
        leading: Axes before those of a parameter: the split, and the fit where every fit is lent.
    """

    shapes: dict[str, tuple[int | None, ...]]
    max_bytes: int = 8 * 1024**2
    max_norm: float = 1e3
    dtype: WireDtype = "fp32"
    leading: int = 1

    @property
    def sent(self) -> dict[str, "Described"]:
        """The tensors that a payload holds, by name."""
        found = {}
        for name, shape in self.shapes.items():
            if self.dtype == "int8" and _by_channel(len(shape), self.leading):
                found[name] = Described("I8", shape)
                found[name + SCALE] = Described("F32", shape[: self.leading + 1])
            else:
                found[name] = Described("F16" if self.dtype == "fp16" else "F32", shape)
        return found


class Described(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int | None, ...]


def _by_channel(axes: int, leading: int) -> bool:
    """Return whether a tensor travels as int8: a matrix or kernel does, a bias does not."""
    return axes > leading + 1


def encode(tensors: Params, dtype: WireDtype = "fp32", *, leading: int = 1) -> bytes:
    """Return tensors as a safetensors file.

    Args:
        tensors: What is lent.
        dtype: How numbers travel.
        leading: Axes before those of a parameter; see ``HeadSpec``.
    """
    sent: Params = {}
    for name, p in sorted(tensors.items()):
        number = p.detach().float().contiguous()
        if dtype == "int8" and _by_channel(number.dim(), leading):
            flat = number.flatten(leading + 1)
            scale = flat.abs().amax(-1) / WHOLE
            steps = flat / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
            sent[name] = steps.round().to(torch.int8).view(number.shape)
            sent[name + SCALE] = scale
        else:
            sent[name] = number.half() if dtype == "fp16" else number
    return save(sent)


def lost_precision(tensors: Params, dtype: WireDtype, *, leading: int = 1) -> float:
    """Return the relative error (Euclidean) of what arrives when tensors travel in a dtype."""
    if dtype == "fp32":
        return 0.0
    arrived = _decoded(load(encode(tensors, dtype, leading=leading)), tensors)
    gap = sum(float((arrived[n] - p.float()).square().sum()) for n, p in tensors.items())
    size = sum(float(p.float().square().sum()) for p in tensors.values())
    return float((gap / size) ** 0.5) if size else 0.0


def digest(payload: bytes) -> str:
    """Return the address of a payload."""
    return hashlib.sha256(payload).hexdigest()


def header(payload: bytes, sender: str) -> dict[str, Described]:
    """Return what a payload says it holds, without making a tensor of it.

    Raises:
        HeadError: The header is longer than ``HEADER_BYTES``, or is none.
    """
    if len(payload) < LENGTH_BYTES:
        raise HeadError(f"the head of {sender} is no safetensors file: it has no header")
    length = int.from_bytes(payload[:LENGTH_BYTES], "little")
    if length > HEADER_BYTES:
        raise HeadError(
            f"the head of {sender} has a header of {length} bytes; the limit is {HEADER_BYTES}"
        )
    try:
        said = json.loads(
            payload[LENGTH_BYTES : LENGTH_BYTES + length], object_pairs_hook=_each_once
        )
        return {n: Described(str(t["dtype"]), _shape(t["shape"])) for n, t in said.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeadError(f"the head of {sender} is no safetensors file: {error!r}") from error


def _shape(said: list[object]) -> tuple[int, ...]:
    shape = tuple(n for n in said if type(n) is int and n >= 0)
    if len(shape) < len(said):
        raise ValueError("an axis has no whole length")
    return shape


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


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
    _as_expected(header(payload, sender), spec.sent, sender)
    try:
        raw = load(payload)
    except SafetensorError as error:
        raise HeadError(f"the head of {sender} is no safetensors file: {error}") from error
    tensors = _decoded(raw, spec.shapes)
    for name, p in tensors.items():
        norm = float(p.flatten(1).norm(dim=1).max()) if p.dim() > 1 else float(p.norm())
        if not math.isfinite(norm) and not torch.isfinite(p).all():
            raise HeadError(f"{name!r} of {sender} holds numbers that are not finite")
        if norm > spec.max_norm:
            raise HeadError(f"{name!r} of {sender} has norm {norm:.3g}; limit {spec.max_norm:.3g}")
    return tensors


def _as_expected(
    said: Mapping[str, Described], wanted: Mapping[str, Described], sender: str
) -> None:
    """Check that a header says what the federation lends."""
    if set(said) != set(wanted):
        raise HeadError(f"the head of {sender} holds {sorted(said)}, not {sorted(wanted)}")
    for name, (dtype, shape) in said.items():
        want = wanted[name]
        fits = len(want.shape) == len(shape) and all(
            w in (None, n) for w, n in zip(want.shape, shape, strict=True)
        )
        if not fits or dtype != want.dtype:
            raise HeadError(
                f"{name!r} of {sender} is {dtype} {shape}, not {want.dtype} {want.shape}"
            )


def _decoded(raw: Params, names: Mapping[str, object]) -> Params:
    """Return numbers as they are used, each tensor times its scales."""

    def number(name: str) -> Tensor:
        p = raw[name].float()
        if name + SCALE not in raw:
            return p
        scale = raw[name + SCALE]
        return p * scale.view(*scale.shape, *[1] * (p.dim() - scale.dim()))

    return {name: number(name) for name in sorted(names)}
