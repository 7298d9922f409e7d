"""Whatever bytes come from outside: they are refused with a sentence, and nothing else."""

import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.documents import KINDS, corpus

from dflmoe.errors import DflmoeError

TRIED = settings(max_examples=int(os.environ.get("DFLMOE_TRIES", "750")), deadline=None)
"""Each of fourteen kinds: ten thousand in all, and a million with ``make fuzz``."""


@st.composite
def spoilt(draw: st.DrawFn, sound: bytes) -> bytes:
    """Return something sound with a few things done to it: or bytes that never were."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    raw = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        how = draw(st.sampled_from(["cut", "flip", "insert", "double", "number"]))
        if how == "cut":
            del raw[at : at + draw(st.integers(1, 40))]
        elif how == "flip" and at < len(raw):
            raw[at] ^= draw(st.integers(1, 255))
        elif how == "insert":
            raw[at:at] = draw(
                st.sampled_from([b"null", b"{", b"[", b'"', b"\\\\u0000", b"../", b"\xff"])
            )
        elif how == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 200))]
        elif how == "number":
            raw[at:at] = draw(st.sampled_from([b"-1", b"1e999", b"9" * 400, b"NaN", b"0.5"]))
    return bytes(raw)


@pytest.mark.parametrize("what", KINDS)
def test_a_sound_document_is_read_or_refused_for_what_it_says(what: str) -> None:
    with suppress(DflmoeError):
        KINDS[what].read(KINDS[what].sound)


@pytest.mark.parametrize("what", KINDS)
@TRIED
@given(data=st.data())
def test_no_document_fails_otherwise(what: str, data: st.DataObject) -> None:
    raw = data.draw(spoilt(KINDS[what].sound))
    with suppress(DflmoeError):
        KINDS[what].read(raw)


@pytest.mark.parametrize("what", KINDS)
def test_what_broke_a_reader_once_breaks_none_again(what: str) -> None:
    kept = corpus(what)
    assert kept
    for path in kept:
        with suppress(DflmoeError):
            KINDS[what].read(path.read_bytes())
