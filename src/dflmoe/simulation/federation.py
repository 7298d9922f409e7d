"""Play a federation in this process: one thread a site, in step, over the real wire format."""

import copy
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import thread_time

import torch

from dflmoe.core.algorithm import SERVER, Algorithm, Exchange, Outcome, Server, run_round
from dflmoe.core.site import LEADING, Lent, SiteData, SiteState
from dflmoe.errors import HeadError, TrainingError
from dflmoe.simulation.faults import FAIR, Fault, Weather, lied, misled, tampered
from dflmoe.types import SiteId, generator
from dflmoe.wire.payload import ENVELOPE_BYTES, HeadSpec, WireDtype, decode, digest, encode

logger = logging.getLogger(__name__)


@dataclass
class Played:
    """What came of a federation.

    Attributes:
        outcomes: Of each site, round by round.
        payload_bytes: Bytes of one site's payload in one round, for a single model.
        messages: Payloads that one site sends and receives in all rounds.
        sent_bytes: Bytes that a site, or the server, sent in all rounds: payloads and envelopes,
            once for each receiver.
        seconds: Compute time of each site, all splits together.
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


class InStep:
    """An exchange in which everybody waits for everybody: for papers and comparisons.

    Every head goes through the wire format, so what a receiver mixes is what was sent, and a head
    that does not pass the checks costs the receiver that head and nothing else.
    """

    def __init__(
        self,
        sites: Sequence[SiteId],
        server: Server | None = None,
        faults: Mapping[SiteId, Fault] | None = None,
        weather: Weather = FAIR,
        *,
        hears: Mapping[SiteId, Sequence[SiteId]] | None = None,
        dtype: WireDtype = "fp32",
    ) -> None:
        self._server = server
        self._weather, self._dtype = weather, dtype
        self._hears = hears or {site: [peer for peer in sites if peer != site] for site in sites}
        self._faults = dict(faults or {})
        self._sent = threading.Barrier(len(sites), action=self._answer)
        self._read = threading.Barrier(len(sites), action=self._turn)
        self._desk: dict[SiteId, tuple[Lent, bytes, str]] = {}
        self._before: dict[SiteId, tuple[Lent, bytes, str]] = {}
        self._reply: list[Lent] = []
        self.payload_bytes: dict[SiteId, int] = {}
        self.sent_bytes: dict[SiteId, int] = dict.fromkeys([*sites, SERVER], 0)
        self.refused: dict[SiteId, list[str]] = {site: [] for site in sites}
        self.lent: dict[SiteId, list[Lent]] = {site: [] for site in sites}

    def of(self, site: SiteId) -> Exchange:
        """Return the exchange as one site sees it."""

        def swap(lent: Lent) -> Sequence[Lent]:
            self._send(site, lent)
            self._sent.wait()
            inbox = (
                self._answered(site, lent.round)
                if self._server
                else self._receive(site, lent.round)
            )
            self._read.wait()
            return inbox

        return swap

    def abort(self) -> None:
        """Let nobody wait any longer."""
        self._sent.abort()
        self._read.abort()

    def _send(self, site: SiteId, lent: Lent) -> None:
        fault = self._faults.get(site)
        single = {name: p[0] for name, p in lent.tensors.items()}
        leading = LEADING[lent.kind]
        self.payload_bytes[site] = (
            len(encode(single, self._dtype, leading=leading - 1)) if single else 0
        )
        if fault == "silent" or not self._weather.arrives(lent.round, site, site):
            self._desk.pop(site, None)
            return
        listeners = 1 if self._server else sum(site in heard for heard in self._hears.values())
        if lent.tensors:
            self.sent_bytes[site] += (self.payload_bytes[site] + ENVELOPE_BYTES) * listeners
        self.lent[site].append(lent)
        sent = lied(lent, fault)
        if self._server:
            self._desk[site] = (sent, b"", "")
            return
        payload = encode(sent.tensors, self._dtype, leading=leading)
        address = digest(payload)
        self._desk[site] = (sent, tampered(payload) if fault == "tampered" else payload, address)

    def _turn(self) -> None:
        self._before = dict(self._desk)

    def _in_time(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether what a server hears or says comes; it does not wait for what is late."""
        weather = self._weather
        return weather.arrives(number, sender, receiver) and not weather.late(
            number, sender, receiver
        )

    def _answered(self, site: SiteId, number: int) -> list[Lent]:
        return [r for r in self._reply if self._in_time(number, SERVER, site)]

    def _come(self, site: SiteId, number: int) -> list[tuple[Lent, bytes, str]]:
        """Return what has come to a site: of a link that is late, what was sent a round ago."""
        weather, come = self._weather, []
        for peer in sorted({*self._desk, *self._before}):
            late = weather.late(number, peer, site)
            desk = self._before if late else self._desk
            if peer in desk and weather.arrives(number - late, peer, site):
                come.append(desk[peer])
        return come

    def _receive(self, site: SiteId, number: int) -> list[Lent]:
        inbox = []
        for lent, payload, address in self._come(site, number):
            peer = lent.site
            if peer not in self._hears[site] or not lent.tensors:
                continue
            spec = HeadSpec(
                {name: tuple(p.shape) for name, p in lent.tensors.items()},
                dtype=self._dtype,
                leading=LEADING[lent.kind],
            )
            try:
                tensors = decode(payload, address, spec, peer)
            except HeadError as error:
                logger.info("%s refused a head: %s", site, error)
                self.refused[site].append(str(error))
                continue
            inbox.append(Lent(peer, lent.round, lent.kind, lent.width, tensors))
        return inbox

    def _answer(self) -> None:
        if not self._server:
            return
        lents = [lent for _, (lent, _, _) in sorted(self._desk.items())]
        heard = [lent for lent in lents if self._in_time(lent.round, lent.site, SERVER)]
        self._reply = [self._server(heard)] if heard else []
        for answer in self._reply:
            size = len(encode({name: p[0] for name, p in answer.tensors.items()})) + ENVELOPE_BYTES
            self.sent_bytes[SERVER] += size * len(lents)


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
    hears: Mapping[SiteId, Sequence[SiteId]] | None = None,
    dtype: WireDtype = "fp32",
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
        hears: The peers that each site hears; all of them if not given.
        dtype: How numbers travel between sites.

    Raises:
        TrainingError: A loss is not finite.
    """
    exchange = InStep(list(algorithms), server, faults, weather, hears=hears, dtype=dtype)
    # Threads must not share modules: a functional call swaps a module's parameters for a moment.
    algorithms = {site: copy.deepcopy(algorithm) for site, algorithm in algorithms.items()}
    data = {site: misled(one, (faults or {}).get(site)) for site, one in data.items()}
    outcomes: dict[SiteId, list[Outcome]] = {site: [] for site in algorithms}
    seconds: dict[SiteId, float] = {}
    states: dict[SiteId, SiteState] = {}

    def live(site: SiteId) -> None:
        began = thread_time()
        algorithm, swap = algorithms[site], exchange.of(site)
        try:
            rng = generator(seed, purpose, site, "init")
            state = algorithm.init(site, data[site], rng)
            for number in range(rounds):
                rng = generator(seed, purpose, site, number)
                state, outcome = run_round(algorithm, state, swap, data[site], rng)
                outcomes[site].append(outcome)
        except FloatingPointError as error:
            exchange.abort()
            raise TrainingError(
                f"site {site!r}: {error}; check its data for extreme values"
            ) from error
        except BaseException:
            exchange.abort()
            raise
        seconds[site], states[site] = thread_time() - began, state

    torch.set_num_threads(1)
    with ThreadPoolExecutor(len(algorithms)) as pool:
        try:
            tasks = [pool.submit(live, site) for site in algorithms]
            errors = [task.exception() for task in tasks]
        except BaseException:
            exchange.abort()  # nobody may wait for a site that was never started
            raise
    for error in sorted(
        filter(None, errors), key=lambda e: isinstance(e, threading.BrokenBarrierError)
    ):
        raise error
    peers = 1 if server else len(algorithms) - 1
    return Played(
        outcomes,
        exchange.payload_bytes,
        2 * peers * rounds,
        seconds,
        exchange.sent_bytes,
        exchange.refused,
        exchange.lent,
        states,
    )
