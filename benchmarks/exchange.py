"""What an exchange costs: nodes as processes on loopback, over mutual TLS.

Run it as ``python benchmarks/exchange.py --nodes 8 --bytes 1000000``. All nodes lend at once; a
round ends when every node holds the newest head of every other, checked and durable. Printed are
the median and longest round, memory that the network part and what it holds add to a process, bytes
on the wire for each byte of payload, and what idle links cost.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

import dflmoe.node  # noqa: F401 - before gRPC is imported
from dflmoe.demo.founding import found, free_address
from dflmoe.security.charter import Charter

ROWS = 60
IDLE_S = 20.0
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


def live(folder: Path, name: str, bind: str, pipe: Connection) -> None:
    """Be one node: lend when told, and say when all have been heard."""
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
        replica.lend(lent, ROWS)
        network.sync()

        def all_new(seen: dict[str, int] = seen) -> bool:
            heads = replica.store.heads()
            fresh = [s for s in heads if s != name and heads[s].seq > seen.get(s, 0)]
            return len(fresh) == others

        if not network.wait(all_new, 120):
            raise TimeoutError(f"{name} did not hear everybody")
        pipe.send((time.monotonic() - begin, me.memory_info().rss - before))
    network.stop()
    pipe.send(sum(n for (_, way, _), n in replica.store.traffic().items() if way == "sent"))


def loopback() -> int:
    """Return the bytes that loopback has carried."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds of idling, 0 for none")
    chosen = parser.parse_args()
    names = [f"site-{k}" for k in range(chosen.nodes)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        at = {name: free_address() for name in names}
        found(folder, at, charter(chosen.bytes))
        pipes, nodes = [], []
        for name in names:
            ours, theirs = context.Pipe()
            nodes.append(context.Process(target=live, args=(folder, name, at[name], theirs)))
            nodes[-1].start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        time.sleep(1.0)
        seconds, memory = [], 0
        wire = loopback()
        for number in range(chosen.rounds):
            begin = time.monotonic() + 0.05
            for pipe in pipes:
                pipe.send((number, begin))
            told = [pipe.recv() for pipe in pipes]
            seconds.append(max(s for s, _ in told))
            memory = max(memory, *(m for _, m in told))
        wire = loopback() - wire
        idle = loopback()
        time.sleep(chosen.idle)
        idle = loopback() - idle
        for pipe in pipes:
            pipe.send(None)
        for node in nodes:
            node.join()
    links = chosen.nodes * (chosen.nodes - 1)
    payload = chosen.rounds * links * chosen.bytes
    result = {
        "nodes": chosen.nodes,
        "bytes": chosen.bytes,
        "rounds": chosen.rounds,
        "round_ms_median": round(1000 * statistics.median(seconds), 1),
        "round_ms_longest": round(1000 * max(seconds), 1),
        "memory_mb": round(memory / 2**20, 1),
        "wire_per_payload": round(wire / payload, 4),
        "idle_bytes_per_s_and_peer": round(idle / chosen.idle / links, 1) if chosen.idle else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
