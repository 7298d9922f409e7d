"""What an exchange costs: nodes as processes with a network each, over mutual TLS.

Run it as ``python benchmarks/exchange.py --nodes 8 --bytes 1000000``. All nodes lend at once; a
round ends when every node holds the newest head of every other, checked and durable. Each node has
a network namespace of its own, joined to the others by a bridge, where the system lets this program
make them (root, and ``ip``); elsewhere, and with ``--loopback``, all share loopback.

Printed are the median and longest round, memory that the network part and what it holds add to a
process, bytes on the wire for each byte of payload, what idle links cost, and what a site sends and
receives in a day with a round an hour. Times depend on the machine: how long it takes to check one
signature is printed beside them.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import dflmoe.node  # noqa: F401 - before gRPC is imported
from dflmoe.demo.founding import found, free_address
from dflmoe.security.charter import Charter

ROWS = 60
IDLE_S, SETTLED_S = 60.0, 3.0
"""A minute has one summary of each side; the last round's news are over before it begins."""

FLOAT_BYTES, CLASSES = 4, 2


def charter(size: int) -> Charter:
    """Return the charter of a federation whose heads have about so many bytes."""
    return Charter(
        federation="0" * 32,
        name="Benchmark",
        task="none",
        classes=("no", "yes"),
        kind="table",
        shape=(max(1, size // (FLOAT_BYTES * CLASSES)),),
        network="plain",
        max_head_bytes=max(1024, 2 * size),
        max_norm=1e9,
    )


class Namespaces:
    """A network namespace for each node, on one bridge."""

    CLONE_NEWNET = 0x40000000

    def __init__(self, names: list[str]) -> None:
        self._tag = f"df{os.getpid() % 10000}"
        self._names = names
        self._ip("link", "add", self._tag, "type", "bridge")
        self._ip("link", "set", self._tag, "up")
        for k in range(len(names)):
            space, ours, theirs = f"{self._tag}-{k}", f"{self._tag}v{k}", f"{self._tag}p{k}"
            self._ip("netns", "add", space)
            self._ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            self._ip("link", "set", theirs, "netns", space)
            self._ip("link", "set", ours, "master", self._tag, "up")
            inside = ("-n", space)
            self._ip(*inside, "addr", "add", f"10.77.{k // 250}.{k % 250 + 1}/16", "dev", theirs)
            self._ip(*inside, "link", "set", theirs, "up")
            self._ip(*inside, "link", "set", "lo", "up")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S603, S607

    def addresses(self) -> dict[str, str]:
        """Return where each node is dialled."""
        return {n: f"10.77.{k // 250}.{k % 250 + 1}:8443" for k, n in enumerate(self._names)}

    def space(self, name: str) -> str:
        """Return the namespace of a node."""
        return f"{self._tag}-{self._names.index(name)}"

    def carried(self) -> int:
        """Return the bytes that all nodes have sent."""
        found = psutil.net_io_counters(pernic=True)
        return sum(found[f"{self._tag}v{k}"].bytes_recv for k in range(len(self._names)))

    def close(self) -> None:
        """Remove what was made."""
        for k in range(len(self._names)):
            self._ip("netns", "del", f"{self._tag}-{k}")
        self._ip("link", "del", self._tag)

    @classmethod
    def enter(cls, space: str) -> None:
        """Move this thread, and those that it starts, into a namespace."""
        with Path(f"/run/netns/{space}").open("rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), cls.CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"namespace {space} cannot be entered")


class Loopback:
    """One network for all nodes."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def addresses(self) -> dict[str, str]:
        """Return where each node is dialled."""
        return {name: free_address() for name in self._names}

    def space(self, name: str) -> None:
        """Return none: there are no namespaces."""

    def carried(self) -> int:
        """Return the bytes that loopback has carried."""
        return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)

    def close(self) -> None:
        """Nothing was made."""


def networks(names: list[str], *, loopback: bool) -> Namespaces | Loopback:
    """Return namespaces if the system gives some."""
    if not loopback:
        try:
            return Namespaces(names)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no namespaces here ({error}); all nodes share loopback", file=sys.stderr)
    return Loopback(names)


def checking_us() -> float:
    """Return microseconds that one check of a signature takes."""
    key = Ed25519PrivateKey.generate()
    signed, public = key.sign(b"x"), key.public_key()
    began = time.perf_counter()
    for _ in range(500):
        public.verify(signed, b"x")
    return (time.perf_counter() - began) / 500 * 1e6


def live(folder: Path, name: str, bind: str, space: str | None, pipe: Connection) -> None:
    """Be one node: lend when told, and say when all have been heard."""
    if space is not None:
        Namespaces.enter(space)
    import torch  # noqa: PLC0415

    from dflmoe.core.site import Lent  # noqa: PLC0415
    from dflmoe.node.home import Home  # noqa: PLC0415
    from dflmoe.node.network import Network  # noqa: PLC0415
    from dflmoe.node.replica import Replica  # noqa: PLC0415
    from dflmoe.node.store import Store  # noqa: PLC0415

    torch.set_num_threads(1)
    replica = Replica(Home(folder / name), Store(folder / name / "store"))
    width = replica.roster.charter.shape[0]
    me = psutil.Process()
    before = me.memory_info().rss
    network = Network(replica, bind)
    network.start()
    others = len(replica.roster.members) - 1

    def settled() -> bool:
        return len(network.reachable()) == others

    while not settled():
        time.sleep(0.05)
    pipe.send("ready")
    while (command := pipe.recv()) is not None:
        number, begin = command
        weight = torch.randn(1, CLASSES, width, generator=torch.Generator().manual_seed(number))
        lent = Lent("", number, "head", width, {"weight": weight, "bias": torch.zeros(1, CLASSES)})
        seen = {site: head.seq for site, head in replica.store.heads().items() if site != name}
        while time.monotonic() < begin:
            time.sleep(0.001)
        spent = time.process_time()
        replica.lend(lent, ROWS)
        network.sync()

        def all_new(seen: dict[str, int] = seen) -> bool:
            heads = replica.store.heads()
            fresh = [s for s in heads if s != name and heads[s].seq > seen.get(s, 0)]
            return len(fresh) == others

        if not network.wait(all_new, 120):
            raise TimeoutError(f"{name} did not hear everybody")
        seconds = time.monotonic() - begin
        pipe.send((seconds, me.memory_info().rss - before, time.process_time() - spent))
    network.stop()
    pipe.send(sum(n for (_, way, _), n in replica.store.traffic().items() if way == "sent"))


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds of idling, 0 for none")
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    chosen = parser.parse_args()
    names = [f"site-{k}" for k in range(chosen.nodes)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network = networks(names, loopback=chosen.loopback)
        at = network.addresses()
        found(folder, at, charter(chosen.bytes))
        pipes, nodes = [], []
        for name in names:
            ours, theirs = context.Pipe()
            nodes.append(
                context.Process(
                    target=live, args=(folder, name, at[name], network.space(name), theirs)
                )
            )
            nodes[-1].start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        time.sleep(1.0)
        seconds, memory, busy = [], 0, 0.0
        wire = network.carried()
        for number in range(chosen.rounds):
            begin = time.monotonic() + 0.05
            for pipe in pipes:
                pipe.send((number, begin))
            told = [pipe.recv() for pipe in pipes]
            seconds.append(max(s for s, _, _ in told))
            memory = max(memory, *(m for _, m, _ in told))
            busy += sum(b for _, _, b in told)
        wire = network.carried() - wire
        time.sleep(SETTLED_S if chosen.idle else 0.0)
        idle = network.carried()
        time.sleep(chosen.idle)
        idle = network.carried() - idle
        for pipe in pipes:
            pipe.send(None)
        for node in nodes:
            node.join()
        network.close()
    links = chosen.nodes * (chosen.nodes - 1)
    payload = chosen.rounds * links * chosen.bytes
    quiet = idle / chosen.idle / links if chosen.idle else 0.0
    day = 2 * (24 * wire / chosen.rounds / chosen.nodes + 86400 * quiet * (chosen.nodes - 1))
    result = {
        "network": type(network).__name__.lower(),
        "nodes": chosen.nodes,
        "bytes": chosen.bytes,
        "rounds": chosen.rounds,
        "round_ms_median": round(1000 * statistics.median(seconds), 1),
        "round_ms_longest": round(1000 * max(seconds), 1),
        "cpu_ms_per_round": round(1000 * busy / chosen.rounds, 1),
        "memory_mb": round(memory / 2**20, 1),
        "wire_per_payload": round(wire / payload, 4),
        "idle_bytes_per_s_and_peer": round(quiet, 1) if chosen.idle else None,
        "mb_per_site_and_day": round(day / 1e6, 1) if chosen.idle else None,
        "signature_check_us": round(checking_us()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
