"""Every kind of document and message that comes from outside: a sound one, and who reads it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.security import CHARTER, NOW, asks, keys_of, manifest, roster_of

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
from dflmoe.wire.payload import HeadSpec, decode, digest, encode
from dflmoe.wire.wrapper import unwrapped, wrapped

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that broke readers, here or elsewhere: those in the folder itself are tried on every kind,
those in a folder of a kind on that kind."""

ROSTER = roster_of("ann", "bob")
ANN = keys_of("ann")
INVITATION = invite(
    ROSTER.charter, inviter="ann", keys=ANN, root=None, site="cleo", now=NOW - timedelta(days=1)
)
ENVELOPE = seal(manifest().signed(), HEAD, ANN.signing)
ENTRY = entry_after(None, "begin", {"site": "ann"}, NOW)
HEADS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
KEY = X25519PrivateKey.from_private_bytes(bytes(31) + b"1")
SPEC = HeadSpec({name: tuple(p.shape) for name, p in HEADS.items()})


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes:
        sound: One that is read without complaint.
        read: What reads it, and refuses with an error of ours what it cannot.
    """

    sound: bytes
    read: Callable[[bytes], object]


def of_file(load: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a reader of what a person writes to a file."""

    def read(raw: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file.toml"
            path.write_bytes(raw)
            return load(path)

    return read


KINDS = {
    "invitation": Kind(INVITATION, lambda raw: invited(raw, site="cleo", now=NOW)),
    "request": Kind(asks("cleo").signed(), requested),
    "roster": Kind(
        ROSTER.raw,
        lambda raw: checked(bundled(raw), trust_of(ROSTER.bundle), held=ROSTER, now=NOW),
    ),
    "envelope": Kind(
        ENVELOPE,
        lambda raw: Manifest.read(opened(raw, HEAD, ROSTER.keys, "it").payload, "it"),
    ),
    "manifest": Kind(manifest().signed(), lambda raw: Manifest.read(raw, "it")),
    "payload": Kind(encode(HEADS), lambda raw: decode(raw, digest(raw), SPEC, "ann")),
    "wrapper": Kind(
        wrapped(encode(HEADS), CHARTER.federation, {"ann": KEY.public_key()}),
        lambda raw: unwrapped(raw, CHARTER.federation, "ann", KEY, "it"),
    ),
    "charter": Kind(ROSTER.charter.signed(), lambda raw: Charter.read(raw, "it")),
    "parcel": Kind(ENVELOPE, lambda raw: unpacked(raw, "it")),
    "frame": Kind(b"S" + b"{}", unframed),
    "line": Kind(Line(entry=ENTRY).signed(), lambda raw: Line.read(raw, "it")),
    "policy": Kind(b'lenders = ["ann"]\nmin_rows = 3\n', of_file(Policy.load)),
    "settings": Kind(b'bind = "a:1"\n[data]\npath = "rows.csv"\n', of_file(Settings.load)),
    "rules": Kind(b'name = "x"\n', of_file(Charter.found)),
}


def corpus(what: str) -> list[Path]:
    """Return the inputs that are kept for a kind."""
    return sorted(
        path for folder in (CORPUS, CORPUS / what) for path in folder.glob("*") if path.is_file()
    )
