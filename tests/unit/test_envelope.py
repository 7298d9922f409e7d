"""An envelope is opened in one order: size, form, key, signature, and only then what it says."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.security import NOW, keys_of, manifest

from dflmoe.errors import EnvelopeError, SecurityError, SignatureError, UnknownKeyError
from dflmoe.wire.envelope import ENVELOPE_LIMIT, HEAD, INVITATION, Opened, opened, seal
from dflmoe.wire.manifest import BANDS, Manifest, band

ANN, BOB = keys_of("ann"), keys_of("bob")
KNOWN = {ANN.public.keyid: ANN.public}
RAW = seal(b"said", HEAD, ANN.signing)


def changed(**parts: object) -> bytes:
    return json.dumps({**json.loads(RAW), **parts}).encode()


def test_what_was_sealed_is_opened_and_its_signer_named() -> None:
    assert opened(RAW, HEAD, KNOWN, "it") == Opened(b"said", frozenset({ANN.public.keyid}))


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        pytest.param(b" " * (ENVELOPE_LIMIT + 1), EnvelopeError, id="too large"),
        pytest.param(b"", EnvelopeError, id="empty"),
        pytest.param(b"\xff\xfe", EnvelopeError, id="no text"),
        pytest.param(b"[]", EnvelopeError, id="no object"),
        pytest.param(b"[" * 9000, EnvelopeError, id="deep"),
        pytest.param(changed(payload=3), EnvelopeError, id="a number for a string"),
        pytest.param(changed(payload="%"), EnvelopeError, id="no base64"),
        pytest.param(changed(more="x"), EnvelopeError, id="one key more"),
        pytest.param(changed(signatures=[]), EnvelopeError, id="no signature"),
        pytest.param(
            changed(signatures=[{"keyid": "a", "sig": "%"}]), EnvelopeError, id="bad signature"
        ),
        pytest.param(changed(payloadType=INVITATION), EnvelopeError, id="another document"),
        pytest.param(seal(b"said", HEAD, BOB.signing), UnknownKeyError, id="another's key"),
        pytest.param(
            seal(b"said", HEAD, ANN.signing, BOB.signing), UnknownKeyError, id="and another's key"
        ),
        pytest.param(
            changed(payload=base64.b64encode(b"sAid").decode()), SignatureError, id="changed"
        ),
    ],
)
def test_a_bad_envelope_is_refused_and_the_first_failure_names_itself(
    raw: bytes, error: type[SecurityError]
) -> None:
    with pytest.raises(error, match="it "):
        opened(raw, HEAD, KNOWN, "it")


def test_a_signature_for_one_kind_of_document_does_not_serve_for_another() -> None:
    raw = seal(b"said", INVITATION, ANN.signing)
    relabelled = json.dumps({**json.loads(raw), "payloadType": HEAD}).encode()
    with pytest.raises(SignatureError):
        opened(relabelled, HEAD, KNOWN, "it")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
@example(RAW[:-1])
@example(RAW + b" x")
def test_no_bytes_make_it_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(SecurityError):
        opened(raw, HEAD, KNOWN, "it")


def test_a_manifest_is_read_as_it_was_written() -> None:
    one = manifest()
    assert Manifest.read(one.signed(), "the manifest") == one


@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param(lambda m: m.pop("seq"), "seq", id="a key missing"),
        pytest.param(lambda m: m.update(more=1), "more", id="a key more"),
        pytest.param(lambda m: m.update(seq=-1), "seq", id="below zero"),
        pytest.param(lambda m: m.update(seq=2**63), "seq", id="beyond 63 bits"),
        pytest.param(lambda m: m.update(seq="1"), "seq", id="text for a number"),
        pytest.param(lambda m: m.update(site="../ann"), "site", id="a path for a name"),
        pytest.param(lambda m: m.update(site="ann\n"), "site", id="a line's end in a name"),
        pytest.param(lambda m: m.update(payload="AB"), "payload", id="no digest"),
        pytest.param(lambda m: m.update(format="dflmoe-card-1"), "format", id="another format"),
        pytest.param(lambda m: m.update(rows="37"), "rows", id="rows told exactly"),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    change: Callable[[dict[str, object]], object], where: str
) -> None:
    table = json.loads(manifest().signed())
    change(table)
    with pytest.raises(EnvelopeError, match=f"cannot be read: {where}"):
        Manifest.read(json.dumps(table).encode(), "the manifest")


def test_a_manifest_that_is_no_json_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="cannot be read: it"):
        Manifest.read(b"{", "the manifest")


@given(st.integers(0, 10**6))
def test_rows_are_told_as_the_band_that_holds_them(rows: int) -> None:
    name = band(rows)
    low, _, high = name.rstrip("+").partition("-")
    assert int(low) <= rows
    assert rows <= int(high) if high else rows >= BANDS[-1]


def test_moments_are_told_to_the_second() -> None:
    assert NOW.microsecond == 0
    assert NOW.utcoffset() is not None
