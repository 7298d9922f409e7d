"""A folder larger than memory trains, and a frozen body reads no picture twice.

Pictures are generated: 20,000 of 224 x 224, whose class is the size of a blurred spot. They are
read as a hospital's are, by a ``site.toml`` with class folders.

    python benchmarks/streaming.py --folder /tmp/pictures
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import run_round
from dflmoe.core.streaming import streaming
from dflmoe.core.training import Training
from dflmoe.data.prepared import data_of, splits_of
from dflmoe.data.reading import study_at
from dflmoe.networks import build
from dflmoe.networks.public import public_body
from dflmoe.types import generator

SIDE = 224


def picture(rng: np.random.Generator, *, large: bool) -> Image.Image:
    """Return a grey picture with a small or a large bright spot."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    along, down = rng.uniform(60, SIDE - 60, 2)
    spot = np.exp(-((x - along) ** 2 + (y - down) ** 2) / (1800 if large else 200))
    coarse = rng.normal(0, 12, (SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1)
    return Image.fromarray(np.clip(60 + coarse + 90 * spot, 0, 255).astype(np.uint8))


def generated(folder: Path, rows: int) -> Path:
    """Write pictures that are not there yet, in a folder of each class; returns the settings."""
    rng = np.random.default_rng(0)
    for side in ("small", "large"):
        (folder / "pictures" / side).mkdir(parents=True, exist_ok=True)
    for k in track(range(rows), "writing pictures"):
        large = bool(k % 2)
        made = picture(rng, large=large)
        path = folder / "pictures" / ("large" if large else "small") / f"{k:06}.png"
        if not path.exists():
            made.save(path)
    settings = folder / "site.toml"
    settings.write_text('[data]\npath = "pictures"\ncache = "cache"\n')
    return settings


def peak_mib() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Read, train, and look twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--folder", type=Path, required=True)
    chosen = parser.parse_args()
    settings = generated(chosen.folder, chosen.rows)
    torch.set_num_threads(2)

    began = time.perf_counter()
    with Console().status("reading all once"):
        study = study_at([settings])
    read = time.perf_counter() - began
    site = study.sites[0]
    assert site.streamed is not None
    data = data_of(site, splits_of(site, folds=5, inner_folds=2, seed=0, only=(0,)))
    learning = streaming(build("resnet8", site.shape, 2), site.streamed.rows)
    plan = LocalOnly(
        learning,
        Training(
            weight_decays=(0.003,),
            learning_rate=0.005,
            max_steps=chosen.steps,
            judge_every=chosen.steps,
            batch=64,
        ),
    )
    began = time.perf_counter()
    with Console().status("training"):
        state = plan.init("here", data, generator(0))
        _, outcome = run_round(plan, state, lambda _: [], data, generator(1))
    trained = time.perf_counter() - began
    aside = data.crossfit.fold[0] < 0
    right = float((outcome.served[0, aside].argmax(1) == data.y[aside]).float().mean())

    plain = build("resnet8", site.shape, 2)
    frozen = streaming(public_body(plain, dict(plain.body.named_parameters())), site.streamed.rows)
    seconds = []
    with Console().status("two epochs with a frozen body"), torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            for batch in torch.arange(len(site.y), dtype=torch.float32).split(64):
                frozen.body(batch)
            seconds.append(time.perf_counter() - began)

    table = Table(title=f"{chosen.rows:,} pictures of {SIDE} x {SIDE}", title_justify="left")
    for column in ("what", "found", "meant to be"):
        table.add_column(column)
    whole = chosen.rows * SIDE**2 * 4 / 2**20
    table.add_row("all of them in memory would be", f"{whole:,.0f} MiB", "")
    table.add_row("memory at its peak", f"{peak_mib():,.0f} MiB", "< 2,048 MiB")
    table.add_row("looking at all once", f"{read:.1f} s", "")
    table.add_row(f"training {chosen.steps} steps of three fits", f"{trained:.1f} s", "")
    table.add_row("right on rows set aside", f"{right:.1%}", "")
    table.add_row("first epoch with a frozen body", f"{seconds[0]:.1f} s", "")
    table.add_row("second epoch", f"{seconds[1]:.2f} s", "")
    table.add_row("first beside second", f"{seconds[0] / seconds[1]:,.0f}", ">= 10")
    Console().print(table)


if __name__ == "__main__":
    main()
