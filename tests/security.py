"""Keys, charters and rosters of made-up sites, for tests."""

from datetime import UTC, datetime
from functools import cache

from dflmoe.security.card import Card, Request
from dflmoe.security.charter import Charter
from dflmoe.security.keys import SiteKeys, new_keys
from dflmoe.security.proposal import founded, request, signed, with_site
from dflmoe.security.roster import Bundle, Roster, checked, trust_of
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Manifest

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
FEDERATION = "0123456789abcdef" * 2
CHARTER = Charter(
    federation=FEDERATION,
    name="Hearts",
    task="heart disease",
    classes=("no", "yes"),
    kind="table",
    shape=(4,),
    network="plain",
)


@cache
def keys_of(site: SiteId, number: int = 0) -> SiteKeys:
    """Return the keys of a site; another number gives other keys."""
    del number
    return new_keys(site, NOW)


def card_of(site: SiteId, keys: SiteKeys | None = None, **more: object) -> Card:
    """Return what a site says of itself."""
    pem = (keys or keys_of(site)).pem
    said: dict[str, object] = {
        "federation": FEDERATION,
        "site": site,
        "wrapping": (keys or keys_of(site)).wrapping_text,
        "certificates": (pem,),
    }
    return Card.model_validate({**said, **more})


def asks(site: SiteId, **more: object) -> Request:
    """Return the request of a site."""
    return request(card_of(site, None, **more), keys_of(site))


def agreed_by(bundle: Bundle, *sites: SiteId) -> Bundle:
    """Return a proposal that some sites have signed."""
    for site in sites:
        bundle = signed(bundle, keys_of(site).signing)
    return bundle


def roster_of(*sites: SiteId) -> Roster:
    """Return the roster of some sites, all of whom approve; it grew site by site."""
    bundle = agreed_by(founded(CHARTER, asks(sites[0]), asks(sites[1]), NOW), *sites[:2])
    roster = checked(bundle, trust_of(bundle), now=NOW)
    for k, site in enumerate(sites[2:], 2):
        bundle = agreed_by(with_site(roster, asks(site), NOW), *sites[:k], site)
        roster = checked(bundle, trust_of(bundle), held=roster, now=NOW)
    return roster


def manifest(**changed: object) -> Manifest:
    """Return what ann says of a head."""
    said: dict[str, object] = {
        "federation": FEDERATION,
        "charter": CHARTER.digest,
        "site": "ann",
        "seq": 7,
        "round": 3,
        "kind": "head",
        "network": "plain",
        "width": 4,
        "dtype": "fp32",
        "size": 100,
        "payload": "ab" * 32,
        "rows": "50-99",
        "created": NOW,
        "software": "0.1.0",
    }
    return Manifest.model_validate({**said, **changed})
