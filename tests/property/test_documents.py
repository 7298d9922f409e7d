"""Whatever bytes a person hands over: they are refused with a sentence, and nothing else."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.security import NOW, asks, keys_of, manifest, roster_of

from dflmoe.errors import DflmoeError
from dflmoe.node.audit import Line
from dflmoe.node.settings import Settings
from dflmoe.security.audit import entry_after
from dflmoe.security.card import requested
from dflmoe.security.charter import Charter
from dflmoe.security.invitation import invite, invited
from dflmoe.security.policy import Policy
from dflmoe.security.roster import bundled, checked, trust_of
from dflmoe.wire.envelope import HEAD, opened, seal
from dflmoe.wire.frames import unframed
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.parcel import unpacked

ROSTER = roster_of("ann", "bob")
ANN = keys_of("ann")
INVITATION = invite(
    ROSTER.charter, inviter="ann", keys=ANN, root=None, site="cleo", now=NOW - timedelta(days=1)
)
ENVELOPE = seal(manifest().signed(), HEAD, ANN.signing)
ENTRY = entry_after(None, "begin", {"site": "ann"}, NOW)

TRIED = settings(max_examples=int(os.environ.get("DFLMOE_TRIES", "900")), deadline=None)
"""Each of eleven kinds: ten thousand in all, and a million with ``make fuzz``."""

Read = Callable[[bytes], object]


def from_file(load: Callable[[Path], object], path: Path) -> Read:
    def read(raw: bytes) -> object:
        path.write_bytes(raw)
        return load(path)

    return read


CASES: dict[str, tuple[bytes, Read]] = {
    "an invitation": (INVITATION, lambda raw: invited(raw, site="cleo", now=NOW)),
    "a request": (asks("cleo").signed(), requested),
    "a roster": (
        ROSTER.raw,
        lambda raw: checked(bundled(raw), trust_of(ROSTER.bundle), held=ROSTER, now=NOW),
    ),
    "an envelope": (
        ENVELOPE,
        lambda raw: Manifest.read(opened(raw, HEAD, ROSTER.keys, "it").payload, "it"),
    ),
    "a charter": (ROSTER.charter.signed(), lambda raw: Charter.read(raw, "it")),
    "a head's file": (ENVELOPE, lambda raw: unpacked(raw, "it")),
    "a frame": (b"S" + b"{}", unframed),
    "a line of a log": (Line(entry=ENTRY).signed(), lambda raw: Line.read(raw, "it")),
}

TOML: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a policy": (b'lenders = ["ann"]\nmin_rows = 3\n', Policy.load),
    "settings": (b'bind = "a:1"\n[data]\npath = "rows.csv"\n', Settings.load),
    "rules": (b'name = "x"\n', Charter.found),
}


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


def refuses(read: Read, raw: bytes) -> None:
    """Read something that was spoilt: it is taken, or refused by an error of ours."""
    with suppress(DflmoeError):
        read(raw)


@pytest.mark.parametrize("what", CASES)
@TRIED
@given(data=st.data())
def test_no_document_that_a_person_hands_over_fails_otherwise(
    what: str, data: st.DataObject
) -> None:
    sound, read = CASES[what]
    refuses(read, data.draw(spoilt(sound)))


@pytest.mark.parametrize("what", TOML)
def test_no_file_of_settings_fails_otherwise(
    what: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sound, load = TOML[what]
    read = from_file(load, tmp_path_factory.mktemp("fuzz") / "file.toml")

    @TRIED
    @given(spoilt(sound))
    def tried(raw: bytes) -> None:
        refuses(read, raw)

    tried()
