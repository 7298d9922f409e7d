"""An append-only log that shows whether somebody changed it.

Every entry bears the digest of the one before it, and every head that a site lends, which it signs,
bears the digest of the newest entry. Peers keep what they were shown as receipts: what a site has
shown to others it cannot take back, not even by writing its whole log anew.

Entries name sites, numbers, digests and reasons; never a patient, a file's content or a tensor.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field
from securesystemslib.signer import Key

from dflmoe.errors import SecurityError
from dflmoe.security.keys import key_of, key_text
from dflmoe.security.roster import Roster
from dflmoe.types import SiteId
from dflmoe.wire.envelope import HEAD, opened
from dflmoe.wire.manifest import Count, Digest, Document, Manifest

Kind = Literal[
    "begin",
    "start",
    "stop",
    "join",
    "leave",
    "key",
    "charter",
    "policy",
    "lent",
    "received",
    "refused",
    "quarantined",
    "released",
    "round",
    "report",
    "audited",
    "spent",
    "withheld",
]
"""What happened: see ``docs/reference/audit.md``."""

Fact = Annotated[str, Field(max_length=400)] | int | float | None
Facts = Mapping[str, Fact | Sequence[str]]
Event = tuple[Kind, Facts]

ROOT = "0" * 64
"""The digest before the first entry."""

HEX = re.compile(r"[0-9a-f]{64}")
"""A digest or a public key, as entries spell it."""

TAG = b"dflmoe-audit-1\0"

BACK = timedelta(minutes=5)
"""Clocks are corrected by less than this; more is told as a clock that was set back."""


def _object(facts: str) -> str:
    """Check that facts are a JSON object."""
    if not isinstance(json.loads(facts), dict):
        raise ValueError("facts are a JSON object")  # noqa: TRY004 - pydantic's
    return facts


class Entry(Document):
    """Something that happened.

    Attributes:
        number: Of the entry, from 1, without gaps.
        at: By the site's clock.
        kind: What happened.
        facts: The rest, as JSON: names, numbers, digests and reasons.
        before: Digest of the entry before.
    """

    number: Count
    at: AwareDatetime
    kind: Kind
    facts: Annotated[str, Field(max_length=8192), AfterValidator(_object)]
    before: Digest

    @property
    def digest(self) -> str:
        """SHA-256 of all that it says."""
        return hashlib.sha256(TAG + self.signed()).hexdigest()

    @property
    def told(self) -> dict[str, object]:
        """The facts."""
        found: dict[str, object] = json.loads(self.facts)
        return found


class Receipt(Document):
    """A lent head's envelope that somebody keeps: a signed checkpoint of its site's log.

    Attributes:
        site: Who lent it.
        holder: Who keeps it.
        envelope: As it was signed.
    """

    site: SiteId
    holder: SiteId
    envelope: Annotated[str, Field(max_length=16 * 1024)]


def entry_after(last: Entry | None, kind: Kind, facts: Facts, now: datetime) -> Entry:
    """Return the entry that follows another."""
    return Entry(
        number=last.number + 1 if last else 1,
        at=now,
        kind=kind,
        facts=json.dumps(facts, sort_keys=True, ensure_ascii=False),
        before=last.digest if last else ROOT,
    )


def belonging(entries: Iterable[Entry]) -> dict[SiteId, tuple[str, ...]]:
    """Return the members that a log knows, each with its public keys."""
    members: dict[SiteId, tuple[str, ...]] = {}
    for entry in entries:
        site = str(entry.told.get("site"))
        if entry.kind in {"join", "key"}:
            members[site] = _keys(entry)
        elif entry.kind == "leave":
            members.pop(site, None)
    return members


def signed_with(entries: Iterable[Entry], site: SiteId) -> dict[str, Key]:
    """Return every key that a site ever signed with, as a log knows it, by id."""
    texts = {
        text
        for entry in entries
        if entry.kind in {"join", "key"} and entry.told.get("site") == site
        for text in _keys(entry)
    }
    return {key.keyid: key for key in map(key_of, texts)}


def _keys(entry: Entry) -> tuple[str, ...]:
    said = entry.told.get("keys")
    return tuple(k for k in said if HEX.fullmatch(str(k))) if isinstance(said, list) else ()


def moves(known: Mapping[SiteId, tuple[str, ...]], roster: Roster) -> list[Event]:
    """Return what a roster changes against the members that a log knows, as events."""
    version = roster.version
    left: list[Event] = [
        ("leave", {"site": site, "version": version})
        for site in known
        if site not in roster.members
    ]
    for site, member in sorted(roster.members.items()):
        keys = tuple(sorted(map(key_text, member.keys.values())))
        if keys != known.get(site):
            kind: Kind = "key" if site in known else "join"
            left.append((kind, {"site": site, "keys": list(keys), "version": version}))
    return left


def broken(entries: Iterable[Entry], site: SiteId) -> list[str]:
    """Return what is wrong with a log in itself, in sentences.

    Args:
        entries: All, in the order in which they stand.
        site: Whose log it should be.
    """
    wrong: list[str] = []
    last: Entry | None = None
    for entry in entries:
        due = last.number + 1 if last else 1
        if entry.number != due:
            wrong.append(f"entry {due} is missing: entry {entry.number} stands in its place")
        elif entry.before != (last.digest if last else ROOT):
            wrong.append(
                f"entry {entry.number} does not follow from the one before: "
                f"one of the two was changed"
            )
        if last is None and (entry.kind != "begin" or entry.told.get("site") != site):
            wrong.append(f"the log does not begin as that of {site}: it is of another site")
        if last is not None and entry.at < last.at - BACK:
            wrong.append(
                f"the clock was set back: entry {entry.number} is of {entry.at:%Y-%m-%d %H:%M}, "
                f"the one before of {last.at:%Y-%m-%d %H:%M}"
            )
        last = entry
    return wrong if last else ["the log is empty"]


def contradicted(
    entries: Sequence[Entry], receipts: Iterable[Receipt], keys: Mapping[str, Key], site: SiteId
) -> list[str]:
    """Return how receipts contradict a log, in sentences: what they bear must stand in it.

    Args:
        entries: The log.
        receipts: What others keep; those of other sites are not looked at.
        keys: All that the site ever signed with, by id.
        site: Whose log it is.
    """
    at = {entry.digest: entry.number for entry in entries}
    wrong: list[str] = []
    shown: list[tuple[int, int, SiteId]] = []
    for receipt in receipts:
        if receipt.site != site:
            continue
        try:
            raw = receipt.envelope.encode()
            manifest = Manifest.read(opened(raw, HEAD, keys, "a receipt").payload, "a receipt")
        except SecurityError as error:
            wrong.append(f"a receipt that {receipt.holder} keeps proves nothing: {error}")
            continue
        if manifest.site != site:
            wrong.append(f"a receipt that {receipt.holder} keeps is of {manifest.site}")
        elif manifest.audit is not None and manifest.audit not in at:
            wrong.append(
                f"{receipt.holder} keeps a head of {manifest.created:%Y-%m-%d %H:%M} that bears "
                f"an entry which is not in the log: the log was cut, or written anew"
            )
        elif manifest.audit is not None:
            shown.append((manifest.seq, at[manifest.audit], receipt.holder))
    shown.sort()
    for (_, before, _), (_, after, holder) in pairwise(shown):
        if after < before:
            wrong.append(
                f"{holder} keeps a later head with an earlier entry ({after} after {before}): "
                f"two logs were written side by side"
            )
    return list(dict.fromkeys(wrong))
