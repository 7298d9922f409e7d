"""A payload that only members can read: what lies on a relay, in a shared folder or on a stick.

One key of AES-256-GCM is drawn for each payload and wrapped for every member by HPKE (RFC 9180,
X25519). A head's identity stays the signature and digest of what is inside, so a member may wrap it
anew for a newcomer, and whoever passes it on can neither read it nor change it unnoticed.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field

from dflmoe.errors import EnvelopeError
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Document, FederationId, SiteName

MAGIC = b"dflmoe-wrapped-1\n"
LENGTH = 4
HEADER_LIMIT = 256 * 1024
KEY_BITS, NONCE_BYTES = 256, 12
SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,256}$")]


class _Header(Document):
    format: Literal["dflmoe-wrapped-1"] = "dflmoe-wrapped-1"
    federation: FederationId
    nonce: Hex
    keys: dict[SiteName, Hex]


def wrapped(
    payload: bytes, federation: FederationId, members: Mapping[SiteId, X25519PublicKey]
) -> bytes:
    """Return a payload that the members of a federation can read, and nobody else.

    Args:
        payload: What is inside.
        federation: For whom; a wrapper moved to another federation does not open.
        members: Their keys.
    """
    key, nonce = AESGCM.generate_key(KEY_BITS), secrets.token_bytes(NONCE_BYTES)
    header = _Header(
        federation=federation,
        nonce=nonce.hex(),
        keys={
            site: SUITE.encrypt(key, public, _info(federation, site)).hex()
            for site, public in members.items()
        },
    ).signed()
    inside = AESGCM(key).encrypt(nonce, payload, federation.encode())
    return MAGIC + len(header).to_bytes(LENGTH, "big") + header + inside


def is_wrapped(raw: bytes) -> bool:
    """Return whether some bytes say that they are a wrapped payload."""
    return raw.startswith(MAGIC)


def recipients(raw: bytes, what: str) -> frozenset[SiteId]:
    """Return the sites that can open a wrapper.

    Raises:
        EnvelopeError: It is no wrapper.
    """
    return frozenset(_parts(raw, what)[0].keys)


def unwrapped(
    raw: bytes, federation: FederationId, site: SiteId, key: X25519PrivateKey, what: str
) -> bytes:
    """Return what is inside a wrapper.

    Raises:
        EnvelopeError: It is no wrapper, is of another federation, was changed, or is not for the
            site.
    """
    header, inside = _parts(raw, what)
    if header.federation != federation:
        raise EnvelopeError(f"{what} is wrapped for another federation")
    if site not in header.keys:
        raise EnvelopeError(
            f"{what} was wrapped before {site} belonged; a member that holds it wraps it anew"
        )
    try:
        opened = SUITE.decrypt(bytes.fromhex(header.keys[site]), key, _info(federation, site))
        return AESGCM(opened).decrypt(bytes.fromhex(header.nonce), inside, federation.encode())
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError(f"{what} was changed on its way, or wrapped for another key") from error


def _info(federation: FederationId, site: SiteId) -> bytes:
    return f"dflmoe-wrapped-1/{federation}/{site}".encode()


def _parts(raw: bytes, what: str) -> tuple[_Header, bytes]:
    begin = len(MAGIC) + LENGTH
    length = int.from_bytes(raw[len(MAGIC) : begin], "big")
    if not is_wrapped(raw) or length > HEADER_LIMIT or len(raw) < begin + length:
        raise EnvelopeError(f"{what} is no wrapped payload, or is cut off")
    return _Header.read(raw[begin : begin + length], what), raw[begin + length :]
