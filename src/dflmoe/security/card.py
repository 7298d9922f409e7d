"""What a site says of itself, and how it asks to belong.

A request may travel by any channel; it is not believed for what it says but for the fingerprint of
its key, which two people compare by phone.
"""

from typing import Annotated, Literal

from pydantic import Field

from dflmoe.errors import EnvelopeError
from dflmoe.security.keys import PublicKey
from dflmoe.wire.manifest import Document, FederationId, SiteName

REQUEST_BYTES = 64 * 1024
"""Larger requests are refused unread."""

Pem = Annotated[str, Field(max_length=4096)]
Endpoint = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]{1,253}:[0-9]{1,5}$")]
Text = Annotated[str, Field(max_length=16 * 1024)]


class Card(Document):
    """What a site says of itself: how to reach it and by which certificates to know it.

    Attributes:
        format: Of this document.
        federation: For which it is said.
        site: Who says it.
        wrapping: Its key for what is wrapped for it (X25519).
        certificates: Of its connections, as PEM; two while one is renewed.
        endpoints: Where it can be dialled, ``host:port``; none for a site that only dials.
    """

    format: Literal["dflmoe-card-1"] = "dflmoe-card-1"
    federation: FederationId
    site: SiteName
    wrapping: PublicKey
    certificates: Annotated[tuple[Pem, ...], Field(min_length=1, max_length=2)]
    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=4)] = ()


class Request(Document):
    """What a newcomer sends back: its key, its card, and its signature over the card.

    Attributes:
        format: Of this document.
        key: Its key, whose fingerprint is compared by phone.
        card: Its card.
        signed_card: The newcomer's metadata (TUF) that signs the card.
    """

    format: Literal["dflmoe-request-1"] = "dflmoe-request-1"
    key: PublicKey
    card: Text
    signed_card: Text

    def shown(self) -> Card:
        """Return the card, which is not to be believed before the roster holds it.

        Raises:
            EnvelopeError: It is no card.
        """
        return Card.read(self.card.encode(), "the card of the request")


def requested(raw: bytes) -> Request:
    """Return a request, which is not to be believed before its fingerprint was compared.

    Raises:
        EnvelopeError: It is no request.
    """
    if len(raw) > REQUEST_BYTES:
        raise EnvelopeError(f"the request has {len(raw)} bytes; the limit is {REQUEST_BYTES}")
    return Request.read(raw, "the request")
