"""Whose a file is, where only its name says so."""

import re
from pathlib import Path

BIDS = re.compile(r"sub-([A-Za-z0-9]+)(?=[_.]|$)")
"""How the Brain Imaging Data Structure begins the name of a subject's folder and files."""

SLEEP_EDF = re.compile(r"(?P<night>(?P<subject>S[CT]\d{3})\d[A-Z])[A-Z0-9]-PSG\.edf", re.IGNORECASE)
"""How Sleep-EDF names the nights of its subjects: ``SC4ssNE0-PSG.edf``, ``ST7ssNJ0-PSG.edf``."""


def bids_subject(file: Path, where: Path) -> str:
    """Return the subject that a file's name, or a folder's below ``where``, tells; or nothing."""
    parts = file.relative_to(where).parts if file.is_relative_to(where) else ()
    for part in reversed((*parts[:-1], file.name)):
        if found := BIDS.match(part):
            return found[1]
    return ""


def sleep_edf_subject(file: Path) -> str:
    """Return the subject of a night of Sleep-EDF; nothing if the file is of another kind."""
    found = SLEEP_EDF.fullmatch(file.name)
    return found["subject"].upper() if found else ""
