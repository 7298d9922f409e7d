"""What is said on a stream is one of six things, or the stream ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflmoe.errors import EnvelopeError
from dflmoe.wire.frames import (
    Announce,
    Ask,
    Chunk,
    Frame,
    RosterFrame,
    Summary,
    Want,
    framed,
    is_chunk,
    unframed,
)

ONE, OTHER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    "frame",
    [
        Summary(roster=ONE, heads={"ann": (3, "ab" * 8), "bob": (2**62, "cd" * 8)}),
        Summary(roster=ONE, heads={}),
        Ask(site="ann"),
        Want(number=0, site="ann", payload=ONE, blob="", at=0),
        Want(number=7, site="ann", payload=ONE, blob=OTHER, at=2**40),
        Announce(b"signed"),
        RosterFrame(b"whole"),
        Chunk(2**60, OTHER, 2**40, True, b"piece"),
        Chunk(0, OTHER, 0, False, b""),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_frame_comes_back_as_it_was_said(frame: Frame) -> None:
    assert unframed(framed(frame)) == frame
    assert is_chunk(framed(frame)) == isinstance(frame, Chunk)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"X", id="an unknown kind"),
        pytest.param(b"C" + bytes(48), id="a piece cut off"),
        pytest.param(b"S{}", id="an empty summary"),
        pytest.param(b'Q{"site":"../ann"}', id="a path for a name"),
        pytest.param(b"W" + b"[" * 1000, id="deep"),
    ],
)
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unframed(raw)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(raw: bytes) -> None:
    try:
        frame = unframed(raw)
    except EnvelopeError:
        return
    assert unframed(framed(frame)) == frame
