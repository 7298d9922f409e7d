"""Let some sites of one machine found a federation, as their administrators would by phone."""

import contextlib
import json
import random
import socket
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pandas as pd

from dflmoe.data.study import Study
from dflmoe.data.tables import read_frame
from dflmoe.demo.study import site_id
from dflmoe.errors import ExchangeError
from dflmoe.node.home import Home
from dflmoe.security.charter import Charter
from dflmoe.security.keys import fingerprint
from dflmoe.security.proposal import signed, with_site
from dflmoe.toml import toml_of
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now

# Below the ports that systems give to outgoing connections, one of which could take it meanwhile.
_PORTS = range(20_000, 32_000)


def free_address() -> str:
    """Return an address on loopback at which nothing listens."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    raise ExchangeError("no port of 127.0.0.1 is free; end what listens at them and try again")


def study_charter(study: Study, **more: object) -> Charter:
    """Return rules by which hospitals of the embedded study learn together.

    Args:
        study: The embedded study, or some of its hospitals.
        more: Rules that are not read off the study.
    """
    folder = resources.files("dflmoe.data") / "embedded"
    columns = (folder / "heart_disease.toml").read_text(encoding="utf-8")
    schema = toml_of(columns)
    rules = {
        "federation": "0" * 32,
        "name": schema["title"],
        "task": schema["task"],
        "classes": study.classes,
        "kind": study.kind,
        "shape": study.sites[0].x.shape[1:],
        "columns": columns,
        "network": "plain",
        **more,
    }
    return Charter.read(json.dumps(rules).encode(), "the charter of the embedded study")


def study_rows() -> dict[SiteId, pd.DataFrame]:
    """Return the rows of every hospital of the embedded study, as it would export them."""
    embedded = resources.files("dflmoe.data") / "embedded" / "heart_disease.csv"
    with resources.as_file(embedded) as path:
        table = read_frame(path)
    return {
        site_id(str(name)): rows.drop(columns="site")
        for name, rows in table.groupby("site", sort=False)
    }


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
