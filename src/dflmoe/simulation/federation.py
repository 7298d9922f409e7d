"""Play a federation on one machine or many: sites in step, over the real wire format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dflmoe.core.algorithm import Algorithm, Outcome, Server
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.simulation.cluster import Cluster
from dflmoe.simulation.faults import FAIR, Fault, Weather, misled
from dflmoe.simulation.group import Executor, Group, begun, borrowing, lending
from dflmoe.simulation.in_step import InStep
from dflmoe.simulation.machine import ExecutorName, Machine
from dflmoe.simulation.peers import peers_of
from dflmoe.simulation.threads import Threads
from dflmoe.types import SiteId
from dflmoe.wire.payload import WireDtype

EXECUTORS: Mapping[ExecutorName, Callable[[Sequence[Group], Machine], Executor]] = {
    "threads": Threads,
    "ray": Cluster,
}


@dataclass
class Played:
    """What came of a federation.

    Attributes:
        outcomes: Of each site, round by round.
        payload_bytes: Bytes of one site's payload in one round, for a single model.
        messages: Payloads that one site sends and receives in all rounds, at most.
        seconds: Compute time of each site, all splits together.
        sent_bytes: Bytes that a site, or the server, sent in all rounds: payloads and envelopes,
            once for each receiver.
        refused: Sentences on heads that were not admitted, by receiver.
        lent: What each site sent, round by round.
        states: Of each site, after the last round.
    """

    outcomes: dict[SiteId, list[Outcome]]
    payload_bytes: dict[SiteId, int]
    messages: int
    seconds: dict[SiteId, float]
    sent_bytes: dict[SiteId, int] = field(default_factory=dict)
    refused: dict[SiteId, list[str]] = field(default_factory=dict)
    lent: dict[SiteId, list[Lent]] = field(default_factory=dict)
    states: dict[SiteId, SiteState] = field(default_factory=dict)


def play(
    algorithms: Mapping[SiteId, Algorithm],
    data: Mapping[SiteId, SiteData],
    *,
    rounds: int,
    seed: int,
    purpose: str,
    server: Server | None = None,
    faults: Mapping[SiteId, Fault] | None = None,
    weather: Weather = FAIR,
    hears: Mapping[SiteId, Sequence[SiteId]] | int | None = None,
    dtype: WireDtype = "fp32",
    machine: Machine | None = None,
    history: bool = True,
) -> Played:
    """Play ``rounds`` rounds of a federation and return every outcome.

    Args:
        algorithms: Of each site.
        data: Of each site; all with as many splits.
        rounds: How many.
        seed: Of all chance.
        purpose: What is played; arms with the same purpose see the same chance.
        server: For rivals that need one.
        faults: Peers that misbehave.
        weather: What the network does to messages.
        hears: The peers that each site hears, or how many each does, by usefulness and chance
            (``simulation.peers``); all of them if not given.
        dtype: How numbers travel between sites.
        machine: On what it is played.
        history: Keep what was lent, and outcomes and states of all rounds; else the last outcomes
            only, for federations too large for all of it.

    Raises:
        TrainingError: A loss is not finite.
    """
    sites, machine, faults = list(algorithms), machine or Machine(), faults or {}
    data = {site: misled(one, faults.get(site)) for site, one in data.items()}
    peers = peers_of(hears, sites, seed)
    exchange = InStep(sites, server, faults, weather, dtype=dtype, history=history)
    outcomes: dict[SiteId, list[Outcome]] = {site: [] for site in sites}
    seconds = dict.fromkeys(sites, 0.0)
    groups = [
        Group(
            {site: algorithms[site] for site in some},
            {site: data[site] for site in some},
            (seed, purpose),
            machine.device,
            machine.precision,
        )
        for some in _companies(data, machine.together(len(sites)))
    ]
    with _executor(groups, machine) as workers:
        for some in workers.each(begun, [None] * len(groups)):
            seconds |= {site: took for site, (_, took) in some.items()}
        for number in range(rounds):
            hear = {
                site: peers.heard(site, number, done[-1] if done else None)
                for site, done in outcomes.items()
            }
            listeners = dict.fromkeys(sites, 0)
            for heard in hear.values():
                for peer in heard:
                    listeners[peer] += 1
            exchange.begin()
            for lents in workers.each(lending, [number] * len(groups)):
                for site, (lent, took) in lents.items():
                    exchange.send(site, lent, listeners[site])
                    seconds[site] += took
            exchange.answer()
            inboxes = [
                {site: exchange.heard(site, hear[site], number + 1) for site in group.algorithms}
                for group in groups
            ]
            for done in workers.each(borrowing, inboxes):
                for site, (outcome, took) in done.items():
                    outcomes[site] = [*outcomes[site], outcome] if history else [outcome]
                    seconds[site] += took
        states = {site: seat.state for site, seat in workers.seats()} if history else {}
    heard_of = 1 if server else len(sites) - 1
    if isinstance(hears, int):
        heard_of = min(hears, heard_of)
    return Played(
        outcomes,
        exchange.payload_bytes,
        2 * heard_of * rounds,
        seconds,
        exchange.sent_bytes,
        exchange.refused,
        exchange.lent,
        states,
    )


def _companies(data: Mapping[SiteId, SiteData], size: int) -> list[list[SiteId]]:
    """Return the sites in groups; those of many rows together, as they wait for each other."""
    sites = list(data)
    if size > 1:
        sites = sorted(sites, key=lambda site: len(data[site].y))
    return [sites[first : first + size] for first in range(0, len(sites), size)]


@contextmanager
def _executor(groups: Sequence[Group], machine: Machine) -> Iterator[Executor]:
    workers = EXECUTORS[machine.executor](groups, machine)
    try:
        yield workers
    finally:
        workers.close()
