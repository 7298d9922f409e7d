"""What a node says of itself and of its peers, for people: one small document, always current."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Literal

from dflmoe.core.site import LentKind
from dflmoe.files import replace_file
from dflmoe.node.network import Network
from dflmoe.node.node import RoundSummary
from dflmoe.node.replica import Replica, manifest_of
from dflmoe.types import SiteId
from dflmoe.wire.manifest import Document

STATUS = "status.json"

PeerState = Literal["known", "reachable", "authenticated", "lending", "used"]


class Peer(Document):
    """A peer as this site sees it.

    Attributes:
        site: The peer.
        relay: Whether it only passes heads on.
        state: The furthest that holds: ``known`` from the roster, ``reachable`` if something
            answers at its address, ``authenticated`` while there is a stream with it, ``lending``
            if a head of it is held (whoever brought it), ``used`` if that head weighs something in
            the mixture.
        connected: Whether there is a stream with it now.
        head_round: The round in which it made the head that is held.
        head_kind: What that is.
        head_age_s: Seconds since that head arrived.
        share: Its mean weight in the mixture.
        quarantined: Whether its head was set aside on evidence of harm.
        problem: Why it could not be dialled, last.
        sent: Bytes that went to it on all days.
        received: Bytes that came from it.
    """

    site: SiteId
    relay: bool
    state: PeerState
    connected: bool
    head_round: int | None
    head_kind: LentKind | None
    head_age_s: float | None
    share: float | None
    quarantined: bool
    problem: str | None
    sent: int = 0
    received: int = 0


class Status(Document):
    """A node at one moment.

    Attributes:
        site: Its name.
        federation: The federation's.
        pid: Of its process; none while it does not run.
        doing: In a few words.
        at: When this was written.
        last: What came of the last round.
        roster: Version of the roster, and whether it is valid.
        peers: All other members.
        sent: Bytes that left the process on all days.
        received: Bytes that came in.
        refused: Things that were not believed.
    """

    site: SiteId
    federation: str
    pid: int | None
    doing: str
    at: datetime
    last: RoundSummary | None
    roster: tuple[int, str]
    peers: tuple[Peer, ...]
    sent: int
    received: int
    refused: int

    def stored(self, folder: Path) -> None:
        """Write it where other programs look for it."""
        replace_file(folder / STATUS, self.signed(), durable=False)


def status_of(replica: Replica, network: Network | None, *, pid: int | None, doing: str) -> Status:
    """Return what can be said of a node now.

    Args:
        replica: The heads that it holds.
        network: Its network part, if it has one and runs.
        pid: Its process.
        doing: In a few words.
    """
    now, played = replica.now(), replica.store.last_round()
    last = RoundSummary.model_validate_json(played) if played else None
    streams = network.reachable() if network else {}
    failures = network.failures() if network else {}
    heads = replica.store.heads()

    def peer(site: SiteId, *, relay: bool) -> Peer:
        head = heads.get(site)
        manifest = manifest_of(head.envelope) if head else None
        share = last.share.get(site) if last else None
        why = failures.get(site)
        state: PeerState = "known"
        if share:
            state = "used"
        elif manifest:
            state = "lending"
        elif site in streams:
            state = "authenticated"
        elif why is not None and answered(why):
            state = "reachable"
        age = (now - datetime.fromisoformat(head.arrived)).total_seconds() if head else None
        return Peer(
            site=site,
            relay=relay,
            state=state,
            connected=site in streams,
            head_round=manifest.round if manifest else None,
            head_kind=manifest.kind if manifest else None,
            head_age_s=age,
            share=share,
            quarantined=last is not None and site in last.quarantined,
            problem=why,
            sent=moved[site, "sent"],
            received=moved[site, "received"],
        )

    moved: Counter[tuple[str, str]] = Counter()
    for (_, way, who), count in replica.store.traffic().items():
        moved[who, way] += count
    for who, ways in (network.moved() if network else {}).items():
        for way, count in ways.items():
            moved[who, way] += count
    return Status(
        site=replica.name,
        federation=replica.roster.charter.name,
        pid=pid,
        doing=doing,
        at=now,
        last=last,
        roster=(replica.roster.version, replica.roster.standing(now)),
        peers=tuple(
            peer(site, relay=member.relay)
            for site, member in sorted(replica.roster.members.items())
            if site != replica.name
        ),
        sent=sum(count for (_, way), count in moved.items() if way == "sent"),
        received=sum(count for (_, way), count in moved.items() if way == "received"),
        refused=sum(refusal.times for refusal in replica.store.refusals()),
    )


def answered(why: str) -> bool:
    """Return whether a peer that could not be dialled has answered: with a refusal."""
    return any(word in why.lower() for word in ("handshake", "ssl", "certificate", "not a member"))
