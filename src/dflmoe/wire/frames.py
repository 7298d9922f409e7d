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

DIGEST, NUMBER, MARK = 32, 8, 16

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
    """Asks for the payload of a site's newest head.

    Attributes:
        number: Of the wish; every piece of the answer bears it.
        site: Whose head.
        payload: Digest of the payload, as the head's envelope says it.
        blob: Digest of the bytes of which some are there already; empty for none.
        at: How many of them are there.
    """

    number: Count
    site: SiteName
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
        number: Of the wish that it answers.
        blob: Digest of all bytes that are sent: those of the payload, or of its wrapper.
        at: Where the piece begins.
        last: Whether it is the last.
        piece: The bytes.
    """

    number: int
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
    number, at = (n.to_bytes(NUMBER, "big") for n in (frame.number, frame.at))
    return b"".join((b"C", number, at, bytes.fromhex(frame.blob), bytes([frame.last]), frame.piece))


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
        case b"C" if len(rest) > 2 * NUMBER + DIGEST:
            end = 2 * NUMBER + DIGEST
            return Chunk(
                number=int.from_bytes(rest[:NUMBER], "big"),
                blob=rest[2 * NUMBER : end].hex(),
                at=int.from_bytes(rest[NUMBER : 2 * NUMBER], "big"),
                last=rest[end] == 1,
                piece=rest[end + 1 :],
            )
    raise EnvelopeError(f"a frame of {len(raw)} bytes is of no kind that is known")
