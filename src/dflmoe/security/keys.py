"""The keys of a site, made at the site and never leaving it.

An Ed25519 key is the site's identity: it signs heads and requests. A second key, on the curve
P-256, is for TLS; its certificate is self-signed, bears the site's name, and is pinned by the
roster, so no certificate authority can mint a site.
"""

import base64
import hashlib
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import Field
from securesystemslib.signer import Key, SSlibKey

from dflmoe.errors import KeyFileError
from dflmoe.files import replace_file
from dflmoe.types import SiteId

SIGNING, TLS, CERTIFICATE = "sign.pem", "tls.pem", "tls.crt"
"""Files in the folder of keys; the first two are secret."""

CERTIFICATE_DAYS = 90

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 key, raw and in hexadecimal digits."""

OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class SiteKeys:
    """The keys of one site.

    Attributes:
        signing: Its identity.
        tls: Of its connections.
        certificate: Of its connections, pinned by its peers.
    """

    signing: ed25519.Ed25519PrivateKey
    tls: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def public(self) -> Key:
        """The key that others know the site by."""
        return SSlibKey.from_crypto(self.signing.public_key())

    @property
    def pem(self) -> str:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def key_text(key: Key) -> str:
    """Return a public key as documents spell it."""
    text: str = key.to_dict()["keyval"]["public"]
    return text


def key_of(text: PublicKey) -> Key:
    """Return the public key that a document spells."""
    return SSlibKey.from_crypto(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))


def fingerprint(key: Key) -> str:
    """Return what two people compare by phone: 100 bits in five groups of letters and digits."""
    raw = hashlib.sha256(bytes.fromhex(key_text(key))).digest()
    text = base64.b32encode(raw).decode("ascii")[:20]
    return "-".join(text[k : k + 4] for k in range(0, 20, 4))


def same_fingerprint(key: Key, told: str) -> bool:
    """Return whether a fingerprint that somebody read aloud is that of a key."""
    return told.upper().replace(" ", "").replace("-", "") == fingerprint(key).replace("-", "")


def new_keys(
    site: SiteId, now: datetime, signing: ed25519.Ed25519PrivateKey | None = None
) -> SiteKeys:
    """Return new keys for a site.

    Args:
        site: Its name, which its certificate bears.
        now: When the certificate begins; it ends after ``CERTIFICATE_DAYS``.
        signing: The identity to keep; a new one is drawn if not given.
    """
    tls = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(tls.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks of peers differ
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(site)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(tls, SHA256())
    )
    return SiteKeys(signing or ed25519.Ed25519PrivateKey.generate(), tls, certificate)


def save_keys(keys: SiteKeys, folder: Path) -> None:
    """Write keys to a folder that nobody else may read.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    for name, key in ((SIGNING, keys.signing), (TLS, keys.tls)):
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        replace_file(folder / name, pem, mode=0o600)
    replace_file(folder / CERTIFICATE, keys.pem)


def load_keys(folder: Path) -> SiteKeys:
    """Read the keys of a site.

    Raises:
        KeyFileError: A file is missing, unreadable, a link, of another kind, or open to others; or
            key and certificate do not belong together.
    """
    signing = _private(folder / SIGNING)
    tls = _private(folder / TLS)
    if not isinstance(signing, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{folder / SIGNING} holds no Ed25519 key; restore it from your backup")
    if not isinstance(tls, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{folder / TLS} holds no P-256 key; restore it from your backup")
    try:
        certificate = x509.load_pem_x509_certificate(_bytes(folder / CERTIFICATE))
    except ValueError as error:
        raise KeyFileError(f"{folder / CERTIFICATE} is no certificate: {error}") from error
    if certificate.public_key() != tls.public_key():
        raise KeyFileError(
            f"{folder / CERTIFICATE} is not of the key in {folder / TLS}; "
            f"make a new one with: dflmoe site renew"
        )
    return SiteKeys(signing, tls, certificate)


def _bytes(path: Path) -> bytes:
    try:
        if path.is_symlink():
            raise KeyFileError(f"{path} is a link; put the file itself there")
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read: {error.strerror or error}; "
            f"make keys with: dflmoe site init, or restore your backup"
        ) from error


def _private(path: Path) -> object:
    raw = _bytes(path)
    if path.stat().st_mode & OPEN_TO_OTHERS:
        raise KeyFileError(f"{path} may be read by others; run: chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(raw, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is no private key without a password: {error}") from error
