"""How a network was made, in a line that can lie in a file beside its weights."""

import json
from collections.abc import Sequence


def recipe(made_by: str, **given: int | str | Sequence[int] | None) -> str:
    """Return the name of what made a network and what it was given (``networks.from_recipe``)."""
    return json.dumps({"made_by": made_by, **given}, sort_keys=True)
