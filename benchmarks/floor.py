"""The least that a round can take: its operations, counted, at the speed of a matrix product.

``python benchmarks/floor.py`` counts the floating point operations of the round that simulators are
compared on (``benchmarks/peers/workload.py``), measures how many a second one core does in a plain
matrix product, and prints the quotient beside what the round takes.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parent / "peers"))

import workload

SIZE, TIMES = 1024, 9


def operations() -> int:
    """Return the operations of a round: forward and backward of every step of every site."""
    net, rows = workload.network(), workload.site(0)
    with FlopCounterMode(display=False) as counter:
        for x, y in workload.batches(rows, workload.order(0, 0)):
            F.cross_entropy(net(x), y).backward()
    return workload.SITES * int(counter.get_total_flops())


def rate() -> float:
    """Return the operations a second of a product of two matrices, on one core."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    took = []
    for _ in range(TIMES):
        began = perf_counter()
        torch.mm(a, b)
        took.append(perf_counter() - began)
    return float(2 * SIZE**3 / median(took))


def plain() -> float:
    """Return the seconds of a round as a plain loop on one core."""
    took = []
    for _ in range(3):
        began = perf_counter()
        workload.plain_round(workload.network(), 0)
        took.append(perf_counter() - began)
    return median(took)


def main() -> None:
    """Print the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {"operations": operations(), "operations_a_second": rate(), "plain_loop_s": plain()}
    found["floor_s"] = found["operations"] / found["operations_a_second"]
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    print(f"a round: {found['operations'] / 1e9:.1f} G operations")
    print(f"a matrix product, one core: {found['operations_a_second'] / 1e9:.0f} G a second")
    print(f"floor {found['floor_s']:.2f} s; a plain loop takes {found['plain_loop_s']:.2f} s")


if __name__ == "__main__":
    main()
