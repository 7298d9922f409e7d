"""The keys of a site, made at the site and never leaving it.

An Ed25519 key is the site's identity: it signs heads and requests. An X25519 key opens what was
wrapped for it. A third, on the curve P-256, is for TLS; its certificate is self-signed, bears the
site's name, and is pinned by the roster, so no certificate authority can mint a site.
"""

import base64
import hashlib
import re
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import Field
from securesystemslib.signer import Key, SSlibKey

from dflmoe.errors import KeyFileError
from dflmoe.files import replace_file
from dflmoe.types import SiteId

CERTIFICATE_DAYS = 90

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 or X25519 key, raw and in hexadecimal digits."""

PEM = re.compile(r"(-----BEGIN ([A-Z ]+)-----\n.*?-----END \2-----\n)", re.DOTALL)
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class SiteKeys:
    """The keys of one site.

    Attributes:
        signing: Its identity.
        wrapping: Opens what was wrapped for it on its way through strangers.
        tls: Of its connections.
        certificate: Of its connections, pinned by its peers.
    """

    signing: ed25519.Ed25519PrivateKey
    wrapping: x25519.X25519PrivateKey
    tls: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def public(self) -> Key:
        """The key that others know the site by."""
        return SSlibKey.from_crypto(self.signing.public_key())

    @property
    def wrapping_text(self) -> str:
        """The public key that others wrap for, as documents spell it."""
        return self.wrapping.public_key().public_bytes_raw().hex()

    @property
    def tls_secret(self) -> bytes:
        """The key of the certificate as text: for connections, and never for anybody else."""
        return _secret(self.tls)

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


def subject_of(site: SiteId, key: ec.EllipticCurvePublicKey) -> x509.Name:
    """Return the subject of a site's certificate: its name, and the SHA-256 of its key.

    TLS finds a pinned certificate by its subject, so no two may have the same.
    """
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, site),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, hashlib.sha256(spki).hexdigest()),
        ]
    )


def pinned(pem: str, site: SiteId) -> x509.Certificate:
    """Return a certificate that a site may be known by: one as ``new_keys`` makes them.

    Raises:
        ValueError: It is malformed, of another kind, bears another name, or more stands in the
            text than one certificate.
    """
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        limits = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        found.verify_directly_issued_by(found)
    except (
        TypeError,
        InvalidSignature,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ValueError(f"malformed: {error!r}") from error
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not of a P-256 key")  # noqa: TRY004 - what was read, not what was passed
    if found.public_bytes(serialization.Encoding.PEM).decode("ascii") != pem:
        raise ValueError("not one certificate and nothing else")
    bears = names == x509.SubjectAlternativeName([x509.DNSName(site)])
    if limits.ca or not bears or found.subject != subject_of(site, key):
        raise ValueError("it bears another name")
    return found


def new_keys(site: SiteId, now: datetime, old: SiteKeys | None = None) -> SiteKeys:
    """Return new keys for a site.

    Args:
        site: Its name, which its certificate bears.
        now: When the certificate begins; it ends after ``CERTIFICATE_DAYS``.
        old: Keys of which only those of connections are renewed; all are drawn if not given.
    """
    tls = ec.generate_private_key(ec.SECP256R1())
    name = subject_of(site, tls.public_key())
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
    signing = old.signing if old else ed25519.Ed25519PrivateKey.generate()
    wrapping = old.wrapping if old else x25519.X25519PrivateKey.generate()
    return SiteKeys(signing, wrapping, tls, certificate)


def _secret(
    key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def save_keys(keys: SiteKeys, path: Path) -> None:
    """Write keys and certificate to one file that nobody else may read.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    secret = _secret(keys.signing) + _secret(keys.wrapping) + _secret(keys.tls)
    replace_file(path, secret + keys.pem.encode(), mode=0o600)


KEYS_AGAIN = "make keys with: dflmoe site init, or restore your backup"


def load_keys(path: Path) -> SiteKeys:
    """Read the keys of a site.

    Raises:
        KeyFileError: The file is missing, unreadable, a link, open to others, or holds something
            else; or key and certificate do not belong together.
    """
    blocks = [block.encode() for block, _ in PEM.findall(secret_text(path, KEYS_AGAIN))]
    try:
        signing, wrapping, tls = (
            serialization.load_pem_private_key(block, password=None) for block in blocks[:-1]
        )
        certificate = x509.load_pem_x509_certificate(blocks[-1])
    except (ValueError, TypeError, IndexError) as error:
        raise KeyFileError(
            f"{path} does not hold three private keys and a certificate; restore your backup"
        ) from error
    if not (
        isinstance(signing, ed25519.Ed25519PrivateKey)
        and isinstance(wrapping, x25519.X25519PrivateKey)
        and isinstance(tls, ec.EllipticCurvePrivateKey)
        and certificate.public_key() == tls.public_key()
    ):
        raise KeyFileError(
            f"{path} holds keys of other kinds, or a certificate of another key; "
            f"restore your backup"
        )
    return SiteKeys(signing, wrapping, tls, certificate)


def secret_text(path: Path, fix: str) -> str:
    """Return the text of a file that its owner alone may read.

    Args:
        path: The file.
        fix: What to do where it cannot be read.

    Raises:
        KeyFileError: It is missing, unreadable, a link, or open to others.
    """
    try:
        if path.is_symlink():
            raise KeyFileError(f"{path} is a link; put the file itself there")
        if path.stat().st_mode & OPEN_TO_OTHERS:
            raise KeyFileError(f"{path} may be read by others; run: chmod 600 {path}")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}; {fix}") from error
