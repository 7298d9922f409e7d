"""How time and memory grow with the number of sites: ``python benchmarks/scale.py``.

Every site has a head of 9,610 parameters (64-128-10) and hears eight peers, by usefulness and
chance. Each number of sites is played in a process of its own; time per site should stay as it is.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import CrossFit, Network, SiteData
from dflmoe.core.training import Training
from dflmoe.simulation.federation import play
from dflmoe.simulation.machine import Machine

ROWS, FEATURES, CLASSES, HEARS = 24, 64, 10, 8


def site_data(seed: int) -> SiteData:
    """Return a site's rows, of which the last quarter is tested."""
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(np.arange(ROWS) % CLASSES)
    x = torch.from_numpy(rng.normal(size=(1, ROWS, FEATURES)).astype(np.float32))
    x[0, :, :CLASSES] += nn.functional.one_hot(y, CLASSES)
    fold = torch.arange(ROWS) % 2
    fold[-ROWS // 4 :] = -1
    return SiteData(x, y, CrossFit(fold[None]), torch.arange(ROWS))


def measured(sites: int, rounds: int, pages: Path | None) -> dict[str, float]:
    """Return what playing so many sites takes in this process.

    Args:
        sites: How many.
        rounds: How many.
        pages: Folder for the state of sites that wait; memory if not given.
    """
    names = [f"site-{k}" for k in range(sites)]
    head = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    network = Network(nn.Identity(), head, FEATURES, CLASSES, common=True)
    steps = Training(weight_decays=(0.1,), learning_rate=0.01, max_steps=10)
    dials = Dials(align="shared", mixture_steps=10, max_age=0)
    data = {name: site_data(k) for k, name in enumerate(names)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    play(
        {name: DFLMoE(network, dials, steps) for name in names},
        data,
        rounds=rounds,
        seed=0,
        purpose="scale",
        hears=HEARS,
        machine=Machine(pages=pages),
        history=False,
    )
    took = (time.perf_counter() - began) / rounds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "sites": sites,
        "round_s": took,
        "ms_a_site": 1000 * took / sites,
        "peak_mib": peak / 1024,
        "kib_a_site": (peak - before) / sites,
    }


def main() -> None:
    """Measure each number of sites, and print them beside each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[30, 100, 300, 1000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pages", action="store_true", help="sites wait on disk")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        with TemporaryDirectory() as folder:
            pages = Path(folder) if chosen.pages else None
            sys.stdout.write(json.dumps(measured(chosen.sites[0], chosen.rounds, pages)))
        return
    found = []
    for sites in chosen.sites:
        command = [sys.executable, __file__, "--one", "--rounds", str(chosen.rounds)]
        command += ["--pages"] if chosen.pages else []
        ran = subprocess.run(  # noqa: S603 - this very file
            [*command, "--sites", str(sites)], check=True, capture_output=True, text=True
        )
        found.append(json.loads(ran.stdout))
    if chosen.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    table = Table(title=f"Rounds of sites that hear {HEARS} peers each", title_justify="left")
    for column in ("sites", "s a round", "ms a site", "x of the first", "peak MiB", "KiB a site"):
        table.add_column(column, justify="right")
    for one in found:
        ratio = one["ms_a_site"] / found[0]["ms_a_site"]
        table.add_row(
            f"{one['sites']:.0f}",
            f"{one['round_s']:.2f}",
            f"{one['ms_a_site']:.1f}",
            f"{ratio:.2f}",
            f"{one['peak_mib']:.0f}",
            f"{one['kib_a_site']:.0f}",
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
