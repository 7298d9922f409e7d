"""A connection with a member: who dials shows the pinned certificate, and knows the other's."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import grpc

from dflmoe.node.replica import Replica
from dflmoe.security.roster import Member
from dflmoe.wire.frames import FRAME_BYTES

SERVICE = "dflmoe.Exchange"
HELLO, SYNC, PROBE, WITNESS = (
    f"/{SERVICE}/{call}" for call in ("Hello", "Sync", "Probe", "Witness")
)
KEEPALIVE_MS, PATIENT_MS = 20_000, 60_000
"""Between two signs of life on an idle stream: of the side that dialled, and of the other."""

HELLO_S, PROBE_S, WITNESS_S = 10.0, 25.0, 30.0

WHERE = re.compile(r"^.*last error: \w+: (ipv[46]:\S+: )?")
"""What stands before the reason in a sentence of gRPC."""

LIMITS = [
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", FRAME_BYTES),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
CLIENT = [*LIMITS, ("grpc.keepalive_time_ms", KEEPALIVE_MS)]
SERVER = [
    *LIMITS,
    ("grpc.keepalive_time_ms", PATIENT_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.so_reuseport", 0),
]


@asynccontextmanager
async def link(replica: Replica, member: Member, endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    """Connect to a member, and check by a first call that both sides know each other.

    A unary call comes first because a stream that fails leaks memory in ``grpc.aio``.

    Args:
        replica: Whose keys and roster count.
        member: Who is dialled.
        endpoint: Where.

    Raises:
        grpc.aio.AioRpcError: Nobody answers there, or not that member.
    """
    keys = replica.keys
    pinned = "".join(member.card.certificates).encode()
    credentials = grpc.ssl_channel_credentials(pinned, keys.tls_secret, keys.pem.encode())
    options = [*CLIENT, ("grpc.ssl_target_name_override", member.site)]
    async with grpc.aio.secure_channel(endpoint, credentials, options=options) as channel:
        await called(channel, HELLO, HELLO_S)
        yield channel


@dataclass(frozen=True)
class Probed:
    """What a peer said when it was asked.

    Attributes:
        clock: Its clock.
        back: Why it cannot dial this site; empty if it can.
    """

    clock: datetime
    back: str


async def probed(replica: Replica, member: Member) -> Probed:
    """Ask a peer for its clock, and whether it can dial this site.

    Raises:
        grpc.aio.AioRpcError: It cannot be dialled; of the last address that was tried.
        ValueError: It says nonsense, or has no address.
    """
    failure: Exception = ValueError(f"{member.site} has no address; it dials only")
    for endpoint in member.card.endpoints:
        try:
            async with link(replica, member, endpoint) as channel:
                clock = await called(channel, HELLO, HELLO_S)
                back = await called(channel, PROBE, PROBE_S)
                return Probed(datetime.fromisoformat(clock.decode()), back.decode()[:500])
        except grpc.aio.AioRpcError as error:
            failure = error
    raise failure


async def dialled(replica: Replica, member: Member) -> str:
    """Return why a member cannot be dialled; empty if it can."""
    why = "it has no address; it dials only"
    for endpoint in member.card.endpoints:
        try:
            async with link(replica, member, endpoint):
                return ""
        except (grpc.aio.AioRpcError, OSError, ValueError) as error:
            why = f"{endpoint}: {reason(error)}"
    return why


def reason(error: Exception) -> str:
    """Return why a call failed, without the addresses that gRPC repeats."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return str(error)
    return WHERE.sub("", error.details() or error.code().name)


async def called(channel: grpc.aio.Channel, name: str, seconds: float) -> bytes:
    """Call a member without telling it anything.

    Raises:
        grpc.aio.AioRpcError: It does not answer in time, or refuses.
    """
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(name)
    return await call(b"", timeout=seconds)
