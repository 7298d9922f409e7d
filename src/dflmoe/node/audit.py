"""The audit log of a site, as people check it: against itself, and against what peers keep."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from pydantic import ValidationError

from dflmoe.errors import DflmoeError, EnvelopeError
from dflmoe.files import replace_file
from dflmoe.node.home import read_limited
from dflmoe.node.link import WITNESS, WITNESS_S, called, link, reason
from dflmoe.node.replica import Replica
from dflmoe.node.store import Store
from dflmoe.security.audit import Entry, Receipt, broken, contradicted, signed_with
from dflmoe.security.roster import Member
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Document

LOG_BYTES = 1024**3
"""Bytes of an exported log; larger files are refused unread."""


class Line(Document):
    """A line of an exported log: an entry, or a receipt for another site's log."""

    entry: Entry | None = None
    receipt: Receipt | None = None


@dataclass
class Checked:
    """What came of checking a log.

    Attributes:
        entries: The log.
        wrong: What is wrong with it, in sentences; none if nothing is.
        receipts: How many receipts for it each peer keeps, of those who were asked.
    """

    entries: Sequence[Entry]
    wrong: list[str]
    receipts: dict[SiteId, int]


def export(store: Store, name: SiteId, path: Path) -> int:
    """Write the log and all receipts to a file, one JSON document a line; returns how many.

    Raises:
        OutputError: The file cannot be written.
        StoreError: The log holds what no node wrote.
    """
    lines = lines_of(store, name)
    replace_file(path, b"".join(lines))
    return len(lines)


def lines_of(store: Store, name: SiteId) -> list[bytes]:
    """Return the log and all receipts, a line each.

    Raises:
        StoreError: The log holds what no node wrote.
    """
    lines = [Line(entry=entry) for entry in store.entries()]
    lines += [Line(receipt=one) for one in kept(store, name)]
    return [line.signed() + b"\n" for line in lines]


def kept(store: Store, name: SiteId, site: SiteId | None = None) -> list[Receipt]:
    """Return the receipts that a site keeps, for one other site or for all."""
    return [
        Receipt(site=whose, holder=name, envelope=raw.decode())
        for whose, raw in store.receipts(site)
    ]


def exported(path: Path) -> tuple[list[Entry], list[Receipt]]:
    """Read an exported log, none of which is checked: its entries and its receipts.

    Raises:
        EnvelopeError: It is none.
    """
    entries, receipts = [], []
    for number, raw in enumerate(read_limited(path, "the log", LOG_BYTES).splitlines(), 1):
        line = Line.read(raw, f"line {number} of {path}")
        entries += [line.entry] if line.entry else []
        receipts += [line.receipt] if line.receipt else []
    return entries, receipts


def checked(entries: Sequence[Entry], receipts: Sequence[Receipt], site: SiteId) -> Checked:
    """Check a log against itself and against receipts.

    Args:
        entries: The log.
        receipts: For it, from whoever keeps some.
        site: Whose log it should be.
    """
    holders = [one.holder for one in receipts if one.site == site]
    return Checked(
        entries=entries,
        wrong=[
            *broken(entries, site),
            *contradicted(entries, receipts, signed_with(entries, site), site),
        ],
        receipts={holder: holders.count(holder) for holder in dict.fromkeys(holders)},
    )


def ask(replica: Replica) -> tuple[list[Receipt], dict[SiteId, str]]:
    """Ask all peers that can be dialled for the receipts that they keep for this site.

    Returns:
        The receipts, and why some peers could not be asked.
    """
    return asyncio.run(_asked(replica))


async def _asked(replica: Replica) -> tuple[list[Receipt], dict[SiteId, str]]:
    receipts: list[Receipt] = []
    silent: dict[SiteId, str] = {}

    async def one(site: SiteId, member: Member) -> None:
        silent[site] = "it has no address; ask its administrator for: dflmoe audit export"
        for endpoint in member.card.endpoints:
            try:
                async with link(replica, member, endpoint) as channel:
                    told = await called(channel, WITNESS, WITNESS_S)
                receipts.extend(_read(told, site, replica.name))
            except (grpc.aio.AioRpcError, DflmoeError, OSError, ValueError) as error:
                silent[site] = reason(error)
            else:
                del silent[site]
                return

    members = replica.roster.members
    await asyncio.gather(*(one(s, m) for s, m in members.items() if s != replica.name))
    return receipts, silent


def _read(told: bytes, holder: SiteId, site: SiteId) -> list[Receipt]:
    """Return what a peer has sent as receipts.

    Raises:
        EnvelopeError: It is nothing of the kind.
    """
    try:
        return [Receipt(site=site, holder=holder, envelope=one) for one in json.loads(told)]
    except (ValueError, TypeError, ValidationError) as error:
        raise EnvelopeError(f"{holder} sends no receipts, but something else") from error
