"""Keys are made at the site, kept from others, and known by a fingerprint."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.security import NOW, keys_of

from dflmoe.errors import KeyFileError
from dflmoe.security.keys import (
    CERTIFICATE_DAYS,
    fingerprint,
    key_of,
    key_text,
    load_keys,
    new_keys,
    pinned,
    same_fingerprint,
    save_keys,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_keys(keys_of("ann"), tmp_path / "new" / "keys.pem")
    return tmp_path / "new" / "keys.pem"


def test_keys_come_back_as_they_were_saved_and_nobody_else_may_read_them(path: Path) -> None:
    back = load_keys(path)
    assert back.public == keys_of("ann").public
    assert back.pem == keys_of("ann").pem
    assert path.stat().st_mode & 0o777 == 0o600
    assert serialization.load_pem_private_key(back.tls_secret, None).public_key() == (
        back.certificate.public_key()
    )


def test_a_certificate_bears_the_name_of_its_site_and_ends(path: Path) -> None:
    certificate = load_keys(path).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ann"]
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=CERTIFICATE_DAYS)


def test_a_renewed_certificate_keeps_the_identity() -> None:
    old = keys_of("ann")
    renewed = new_keys("ann", NOW, old)
    assert renewed.public == old.public
    assert renewed.pem != old.pem


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_keys(path)


def test_a_file_that_is_missing_or_a_link_is_refused(path: Path) -> None:
    elsewhere = path.rename(path.with_name("elsewhere"))
    with pytest.raises(KeyFileError, match="site init"):
        load_keys(path)
    path.symlink_to(elsewhere)
    with pytest.raises(KeyFileError, match="is a link"):
        load_keys(path)


def blocks(site: str) -> list[str]:
    """Return the parts of a site's file: signing, wrapping and TLS key, certificate."""
    keys = keys_of(site)
    secret = [
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        for key in (keys.signing, keys.wrapping, keys.tls)
    ]
    return [*secret, keys.pem]


ANN, BOB = blocks("ann"), blocks("bob")
LOCKED = (
    keys_of("ann")
    .signing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    .decode()
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "does not hold", id="empty"),
        pytest.param("".join(ANN)[:-40], "does not hold", id="cut off"),
        pytest.param("".join(ANN[:3]), "does not hold", id="no certificate"),
        pytest.param("".join(ANN[::-1]), "does not hold", id="turned round"),
        pytest.param(LOCKED + "".join(ANN[1:]), "does not hold", id="with a password"),
        pytest.param(ANN[1] + ANN[0] + "".join(ANN[2:]), "other kinds", id="keys swapped"),
        pytest.param("".join(ANN[:3]) + BOB[3], "another key", id="another's certificate"),
        pytest.param(ANN[0] * 3 + ANN[3], "other kinds", id="one key three times"),
        pytest.param("é" + "".join(ANN), "cannot be read", id="not ASCII"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(path: Path, text: str, sentence: str) -> None:
    path.write_text(text)
    with pytest.raises(KeyFileError, match=sentence):
        load_keys(path)


def test_a_fingerprint_is_told_by_phone_in_any_spelling() -> None:
    key, other = keys_of("ann").public, keys_of("bob").public
    told = fingerprint(key)
    assert [len(group) for group in told.split("-")] == [4] * 5
    for spelling in (told, told.lower(), told.replace("-", " "), told.replace("-", "")):
        assert same_fingerprint(key, spelling)
        assert not same_fingerprint(other, spelling)
    assert not same_fingerprint(key, told[:-1])


def test_a_public_key_is_spelt_and_read() -> None:
    key = keys_of("ann").public
    assert key_of(key_text(key)) == key


def made(key: ed25519.Ed25519PrivateKey | None, *, named: bool = True) -> str:
    """Return a self-signed certificate of ann, of another key or without a name."""
    signer = key or keys_of("ann").tls
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "ann")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(signer.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if named:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("ann")]), critical=False
        )
    done = builder.sign(signer, None if key else hashes.SHA256())
    return done.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("pem", "sentence"),
    [
        pytest.param(made(ed25519.Ed25519PrivateKey.generate()), "P-256", id="another kind of key"),
        pytest.param(made(None, named=False), "malformed", id="no name"),
        pytest.param(made(None), "another name", id="a subject that another could have"),
        pytest.param(keys_of("bob").pem, "another name", id="another's"),
        pytest.param(keys_of("ann").pem * 2, "nothing else", id="two"),
        pytest.param("", "Unable to load", id="none"),
    ],
)
def test_a_certificate_of_another_form_is_not_pinned(pem: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pinned(pem, "ann")


def test_no_two_certificates_of_a_site_have_one_subject() -> None:
    old = keys_of("ann")
    renewed = new_keys("ann", NOW, old)
    assert renewed.certificate.subject != old.certificate.subject
    assert pinned(renewed.pem, "ann") == renewed.certificate
