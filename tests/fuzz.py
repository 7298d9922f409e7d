"""Search for bytes that break a reader, guided by what code they reach.

``python -m tests.fuzz --runs 1000000`` shares the runs among all kinds of documents; what is found
is kept in ``tests/corpus``, where the ordinary tests try it for ever after. Needs atheris, which
``make fuzz`` installs.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dflmoe", "safetensors", "tomllib"]):
    from tests.documents import CORPUS, KINDS, corpus

    from dflmoe.errors import DflmoeError

LONGEST = 8192
"""Bytes of an input."""


def search(what: str, runs: int) -> None:
    """Search in this process, and end it."""
    read, found = KINDS[what].read, CORPUS / what
    found.mkdir(parents=True, exist_ok=True)

    def tried(raw: bytes) -> None:
        with suppress(DflmoeError):
            read(raw)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sound").write_bytes(KINDS[what].sound)
        for path in corpus(what):
            Path(folder, path.name).write_bytes(path.read_bytes())
        options = [f"-runs={runs}", f"-max_len={LONGEST}", f"-artifact_prefix={found}/"]
        atheris.Setup([sys.argv[0], *options, "-timeout=10", "-print_final_stats=1", folder], tried)
        atheris.Fuzz()


def main() -> None:
    """Search each kind in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--what", choices=KINDS)
    chosen = parser.parse_args()
    if chosen.what:
        search(chosen.what, chosen.runs)
    each = -(-chosen.runs // len(KINDS))
    broken = [
        what
        for what in KINDS
        if subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--what", what, "--runs", str(each)], check=False
        ).returncode
    ]
    told = f"{chosen.runs} inputs of {len(KINDS)} kinds; broken: {', '.join(broken) or 'none'}"
    sys.stdout.write(f"{told}\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
