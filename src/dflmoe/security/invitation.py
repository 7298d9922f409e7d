"""An invitation: how a newcomer comes to know a federation.

It may travel by any channel, and is not believed for what it says but for the fingerprint of the
inviter's key, which two people compare by phone.
"""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from dflmoe.errors import EnvelopeError, ExpiredError, FederationError
from dflmoe.security.charter import Charter
from dflmoe.security.keys import PublicKey, SiteKeys, key_of, key_text
from dflmoe.types import SiteId
from dflmoe.wire.envelope import INVITATION, opened, seal, unsealed
from dflmoe.wire.manifest import Digest, Document, SiteName

INVITATION_DAYS = 30


class Invitation(Document):
    """What a member gives to a newcomer.

    Attributes:
        format: Of this document.
        charter: The rules, whole, so that the newcomer can read what it joins.
        inviter: Who invites.
        key: Its key, whose fingerprint is compared by phone.
        root: SHA-256 of the roster's first root; none before the federation has two sites.
        site: Who is invited.
        expires: Until when.
    """

    format: Literal["dflmoe-invitation-1"] = "dflmoe-invitation-1"
    charter: Charter
    inviter: SiteName
    key: PublicKey
    root: Digest | None
    site: SiteName
    expires: AwareDatetime


def invite(
    charter: Charter,
    *,
    inviter: SiteId,
    keys: SiteKeys,
    root: str | None,
    site: SiteId,
    now: datetime,
) -> bytes:
    """Return a signed invitation.

    Raises:
        EnvelopeError: No site can have the name.
    """
    try:
        document = Invitation(
            charter=charter,
            inviter=inviter,
            key=key_text(keys.public),
            root=root,
            site=site,
            expires=now + timedelta(days=INVITATION_DAYS),
        )
    except ValidationError as error:
        raise EnvelopeError(
            f"{site!r} is no name of a site: small letters, digits and hyphens"
        ) from error
    return seal(document.signed(), INVITATION, keys.signing)


def invited(raw: bytes, *, site: SiteId, now: datetime) -> Invitation:
    """Return an invitation that is whole, in time and meant for the site.

    Its key is still to be compared by phone.

    Raises:
        EnvelopeError: It is no invitation.
        SignatureError: It was changed.
        ExpiredError: It is too old.
        FederationError: It is for another site.
    """
    what = "the invitation"
    claimed = Invitation.read(unsealed(raw, INVITATION, what).payload, what)
    key = key_of(claimed.key)
    opened(raw, INVITATION, {key.keyid: key}, what)
    if claimed.site != site:
        raise FederationError(
            f"the invitation is for site {claimed.site!r}, and this is {site!r}; ask for your own"
        )
    if now > claimed.expires:
        raise ExpiredError(
            f"the invitation was valid until {claimed.expires:%Y-%m-%d}; ask for a new one"
        )
    return claimed
