"""Signed envelopes (DSSE): bytes that nobody has checked, and the one way to open them.

The order of checks is the promise: size, form, key, signature, and only then is the payload parsed
by whoever asked for it.
"""

import base64
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, Field
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Key, Signature

from dflmoe.errors import EnvelopeError, SignatureError, UnknownKeyError

ENVELOPE_LIMIT = 16 * 1024
"""Larger envelopes are refused unread."""

HEAD = "application/vnd.dflmoe.head.v1+json"
REQUEST = "application/vnd.dflmoe.request.v1+json"
INVITATION = "application/vnd.dflmoe.invitation.v1+json"

Text = Annotated[str, Field(max_length=ENVELOPE_LIMIT)]


class _Signature(BaseModel, frozen=True, extra="forbid", strict=True):
    keyid: Text
    sig: Text


class _Form(BaseModel, frozen=True, extra="forbid", strict=True):
    payload: Text
    payloadType: Text  # noqa: N815 - as DSSE spells it
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=4)]


class Opened(NamedTuple):
    """What an envelope holds.

    Attributes:
        payload: The very bytes that were signed.
        signers: Ids of the keys whose signatures were checked: all that are on it.
    """

    payload: bytes
    signers: frozenset[str]


def seal(payload: bytes, kind: str, *keys: Ed25519PrivateKey) -> bytes:
    """Return an envelope, signed with every key."""
    envelope = Envelope(payload, kind, {})
    signatures = [envelope.sign(CryptoSigner(key)) for key in keys]
    return (
        _Form(
            payload=_text(payload),
            payloadType=kind,
            signatures=tuple(
                _Signature(keyid=s.keyid, sig=_text(bytes.fromhex(s.signature))) for s in signatures
            ),
        )
        .model_dump_json()
        .encode()
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def unsealed(raw: bytes, kind: str, what: str) -> Envelope:
    """Return the parts of an envelope, none of which is to be believed yet.

    Raises:
        EnvelopeError: It is too large, malformed, or of another kind.
    """
    if len(raw) > ENVELOPE_LIMIT:
        raise EnvelopeError(f"{what} has {len(raw)} bytes; the limit is {ENVELOPE_LIMIT}")
    try:
        form = _Form.model_validate_json(raw)
        payload = base64.b64decode(form.payload, validate=True)
        signatures = {
            s.keyid: Signature(s.keyid, base64.b64decode(s.sig, validate=True).hex())
            for s in form.signatures
        }
    except ValueError as error:  # what the form, or base64, refuses
        raise EnvelopeError(f"{what} is no signed document of ours; ask for it again") from error
    if form.payloadType != kind:
        raise EnvelopeError(f"{what} is another document ({form.payloadType[:80]}), not {kind}")
    return Envelope(payload, form.payloadType, signatures)


def opened(raw: bytes, kind: str, keys: Mapping[str, Key], what: str) -> Opened:
    """Return what an envelope holds, once every signature on it was checked.

    Args:
        raw: As received.
        kind: The kind of document that it must be.
        keys: Those that may sign, by id.
        what: What it is called in errors.

    Raises:
        EnvelopeError: It is too large, malformed, or of another kind.
        UnknownKeyError: A signature is by a key that may not sign.
        SignatureError: A signature does not match.
    """
    envelope = unsealed(raw, kind, what)
    signed = envelope.pae()
    for keyid, signature in envelope.signatures.items():
        key = keys.get(keyid)
        if key is None:
            raise UnknownKeyError(
                f"{what} is signed with key {keyid[:12]}, which may not sign it; "
                f"ask for a newer roster, or refuse it"
            )
        try:
            key.verify_signature(signature, signed)
        except UnverifiedSignatureError as error:
            raise SignatureError(
                f"{what} was changed after it was signed, or never signed by its sender"
            ) from error
    return Opened(envelope.payload, frozenset(envelope.signatures))
