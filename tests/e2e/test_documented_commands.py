"""Every command and program in the docs runs, as a reader would type it, page by page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documented import PAGES, ROOT, WALKED, Block, blocks, script
from tests.prepared import START
from tests.typed import INSTEAD, rule, typed

pytestmark = pytest.mark.e2e

SHELL = "set -eo pipefail\n"
WITH_BLOCKS = [page for page in PAGES if page.name != WALKED and list(blocks(page))]


def environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    """Return what a reader's shell has: this Python's commands, and a home of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "TERM": "dumb", **more}


def played(block: Block, folder: Path, env: dict[str, str]) -> None:
    """Type a block."""
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    else:
        command = ["bash", "-c", SHELL + "\n".join(map(typed, script(block)))]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    said = f"{block.text}\n--- says ---\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert done.returncode == 0, said


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    env = environment(folder, dict(START["empty"](folder)))
    functions: list[str] = []
    for number, block in enumerate(blocks(page)):
        if block.start is not None:
            folder = tmp_path / str(number)
            folder.mkdir()
            env = environment(folder, dict(START[block.start](folder)))
            functions = []
        whole = Block(block.start, block.language, block.text)
        if block.language != "python":
            text = "".join(f"{line}\n" for line in functions) + block.text
            whole = Block(block.start, block.language, text)
            functions += [line for line in block.text.splitlines() if "() {" in line]
        played(whole, folder, env)


def test_every_page_is_looked_at_and_nothing_is_typed_otherwise_in_vain() -> None:
    lines = [
        line
        for page in PAGES
        if page.name != WALKED
        for block in blocks(page)
        if block.language != "python"
        for line in script(block)
    ]
    assert len(lines) > 100
    used = {rule(line) for line in lines}
    assert [pattern for k, (pattern, *_) in enumerate(INSTEAD) if k not in used] == []
    assert all(why for *_, why in INSTEAD)
