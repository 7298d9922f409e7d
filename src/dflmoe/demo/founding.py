"""Let some sites of one machine found a federation, as their administrators would by phone."""

import socket
from collections.abc import Mapping
from pathlib import Path

from dflmoe.node.home import Home
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint
from dflmoe.security.proposal import signed, with_site
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now


def free_address() -> str:
    """Return an address on loopback at which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def found(folder: Path, at: Mapping[SiteId, str], charter: Charter) -> dict[SiteId, Home]:
    """Make keys for every site, and a roster that all hold.

    The first two sites found the federation and approve the others.

    Args:
        folder: Each site gets a folder in it.
        at: Where each site is dialled; two or more.
        charter: The rules.
    """
    homes = {name: Home.made(folder / name, name, (where,), now()) for name, where in at.items()}
    founder, partner, *others = homes.values()
    founder.create(charter)
    told = fingerprint(founder.keys.public)
    _, asked = partner.join(founder.invite(partner.site.name, now()), told, now())
    bundle = partner.approve(founder.approve(asked.signed(), now()).signed(), now())
    roster = founder.install(bundle, now())
    for home in others:
        _, asked = home.join(founder.invite(home.site.name, now()), told, now())
        bundle = with_site(roster, asked, now(), approver=False)
        for voter in (founder, partner):
            bundle = signed(bundle, voter.keys.signing)
        roster = founder.install(bundle, now())
    for home in (partner, *others):
        home.install(roster.bundle, now())
    return homes
