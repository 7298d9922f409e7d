"""Play a federation in this process: some workers, sites in step, over the real wire format."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import thread_time
from typing import TypeVar

import torch

from dflmoe.core.algorithm import SERVER, Algorithm, Outcome, Server, Steps, finished, steps_of
from dflmoe.core.site import LEADING, Lent, SiteData, SiteState
from dflmoe.errors import HeadError, TrainingError
from dflmoe.simulation.cores import available_cores
from dflmoe.simulation.device import CPU, moved
from dflmoe.simulation.faults import FAIR, Fault, Weather, lied, misled, tampered
from dflmoe.types import SiteId, generator
from dflmoe.wire.payload import ENVELOPE_BYTES, HeadSpec, WireDtype, decode, digest, encode

T = TypeVar("T")

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
        self._desk: dict[SiteId, tuple[Lent, bytes, str]] = {}
        self._before: dict[SiteId, tuple[Lent, bytes, str]] = {}
        self._reply: list[Lent] = []
        self.payload_bytes: dict[SiteId, int] = {}
        self.sent_bytes: dict[SiteId, int] = dict.fromkeys([*sites, SERVER], 0)
        self.refused: dict[SiteId, list[str]] = {site: [] for site in sites}
        self.lent: dict[SiteId, list[Lent]] = {site: [] for site in sites}

    def swap(self, lents: Mapping[SiteId, Lent]) -> dict[SiteId, list[Lent]]:
        """Take what every site lends in a round; returns what each of them hears."""
        for site, lent in lents.items():
            self._send(site, lent)
        if self._server is not None:
            self._answer(self._server)
            heard = {site: self._answered(site, lent.round) for site, lent in lents.items()}
        else:
            heard = {site: self._receive(site, lent.round) for site, lent in lents.items()}
        self._before = dict(self._desk)
        return heard

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

    def _answer(self, server: Server) -> None:
        lents = [lent for _, (lent, _, _) in sorted(self._desk.items())]
        heard = [lent for lent in lents if self._in_time(lent.round, lent.site, SERVER)]
        self._reply = [server(heard)] if heard else []
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
    workers: int | None = None,
    device: torch.device = CPU,
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
        workers: Threads that compute, each on one core; as many as there are cores if not given.
            They change no number.
        device: Where sites compute; what comes of it is on the CPU.

    Raises:
        TrainingError: A loss is not finite.
    """
    exchange = InStep(list(algorithms), server, faults, weather, hears=hears, dtype=dtype)
    # Workers must not share modules: a functional call swaps a module's parameters for a moment.
    algorithms = {site: moved(algorithm, device) for site, algorithm in algorithms.items()}
    data = {
        site: moved(misled(one, (faults or {}).get(site)), device) for site, one in data.items()
    }
    outcomes: dict[SiteId, list[Outcome]] = {site: [] for site in algorithms}
    seconds = dict.fromkeys(algorithms, 0.0)
    chance = partial(generator, seed, purpose)

    def timed(site: SiteId, do: Callable[[], T]) -> T:
        """Do something for a site, and count its compute time."""
        began = thread_time()
        try:
            return do()
        except FloatingPointError as error:
            raise TrainingError(
                f"site {site!r}: {error}; check its data for extreme values"
            ) from error
        finally:
            seconds[site] += thread_time() - began

    def half(steps: Steps) -> Lent:
        return moved(next(steps), CPU)

    def whole(steps: Steps, heard: list[Lent]) -> tuple[SiteState, Outcome]:
        state, outcome = finished(steps, moved(heard, device))
        return state, moved(outcome, CPU)

    torch.set_num_threads(1)
    with ThreadPoolExecutor(
        workers or len(available_cores()), initializer=torch.set_default_device, initargs=(device,)
    ) as pool:

        def each(do: Mapping[SiteId, Callable[[], T]]) -> dict[SiteId, T]:
            """Do what every site has to do; the first that fails fails all."""
            tasks = {site: pool.submit(timed, site, one) for site, one in do.items()}
            try:
                return {site: task.result() for site, task in tasks.items()}
            except BaseException:
                for task in tasks.values():
                    task.cancel()
                raise

        states = each(
            {
                site: partial(algorithm.init, site, data[site], chance(site, "init"))
                for site, algorithm in algorithms.items()
            }
        )
        for number in range(rounds):
            steps = {
                site: steps_of(algorithm, states[site], data[site], chance(site, number))
                for site, algorithm in algorithms.items()
            }
            heard = exchange.swap(each({site: partial(half, one) for site, one in steps.items()}))
            done = each({s: partial(whole, one, heard[s]) for s, one in steps.items()})
            for site, (state, outcome) in done.items():
                states[site] = state
                outcomes[site].append(outcome)
    peers = 1 if server else len(algorithms) - 1
    return Played(
        outcomes,
        exchange.payload_bytes,
        2 * peers * rounds,
        seconds,
        exchange.sent_bytes,
        exchange.refused,
        exchange.lent,
        moved(states, CPU),
    )
