"""A lent head as one file: its signed envelope, and after it the payload."""

from typing import NamedTuple

from dflmoe.errors import EnvelopeError
from dflmoe.wire.envelope import ENVELOPE_LIMIT

MAGIC = b"dflmoe-head-1\n"
LENGTH = 4


class Parcel(NamedTuple):
    """Two parts, neither of which is to be believed yet."""

    envelope: bytes
    payload: bytes


def packed(envelope: bytes, payload: bytes) -> bytes:
    """Return a head as one file."""
    return MAGIC + len(envelope).to_bytes(LENGTH, "big") + envelope + payload


def unpacked(raw: bytes, what: str) -> Parcel:
    """Return the parts of a file.

    Raises:
        EnvelopeError: It is no file of a lent head.
    """
    begin = len(MAGIC) + LENGTH
    length = int.from_bytes(raw[len(MAGIC) : begin], "big")
    if not raw.startswith(MAGIC) or length > ENVELOPE_LIMIT or len(raw) < begin + length:
        raise EnvelopeError(f"{what} is no file of a lent head, or is cut off; ask for it again")
    return Parcel(raw[begin : begin + length], raw[begin + length :])
