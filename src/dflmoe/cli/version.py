"""What is installed here: what a report of a fault should say, and nothing of the site."""

import platform
import re
import sqlite3
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import get_args

from dflmoe.model.told import FORMAT
from dflmoe.report.schema import SCHEMA_VERSION
from dflmoe.wire.manifest import Manifest

OWN = "dflmoe"


def about() -> dict[str, str | dict[str, str | None]]:
    """Return versions of all that a fault may hang on; none for what is not installed."""
    return {
        OWN: version(OWN),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": _torch(),
        "sqlite": sqlite3.sqlite_version,
        "formats": _formats(),
        "libraries": {name: _installed(name) for name in _libraries()},
    }


def lines(found: Mapping[str, str | dict[str, str | None]]) -> str:
    """Return that for people: a line each."""
    told = []
    for name, value in found.items():
        if isinstance(value, str):
            told.append(f"{name}: {value}")
            continue
        told.append(f"{name}:")
        told += [f"  {part} {it or 'not installed'}" for part, it in value.items()]
    return "\n".join(told)


def _torch() -> str:
    import torch  # noqa: PLC0415 - takes seconds, and a plain --version needs none

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{torch.__version__}, {torch.get_num_threads()} threads, {device}"


def _formats() -> dict[str, str | None]:
    """Return the newest version of each document that this version writes."""
    (head,) = get_args(Manifest.model_fields["format"].annotation)
    return {"report": SCHEMA_VERSION, "head": head, "model": FORMAT}


def _libraries() -> list[str]:
    """Return the names of all that this package and its extras ask for."""
    asked = {re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0] for line in requires(OWN) or ()}
    return sorted(asked - {OWN, "torch"}, key=str.lower)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
