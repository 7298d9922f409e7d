"""Install other simulators, each in an environment of its own: see ``compare.py``.

Run it as ``python benchmarks/peers/install.py .venv-peers``. What can't be installed leaves a file
``failed`` with the reason, which ``compare.py`` prints, and the rest goes on. Needs Python alone.
"""

import argparse
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

PEERS: Mapping[str, Sequence[Sequence[str]]] = {
    "flower": [["flwr[simulation]==1.42.0", "numpy"]],
    # fluke-fl asks for trackers and test tools that it does not need to train.
    "fluke": [
        ["--no-deps", "fluke-fl==0.8.1"],
        ["numpy", "pandas", "scikit-learn", "seaborn", "torchmetrics==1.9.0"],
        ["cerberus", "diskcache", "omegaconf", "psutil", "rich"],
    ],
    "pfl": [["pfl==0.6.0", "numpy"]],
    # The newest that work with the old numpy and datasets that p2pfl asks for.
    "p2pfl": [["p2pfl[dp]==0.4.4", "pyarrow<20", "huggingface_hub<1"]],
}
"""What ``pip install`` is given after PyTorch, call by call."""


def install(folder: Path, torch: str, calls: Sequence[Sequence[str]]) -> None:
    """Make an environment, unless it is there; PyTorch comes first, and nothing may replace it.

    Raises:
        CalledProcessError: pip failed.
    """
    if (folder / "done").exists():
        return
    venv.create(folder, with_pip=True, clear=True, symlinks=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    for call in [[torch], *([torch, *call] for call in calls)]:
        run = [*pip, "--quiet", *call]
        subprocess.run(run, check=True, capture_output=True, text=True)  # noqa: S603 - lists above
    (folder / "done").touch()


def main() -> None:
    """Install all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch", default="torch==2.13.0")
    chosen = parser.parse_args()
    for name, calls in PEERS.items():
        folder = chosen.folder / name
        print(f"installing {name}", file=sys.stderr)
        try:
            install(folder, chosen.torch, calls)
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
            reason = said[-1] if said else error.stderr[-300:]
            (folder / "failed").write_text(reason)
            print(f"{name} can't be installed: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
