"""What people write, read."""

import tomllib
from typing import Any


def toml_of(raw: str | bytes) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        ValueError: It is none, is not UTF-8, or nests deeper than anybody writes.
    """
    try:
        return tomllib.loads(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
