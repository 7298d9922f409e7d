"""What two replicas say to each other on a stream: small frames, each of one kind.

A frame is one byte that names its kind, and what follows: JSON for what is short, bytes for
envelopes and pieces of payloads. Nothing in it is believed before the replica has checked it.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dflmoe.errors import EnvelopeError
from dflmoe.wire.manifest import Count, Digest, Document, SiteName

CHUNK_BYTES = 256 * 1024
FRAME_BYTES = 5 * 1024**2
"""Larger frames are refused unread; a roster is the largest."""

DIGEST, OFFSET, MARK = 32, 8, 16

Mark = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Summary(Document):
    """What the sender holds: each site's newest head, by number and mark, and its roster.

    A mark is the beginning of the payload's digest: two heads of one number differ by it.
    """

    roster: Digest
    heads: dict[SiteName, tuple[Count, Mark]]


class Ask(Document):
    """Asks for the envelope of a site's newest head."""

    site: SiteName


class Want(Document):
    """Asks for a payload, from an offset of the bytes that the other side stores as ``blob``."""

    payload: Digest
    blob: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    at: Count


@dataclass(frozen=True)
class Announce:
    """Offers a head."""

    envelope: bytes


@dataclass(frozen=True)
class RosterFrame:
    """Hands on a roster."""

    bundle: bytes


@dataclass(frozen=True)
class Chunk:
    """A piece of a payload.

    Attributes:
        payload: Digest of the head's payload, which names it.
        blob: Digest of all bytes that are sent: those of the payload, or of its wrapper.
        at: Where the piece begins.
        last: Whether it is the last.
        piece: The bytes.
    """

    payload: str
    blob: str
    at: int
    last: bool
    piece: bytes


Frame = Summary | Ask | Want | Announce | RosterFrame | Chunk


def framed(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    match frame:
        case Summary():
            return b"S" + frame.signed()
        case Ask():
            return b"Q" + frame.signed()
        case Want():
            return b"W" + frame.signed()
        case Announce():
            return b"A" + frame.envelope
        case RosterFrame():
            return b"R" + frame.bundle
    head = bytes.fromhex(frame.payload) + bytes.fromhex(frame.blob)
    at = frame.at.to_bytes(OFFSET, "big")
    return b"".join((b"C", head, at, bytes([frame.last]), frame.piece))


def is_chunk(raw: bytes) -> bool:
    """Return whether a frame is a piece of a payload."""
    return raw.startswith(b"C")


def unframed(raw: bytes) -> Frame:
    """Return the frame that some bytes are.

    Raises:
        EnvelopeError: They are none.
    """
    kind, rest = raw[:1], raw[1:]
    match kind:
        case b"S":
            return Summary.read(rest, "a summary")
        case b"Q":
            return Ask.read(rest, "a question")
        case b"W":
            return Want.read(rest, "a wish")
        case b"A":
            return Announce(rest)
        case b"R":
            return RosterFrame(rest)
        case b"C" if len(rest) > 2 * DIGEST + OFFSET:
            at = 2 * DIGEST + OFFSET
            return Chunk(
                payload=rest[:DIGEST].hex(),
                blob=rest[DIGEST : 2 * DIGEST].hex(),
                at=int.from_bytes(rest[2 * DIGEST : at], "big"),
                last=rest[at] == 1,
                piece=rest[at + 1 :],
            )
    raise EnvelopeError(f"a frame of {len(raw)} bytes is of no kind that is known")
