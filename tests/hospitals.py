"""Hospitals with folders, keys and stores, for tests of nodes."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import torch
from tests.security import CHARTER, NOW
from torch import Tensor

from dflmoe.core.site import Lent
from dflmoe.node.home import Home
from dflmoe.node.replica import Replica
from dflmoe.node.store import STORE, Store
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint
from dflmoe.security.proposal import signed, with_site, without_site
from dflmoe.security.roster import Bundle, Roster
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now


class Clock:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def head(number: float) -> Lent:
    """Return a head that says a number."""
    return Lent(
        "", 1, "head", 4, {"weight": torch.full((1, 2, 4), number), "bias": torch.ones(1, 2)}
    )


def says(lent: Lent) -> float:
    """Return the number that a head says."""
    weight: Tensor = lent.tensors["weight"]
    return float(weight.mean())


class Country:
    """A federation of hospitals in one folder."""

    def __init__(
        self,
        folder: Path,
        *sites: SiteId,
        charter: Charter = CHARTER,
        dialled: Mapping[SiteId, str] | None = None,
        real_time: bool = False,
    ) -> None:
        self.folder, self.charter = folder, charter
        self.clock: Callable[[], datetime] = now if real_time else Clock()
        self.dialled = dialled or {}
        self.homes = {site: self.home(site) for site in sites}
        first, second, *others = sites
        founder, partner = self.homes[first], self.homes[second]
        founder.create(charter)
        raw = founder.invite(second, self.clock())
        _, asked = partner.join(raw, fingerprint(founder.keys.public), self.clock())
        bundle = partner.approve(
            founder.approve(asked.signed(), self.clock()).signed(), self.clock()
        )
        for home in (founder, partner):
            home.install(bundle, self.clock())
        for site in others:
            self.admit(site)
        self.replicas = {site: self.replica(site) for site in sites}

    def home(self, site: SiteId) -> Home:
        at = (self.dialled[site],) if site in self.dialled else ()
        return Home.made(self.folder / site, site, at, self.clock())

    def replica(self, site: SiteId) -> Replica:
        home = self.homes[site]
        return Replica(home, Store(home.folder / STORE), self.clock)

    @property
    def approvers(self) -> list[Home]:
        """The first two hospitals."""
        return list(self.homes.values())[:2]

    def roster(self) -> Roster:
        roster = self.approvers[0].roster(self.clock())
        assert roster is not None
        return roster

    def decided(self, bundle: Bundle) -> Bundle:
        """Let the first two sign a proposal, and the first take it in."""
        for home in self.approvers:
            bundle = signed(bundle, home.keys.signing)
        self.approvers[0].install(bundle, self.clock())
        return bundle

    def admit(self, site: SiteId, *, relay: bool = False) -> Bundle:
        """Let a site join, which knows the roster at once; others learn it by and by."""
        home = self.homes.setdefault(site, Home(self.folder / site))
        if not home.folder.exists():
            self.home(site)
        first = self.approvers[0]
        _, asked = home.join(
            first.invite(site, self.clock()), fingerprint(first.keys.public), self.clock()
        )
        bundle = self.decided(
            with_site(self.roster(), asked, self.clock(), approver=False, relay=relay)
        )
        home.install(bundle, self.clock())
        if hasattr(self, "replicas"):
            self.replicas[site] = self.replica(site)
        else:
            self.approvers[1].install(bundle, self.clock())
        return bundle

    def dismiss(self, site: SiteId) -> Bundle:
        """Remove a site; the first hospital knows at once."""
        bundle = self.decided(without_site(self.roster(), site, self.clock()))
        self.replicas[self.approvers[0].site.name].learn(bundle)
        return bundle
