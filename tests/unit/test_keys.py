"""Keys are made at the site, kept from others, and known by a fingerprint."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tests.security import NOW, keys_of

from dflmoe.errors import KeyFileError
from dflmoe.security.keys import (
    CERTIFICATE,
    CERTIFICATE_DAYS,
    SIGNING,
    TLS,
    fingerprint,
    key_of,
    key_text,
    load_keys,
    new_keys,
    same_fingerprint,
    save_keys,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_keys(keys_of("ann"), tmp_path / "keys")
    return tmp_path / "keys"


def test_keys_come_back_as_they_were_saved_and_nobody_else_may_read_them(folder: Path) -> None:
    back = load_keys(folder)
    assert back.public == keys_of("ann").public
    assert back.pem == keys_of("ann").pem
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {
        SIGNING: 0o600,
        TLS: 0o600,
        CERTIFICATE: 0o644,
    }


def test_a_certificate_bears_the_name_of_its_site_and_ends(folder: Path) -> None:
    certificate = load_keys(folder).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ann"]
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=CERTIFICATE_DAYS)


def test_a_renewed_certificate_keeps_the_identity() -> None:
    old = keys_of("ann")
    renewed = new_keys("ann", NOW, old.signing)
    assert renewed.public == old.public
    assert renewed.pem != old.pem


@pytest.mark.parametrize("name", [SIGNING, TLS])
def test_a_key_that_others_may_read_is_refused(folder: Path, name: str) -> None:
    (folder / name).chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_keys(folder)


@pytest.mark.parametrize("name", [SIGNING, TLS, CERTIFICATE])
def test_a_file_that_is_missing_changed_or_a_link_is_refused(folder: Path, name: str) -> None:
    path, kept = folder / name, (folder / name).read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(KeyFileError, match=name):
        load_keys(folder)
    path.unlink()
    with pytest.raises(KeyFileError, match="site init"):
        load_keys(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.write_bytes(kept)
    path.symlink_to(elsewhere)
    with pytest.raises(KeyFileError, match="is a link"):
        load_keys(folder)


def test_a_key_of_another_kind_is_refused(folder: Path) -> None:
    (folder / SIGNING).write_bytes((folder / TLS).read_bytes())
    with pytest.raises(KeyFileError, match="no Ed25519 key"):
        load_keys(folder)
    save_keys(keys_of("ann"), folder)
    (folder / TLS).write_bytes((folder / SIGNING).read_bytes())
    with pytest.raises(KeyFileError, match="no P-256 key"):
        load_keys(folder)


def test_a_key_with_a_password_is_refused(folder: Path) -> None:
    locked = keys_of("ann").signing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (folder / SIGNING).write_bytes(locked)
    with pytest.raises(KeyFileError, match="without a password"):
        load_keys(folder)


def test_the_certificate_of_another_key_is_refused(folder: Path) -> None:
    (folder / CERTIFICATE).write_text(keys_of("bob").pem)
    with pytest.raises(KeyFileError, match="site renew"):
        load_keys(folder)


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
