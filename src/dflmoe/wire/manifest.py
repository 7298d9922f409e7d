"""The manifest of a lent head: what its signature covers beside the digest of the payload.

It names sites, numbers and hashes only: how many rows a site has is told as a band.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from dflmoe.core.site import LentKind
from dflmoe.errors import EnvelopeError
from dflmoe.wire.payload import WireDtype

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A site's name is a label of the domain name system, so that a certificate can bear it."""

FederationId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]

BANDS = (20, 50, 100, 200, 500, 2000)
"""Where bands of rows begin."""

Band = Literal["0-19", "20-49", "50-99", "100-199", "200-499", "500-1999", "2000+"]


def band(rows: int) -> Band:
    """Return the band that a number of rows lies in."""
    name: Band = get_args(Band)[sum(rows >= begin for begin in BANDS)]
    return name


def now() -> datetime:
    """Return this moment, to the second and in UTC, as documents state it."""
    return datetime.now(UTC).replace(microsecond=0)


def faults_of(error: ValidationError) -> str:
    """Return all that is wrong with something that people wrote, each with its place."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


FORMAT = re.compile(r"'?(dflmoe-[a-z]+)-([1-9][0-9]{0,3})'?")
"""What a document says that it is, and in which version."""


def _is_newer(found: object, context: Mapping[str, object]) -> bool:
    """Return whether a format is a later version of the one that was expected."""
    has, wanted = (FORMAT.fullmatch(str(one)) for one in (found, context["expected"]))
    if has is None or wanted is None or has[1] != wanted[1]:
        return False
    return int(has[2]) > int(wanted[2])


class Document(BaseModel, frozen=True, extra="forbid", strict=True):
    """Something that is signed: immutable, and a key that nobody knows is an error.

    Attributes:
        later: Fields that came after a format was first written. Where one has its default it is
            not written, so that an older document keeps its digest, and an older version reads it.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def read(cls, payload: bytes, what: str) -> Self:
        """Return the document that some bytes are.

        Raises:
            EnvelopeError: They are no such document.
        """
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "literal_error" and _is_newer(first["input"], first["ctx"]):
                raise EnvelopeError(
                    f"{what} has the format {first['input']}, which is newer than this version of "
                    f"dflmoe; upgrade it"
                ) from error
            where = ".".join(map(str, first["loc"])) or "it"
            raise EnvelopeError(f"{what} cannot be read: {where}: {first['msg']}") from error

    def signed(self) -> bytes:
        """Return the bytes that are signed."""
        fields = type(self).model_fields
        unsaid = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump_json(exclude=unsaid).encode()


class Spent(Document):
    """Privacy that all heads of a site have spent together."""

    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(ge=0, lt=1)]


class Manifest(Document):
    """What a site says of a head that it lends.

    Attributes:
        format: Of this document.
        federation: Whom it is for.
        charter: SHA-256 of the rules that it was made by: task, classes, input and architecture.
        site: Who lends.
        seq: Orders the heads of a site; a receiver takes none that is not newer.
        round: The lender's own; it informs, and orders nothing.
        kind: What the tensors are.
        network: Architecture of the head.
        width: Features that it reads.
        dtype: How numbers travel.
        rounding: What that cost them: the relative error (Euclidean) of what arrives.
        size: Bytes of the payload.
        payload: Its SHA-256.
        rows: Band of the rows that it learnt from.
        parent: Payload of the head before; none of the first.
        privacy: What was spent; none where nothing was promised.
        audit: Head of the site's audit chain, so that peers can witness it.
        created: By the lender's clock.
        software: Version of this package.
    """

    format: Literal["dflmoe-head-1"] = "dflmoe-head-1"
    federation: FederationId
    charter: Digest
    site: SiteName
    seq: Count
    round: Count
    kind: LentKind
    network: Annotated[str, Field(max_length=200)]
    width: Count
    dtype: WireDtype
    rounding: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    size: Count
    payload: Digest
    rows: Band
    parent: Digest | None = None
    privacy: Spent | None = None
    audit: Digest | None = None
    created: AwareDatetime
    software: Annotated[str, Field(max_length=40)]
