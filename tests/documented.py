"""The commands and programs of the docs, page by page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name not in {"adr", "bench"}),
]
"""All but decisions, and pages that a command writes."""

WALKED = "walkthroughs.md"
"""Played line by line on files of every kind by ``test_walkthroughs``."""

RUN = ("sh", "console", "python")
SHOWN = ("toml", "{eval-rst}", "{toctree}", "json", "text")
"""Languages of blocks that are run, and of those that are not programs."""

BLOCK = re.compile(r"(?:^<!-- try: ([\w ]+) -->\n)?^```(\S*)\n(.*?)^```$", re.M | re.S)
LOOSE = re.compile(r"^    (\$ |dflmoe (?!pilot \[)|make |pip |export |python )", re.M)


@dataclass(frozen=True)
class Block:
    """Something to be typed.

    Attributes:
        start: Where it begins: the folder that ``tests.prepared`` makes; none to go on in the
            folder of the block before.
        language: Of it.
        text: What is typed.
    """

    start: str | None
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield what a page has to be typed.

    Raises:
        ValueError: A block is of an unknown language, or a command stands outside of any block.
    """
    text = page.read_text(encoding="utf-8")
    loose = LOOSE.search(BLOCK.sub("", text))
    if loose:
        raise ValueError(f"{page.name} shows {loose[0].strip()!r} outside of a fenced block")
    for start, language, inside in BLOCK.findall(text):
        if language in RUN:
            yield Block(start or None, language, inside)
        elif language not in SHOWN:
            raise ValueError(f"{page.name} has a block of {language!r}, which nobody runs")


def script(block: Block) -> list[str]:
    """Return the lines to be typed: of what a console shows, those with a prompt."""
    lines = block.text.splitlines()
    if block.language == "console":
        return [line[2:] for line in lines if line.startswith("$ ")]
    return lines
