"""What can go wrong with a peer, in words that the simulator and the tests share."""

from dataclasses import replace
from typing import Literal

from dflmoe.core.site import Lent

Fault = Literal["silent", "tampered", "poisoned"]


def poisoned(lent: Lent) -> Lent:
    """Return a head that says the opposite: every tensor negated, of a norm like any other."""
    return replace(lent, tensors={name: -p for name, p in lent.tensors.items()})


def tampered(payload: bytes) -> bytes:
    """Return a payload with its last byte changed on the way."""
    return payload[:-1] + bytes([payload[-1] ^ 1])
