"""Fail if a part of the package is less covered by tests than promised.

Run it as ``python scripts/coverage_floor.py coverage.json``.
"""

import json
import sys
from pathlib import Path

FLOORS = {"core": 95.0, "metrics": 95.0, "wire": 100.0, "security": 100.0}
"""Least coverage of lines and branches together, in percent, of each folder."""


def covered(files: dict[str, dict[str, dict[str, int]]], folder: str) -> float:
    """Return the share of lines and branches of a folder that tests ran, in percent."""
    sums = [f["summary"] for name, f in files.items() if f"dflmoe/{folder}/" in name]
    done = sum(s["covered_lines"] + s["covered_branches"] for s in sums)
    there = sum(s["num_statements"] + s["num_branches"] for s in sums)
    return 100 * done / there


def main(path: Path) -> None:
    """Compare every floor with what was measured."""
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    found = {folder: covered(files, folder) for folder in FLOORS}
    for folder, share in found.items():
        print(f"coverage of {folder}: {share:.1f} % (at least {FLOORS[folder]:.0f} %)")
    if any(share < FLOORS[folder] for folder, share in found.items()):
        sys.exit("a part of the package is less covered than promised")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
