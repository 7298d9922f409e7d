"""An exchange in which everybody waits for everybody: for papers and comparisons."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dflmoe.core.algorithm import SERVER, Server
from dflmoe.core.site import LEADING, Lent
from dflmoe.errors import HeadError
from dflmoe.simulation.faults import FAIR, Fault, Weather, lied, tampered
from dflmoe.types import SiteId
from dflmoe.wire.payload import ENVELOPE_BYTES, HeadSpec, WireDtype, decode, digest, encode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent:
    """What a site sent in a round, as bytes; read once, whoever hears it."""

    lent: Lent
    payload: bytes
    address: str
    spec: HeadSpec

    @cached_property
    def arrived(self) -> Lent | str:
        """What those get who hear it, or the sentence on why they refuse it."""
        try:
            tensors = decode(self.payload, self.address, self.spec, self.lent.site)
        except HeadError as error:
            return str(error)
        return replace(self.lent, tensors=tensors)


class InStep:
    """What sites lend in a round, and what each of them hears.

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
        dtype: WireDtype = "fp32",
        history: bool = True,
    ) -> None:
        self._server, self._history = server, history
        self._weather, self._dtype = weather, dtype
        self._faults = dict(faults or {})
        self._desk: dict[SiteId, _Sent] = {}
        self._before: dict[SiteId, _Sent] = {}
        self._to_server: dict[SiteId, Lent] = {}
        self._reply: dict[SiteId, Lent] = {}
        self._sizes: dict[tuple[tuple[str, torch.Size], ...], int] = {}
        self.payload_bytes: dict[SiteId, int] = {}
        self.sent_bytes: dict[SiteId, int] = dict.fromkeys([*sites, SERVER], 0)
        self.refused: dict[SiteId, list[str]] = {site: [] for site in sites}
        self.lent: dict[SiteId, list[Lent]] = {site: [] for site in sites}

    def begin(self) -> None:
        """Clear the desk for a round; what was on it can still come late."""
        self._before = self._desk if self._weather.spells else {}
        self._desk, self._to_server = {}, {}

    def send(self, site: SiteId, lent: Lent, listeners: int) -> None:
        """Take what a site lends.

        Args:
            site: Who lends.
            lent: What.
            listeners: How many peers it is sent to.
        """
        fault, leading = self._faults.get(site), LEADING[lent.kind]
        self.payload_bytes[site] = self._size_of_one(lent)
        if fault == "silent" or not self._weather.arrives(lent.round, site, site):
            return
        if lent.tensors:
            times = 1 if self._server else listeners
            self.sent_bytes[site] += (self.payload_bytes[site] + ENVELOPE_BYTES) * times
        if self._history and lent.tensors:
            self.lent[site].append(lent)
        sent = lied(lent, fault)
        if self._server:
            self._to_server[site] = sent
        elif sent.tensors:
            payload = encode(sent.tensors, self._dtype, leading=leading)
            self._desk[site] = _Sent(
                replace(sent, tensors={}),
                tampered(payload) if fault == "tampered" else payload,
                digest(payload),
                HeadSpec(
                    {name: tuple(p.shape) for name, p in sent.tensors.items()},
                    dtype=self._dtype,
                    leading=leading,
                ),
            )

    def _size_of_one(self, lent: Lent) -> int:
        """Return the bytes of the payload of a single model; known by its shapes."""
        shapes = tuple((name, p.shape) for name, p in lent.tensors.items())
        if shapes and shapes not in self._sizes:
            single = {name: p[0] for name, p in lent.tensors.items()}
            self._sizes[shapes] = len(encode(single, self._dtype, leading=LEADING[lent.kind] - 1))
        return self._sizes.get(shapes, 0)

    def answer(self) -> None:
        """Let the server answer what it heard, if there is one."""
        if self._server is None:
            return
        lents = [lent for _, lent in sorted(self._to_server.items())]
        heard = [lent for lent in lents if self._in_time(lent.round, lent.site, SERVER)]
        said = self._server(heard) if heard else {}
        self._reply = dict.fromkeys(self.lent, said) if isinstance(said, Lent) else dict(said)
        answers = {id(one): one for one in self._reply.values()}
        for one in answers.values():
            size = len(encode({name: p[0] for name, p in one.tensors.items()})) + ENVELOPE_BYTES
            told = sum(self._reply.get(lent.site) is one for lent in lents)
            self.sent_bytes[SERVER] += size * told

    def heard(self, site: SiteId, peers: Collection[SiteId], number: int) -> list[Lent]:
        """Return what has come to a site.

        Args:
            site: Who hears.
            peers: Whom.
            number: The round, from 1.
        """
        if self._server is not None:
            comes = site in self._reply and self._in_time(number, SERVER, site)
            return [self._reply[site]] if comes else []
        inbox = []
        for sent in self._come(site, peers, number):
            if isinstance(sent.arrived, str):
                logger.info("%s refused a head: %s", site, sent.arrived)
                self.refused[site].append(sent.arrived)
            else:
                inbox.append(sent.arrived)
        return inbox

    def _in_time(self, number: int, sender: SiteId, receiver: SiteId) -> bool:
        """Return whether what a server hears or says comes; it does not wait for what is late."""
        weather = self._weather
        return weather.arrives(number, sender, receiver) and not weather.late(
            number, sender, receiver
        )

    def _come(self, site: SiteId, peers: Collection[SiteId], number: int) -> list[_Sent]:
        """Return what has come to a site: of a link that is late, what was sent a round ago."""
        weather, come = self._weather, []
        for peer in sorted(peers):
            late = weather.late(number, peer, site)
            desk = self._before if late else self._desk
            if peer in desk and weather.arrives(number - late, peer, site):
                come.append(desk[peer])
        return come
