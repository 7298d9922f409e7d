"""Print docs/reference/wire-vectors.json: fixed keys and numbers, and the bytes that they become.

Run it as ``python scripts/wire_vectors.py > docs/reference/wire-vectors.json``. A test compares the
two, and reads the vectors back. What is drawn by chance (a wrapper's key and nonce) has a vector to
be read, in ``tests/golden``, and none to be written.
"""

import json
from datetime import UTC, datetime

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dflmoe.security.audit import entry_after
from dflmoe.wire.envelope import HEAD, seal
from dflmoe.wire.frames import Ask, Chunk, Want, framed
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.parcel import packed
from dflmoe.wire.payload import digest, encode

SECRET = bytes(range(32))
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
HEADS = {
    "weight": torch.tensor([[[0.5, -1.25, 3.0], [0.0, 1e-3, -2.0]]]),
    "bias": torch.tensor([[0.25, -0.25]]),
}


def vectors() -> dict[str, object]:
    """Return all vectors."""
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    public = key.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    payload = encode(HEADS)
    manifest = Manifest(
        federation="0123456789abcdef" * 2,
        charter="c" * 64,
        site="ann",
        seq=1_764_244_800_000_000,
        round=3,
        kind="head",
        network="plain",
        width=3,
        dtype="fp32",
        size=len(payload),
        payload=digest(payload),
        rows="100-199",
        created=NOON,
        software="0.1.0",
    ).signed()
    envelope = seal(manifest, HEAD, key)
    return {
        "secret_key": SECRET.hex(),
        "public_key": public.hex(),
        "tensors": {name: p.tolist() for name, p in HEADS.items()},
        "payload": {dtype: encode(HEADS, dtype).hex() for dtype in ("fp32", "fp16", "int8")},
        "payload_sha256": digest(payload),
        "manifest": manifest.decode(),
        "envelope": envelope.decode(),
        "parcel": packed(envelope, payload).hex(),
        "frames": {
            "ask": framed(Ask(site="ann")).hex(),
            "want": framed(
                Want(number=7, site="ann", payload=digest(payload), blob="", at=0)
            ).hex(),
            "chunk": framed(
                Chunk(number=7, blob=digest(payload), at=0, last=True, piece=payload)
            ).hex(),
        },
        "audit_entry": (first := entry_after(None, "begin", {"site": "ann"}, NOON))
        .signed()
        .decode(),
        "audit_digest": first.digest,
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
