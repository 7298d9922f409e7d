"""What can be seen of a site now and of its past: read from its folder, while its node runs or not.

Nothing is computed here that the node has not decided or measured: it is put in order for people.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dflmoe.errors import EnvelopeError
from dflmoe.node.home import Home, read_limited
from dflmoe.node.node import RoundSummary
from dflmoe.node.status import STATUS, Status
from dflmoe.node.store import STORE, Refusal, Store
from dflmoe.security.audit import Entry
from dflmoe.types import SiteId

TAIL = 30
"""Entries of the log that are shown."""

SILENT = timedelta(seconds=10)
"""A node that has not written its status for so long does not run any more."""

ROUNDS = 500
"""Rounds of the past that are shown, the newest."""


@dataclass(frozen=True)
class Past:
    """A round that was played.

    Attributes:
        summary: What came of it.
        at: When it was stored.
    """

    summary: RoundSummary
    at: datetime


@dataclass(frozen=True)
class Outage:
    """Rounds on end in which something was missing.

    Attributes:
        who: The peer that contributed nothing, or "everybody".
        why: As the node noted it, last.
        first: Number of the first round.
        last: Number of the last.
        began: When that was stored.
        ended: When the first round after it was stored; none while it lasts.
    """

    who: str
    why: str
    first: int
    last: int
    began: datetime
    ended: datetime | None


@dataclass(frozen=True)
class SetAside:
    """A peer whose head does not count now.

    Attributes:
        site: Whose.
        why: On what evidence.
        since: When it was set aside.
    """

    site: SiteId
    why: str
    since: datetime


@dataclass(frozen=True)
class Seen:
    """A site at one moment.

    Attributes:
        status: What its node says of itself; none if none ever ran.
        runs: Whether it runs.
        rounds: Played so far.
        outages: Of the past, the newest first.
        aside: Peers whose head is set aside.
        refusals: What was not believed, by reason.
        log: The end of the audit log, the newest first.
        entries: How many it has.
    """

    site: SiteId
    federation: str
    status: Status | None
    runs: bool
    rounds: Sequence[Past]
    outages: Sequence[Outage]
    aside: Sequence[SetAside]
    refusals: Sequence[Refusal]
    log: Sequence[Entry]
    entries: int


def look(home: Home) -> Seen:
    """Return what can be seen of a site.

    Raises:
        StoreError: Its store cannot be read.
        SecurityError: It is no site's folder, or belongs to no federation.
    """
    name, federation = home.site.name, home.charter.name
    status = _status(home)
    runs = status is not None and status.pid is not None
    if not (home.folder / STORE).exists():
        return Seen(name, federation, status, runs, (), (), (), (), (), 0)
    store = Store(home.folder / STORE, reads=True)
    try:
        log = store.newest_entries(TAIL)[::-1]
        rounds = [
            Past(RoundSummary.model_validate_json(told), datetime.fromisoformat(at))
            for told, at in store.played(ROUNDS)
        ]
        return Seen(
            site=name,
            federation=federation,
            status=status,
            runs=runs,
            rounds=rounds,
            outages=outages(rounds),
            aside=set_aside(store.entries("quarantined", "released")),
            refusals=store.refusals(),
            log=log,
            entries=log[0].number if log else 0,
        )
    finally:
        store.close()


def _status(home: Home) -> Status | None:
    path = home.folder / STATUS
    if not path.exists():
        return None
    try:
        told = Status.read(read_limited(path, "the status"), "the status")
    except EnvelopeError:
        return None
    if told.pid is not None and not _alive(told):
        peers = tuple(p.model_copy(update={"connected": False}) for p in told.peers)
        return told.model_copy(update={"pid": None, "doing": "stopped", "peers": peers})
    return told


def _alive(told: Status) -> bool:
    """Return whether a node still writes its status.

    Its lock is left alone: who looks at it, and be it for a moment, keeps a node from starting.
    """
    return datetime.now(UTC) - told.at < SILENT


def outages(rounds: Sequence[Past]) -> list[Outage]:
    """Return when something was missing, of whom and why; the newest first."""
    found: list[Outage] = []
    open_: dict[str, Outage] = {}
    for past in rounds:
        number, missing = past.summary.number, _missing(past.summary)
        over = open_.keys() - missing.keys()
        found += [replace(open_.pop(who), ended=past.at) for who in over]
        for who, why in missing.items():
            began = open_.get(who) or Outage(who, why, number, number, past.at, None)
            open_[who] = replace(began, why=why, last=number)
    found += open_.values()
    found.sort(key=lambda one: one.who)
    return sorted(found, key=lambda one: one.began, reverse=True)


def _missing(summary: RoundSummary) -> Mapping[str, str]:
    """Return who contributed nothing to a round, and why."""
    nobody = {"everybody": summary.outage} if summary.outage else {}
    return {**nobody, **summary.missing}


def set_aside(entries: Sequence[Entry]) -> list[SetAside]:
    """Return whose heads do not count now, from what the log says."""
    now: dict[SiteId, SetAside] = {}
    for entry in entries:
        told = entry.told
        site = str(told["site"])
        if entry.kind == "released":
            now.pop(site, None)
            continue
        why = str(told.get("why") or "it signed two heads of one number")
        now[site] = SetAside(site, why, entry.at)
    return list(now.values())


def ago(when: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, in words that change no oftener than they must."""
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        count = int(seconds // size)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def told_of(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield what an entry says, in words and in short."""
    for name, value in entry.told.items():
        if value in (None, []):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield name, f"{text[:12]}…" if len(text) == 64 else text  # noqa: PLR2004 - a digest
