"""What passes through strangers is read by members only, and changed by nobody."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.security import FEDERATION

from dflmoe.errors import EnvelopeError
from dflmoe.wire.wrapper import MAGIC, is_wrapped, recipients, unwrapped, wrapped

KEYS = {site: X25519PrivateKey.generate() for site in ("ann", "bob")}
PAYLOAD = b"a head that nobody else may read" * 9
RAW = wrapped(PAYLOAD, FEDERATION, {site: key.public_key() for site, key in KEYS.items()})


def opened(raw: bytes, site: str = "ann", federation: str = FEDERATION) -> bytes:
    return unwrapped(raw, federation, site, KEYS[site], "it")


def test_every_member_reads_it_and_a_stranger_sees_nothing_of_it() -> None:
    assert is_wrapped(RAW)
    assert not is_wrapped(PAYLOAD)
    assert recipients(RAW, "it") == {"ann", "bob"}
    assert [opened(RAW, site) for site in KEYS] == [PAYLOAD, PAYLOAD]
    assert PAYLOAD[:8] not in RAW


def test_the_same_payload_is_never_wrapped_alike() -> None:
    again = wrapped(PAYLOAD, FEDERATION, {"ann": KEYS["ann"].public_key()})
    assert again[-len(PAYLOAD) :] != RAW[-len(PAYLOAD) :]


def test_a_newcomer_is_told_who_can_help() -> None:
    with pytest.raises(EnvelopeError, match="wraps it anew"):
        unwrapped(RAW, FEDERATION, "cleo", X25519PrivateKey.generate(), "it")


def test_another_s_key_opens_nothing() -> None:
    with pytest.raises(EnvelopeError, match="another key"):
        unwrapped(RAW, FEDERATION, "ann", KEYS["bob"], "it")


def test_it_does_not_open_in_another_federation() -> None:
    with pytest.raises(EnvelopeError, match="another federation"):
        opened(RAW, federation="f" * 32)
    moved = RAW.replace(FEDERATION.encode(), b"f" * 32)
    with pytest.raises(EnvelopeError, match="changed"):
        opened(moved, federation="f" * 32)


@pytest.mark.parametrize("where", range(0, len(RAW), 37))
def test_a_flipped_bit_is_seen(where: int) -> None:
    changed = RAW[:where] + bytes([RAW[where] ^ 1]) + RAW[where + 1 :]
    try:
        assert opened(changed) == PAYLOAD  # a key that is another member's
    except EnvelopeError:
        return
    with pytest.raises(EnvelopeError):
        opened(changed, "bob")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(RAW[: len(MAGIC) + 20], id="cut off"),
        pytest.param(RAW[:-1], id="cut off at the end"),
        pytest.param(MAGIC + b"\xff" * 99, id="a length beyond all"),
        pytest.param(MAGIC + b"\0\0\0\2{}", id="no header"),
        pytest.param(b"x" + RAW, id="something before"),
    ],
)
def test_what_is_no_wrapper_is_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        opened(raw)
