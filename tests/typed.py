"""What is typed otherwise in a test than in the docs, and why: all else is run as it stands.

Each line of a block is looked up here, and the first pattern that it matches says what runs in its
place. Nothing is left out: what is not run is still looked at (the command is parsed, the target
made in thought, the extra looked up).
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOOK = f'"{sys.executable}" "{__file__}"'
"""This file as a program: it fails if what the docs name is not there."""

INSTEAD: list[tuple[str, str, str]] = [
    (
        r"^make (\S+)( \S+=\S+)?$",
        rf'make -n -C "{ROOT}" \1 >made',
        "installs, and takes minutes to hours",
    ),
    (r"^\S*pip3? (install|download) (.*)$", rf"{LOOK} pip \2", "would change this environment"),
    (r"^python3 -m venv .*$", "python3 -m venv --help >made", "would be empty: pip is not run"),
    (r"^dflmoe-env/bin/dflmoe (.*)$", r"dflmoe \1", "that environment is not made"),
    (r"^\.venv/bin/dflmoe (.*)$", r"dflmoe \1", "this environment is another"),
    (
        r"^(RAY_ADDRESS=\S+ )?dflmoe pilot --executor ray.*$",
        "dflmoe pilot --help | grep -- --executor >made",
        "tests/e2e/test_ray.py plays it on a cluster of its own",
    ),
    (
        r"^dflmoe pilot cohort\.npz .*--public-body.*$",
        "dflmoe pilot --help | grep -- --public-body >made",
        "tests/e2e/test_body_command.py makes a body and plays it",
    ),
    (r"^ray start .*$", f"{LOOK} ray", "needs machines"),
    (r"^(dflmoe pilot( .*)?)$", r"\1 --quick", "plays fewer splits; the options are the same"),
    (r"^(dflmoe demo( .*)?)$", r"\1 --sites 2 --rounds 1", "plays less"),
    (
        r"^(\S*=\S* )?dflmoe bench (run|page) (\S+) --(quick|full)$",
        r"dflmoe bench page \3 --\4 --out records",
        "plays for minutes to hours; the plan is made, and nothing played",
    ),
    (
        r"^dflmoe bench run (\S+) (.*) --device cuda --jobs 1$",
        r"dflmoe bench page \1 \2 --out records",
        "needs a GPU; the plan is made, and nothing played",
    ),
    (
        r"^dflmoe bench paper( .*)$",
        r"mkdir -p sets/apnea_hr && dflmoe bench paper\1 --no-play --data sets --out records",
        "plays for hours; the pages are made, and nothing played",
    ),
    (
        r"^(dflmoe page.*|dflmoe node run( --home \S+)?)$",
        r'timeout -s INT 12 \1 || { code=$?; test "$code" = 124 -o "$code" = 130; }',
        "runs until it is stopped",
    ),
    (r"^dflmoe body (pretrain|convert|show) .*$", r"dflmoe body \1 --help >made", "see test_body"),
    (r"^sudo .*$", f'test -f "{ROOT}/deploy/dflmoe.service"', "needs root, and systemd"),
    (r"^podman .*$", f'test -f "{ROOT}/deploy/Containerfile"', "needs a container engine"),
    (
        r"^\S*python (benchmarks/\S+).*$",
        rf'"{sys.executable}" -m py_compile "{ROOT}/\1"',
        "measures for minutes",
    ),
    (r"^export DFLMOE_DATA=.*$", ":", "names a folder of the reader's"),
]
"""Pattern, what runs in its place, and why."""


def typed(line: str) -> str:
    """Return what is run for a line."""
    found = rule(line)
    return line if found is None else re.sub(*INSTEAD[found][:2], _bare(line))


def rule(line: str) -> int | None:
    """Return the number of the first pattern that a line matches, if it matches one."""
    return next((k for k, (p, *_) in enumerate(INSTEAD) if re.match(p, _bare(line))), None)


def _bare(line: str) -> str:
    return re.sub(r"\s+#.*$", "", line)


def look(what: str, *named: str) -> None:
    """Fail if something that the docs name is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    if what == "ray":
        assert "ray" in extras
        return
    for word in named:
        found = re.match(r"^dflmoe\[(.*)\]$", word)
        for extra in found[1].split(",") if found else ():
            assert extra in extras, f"there is no extra {extra!r}"
        if word.endswith((".lock", ".txt")):
            assert (ROOT / word).exists(), f"there is no {word}"


if __name__ == "__main__":
    look(*sys.argv[1:])
