"""A site's state as bytes, and back, bit for bit."""

import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from dflmoe.core.site import Expert, SiteState
from dflmoe.errors import StoreError
from dflmoe.types import Params
from dflmoe.wire.payload import LENGTH_BYTES

FACTS = "state"


def state_bytes(state: SiteState) -> bytes:
    """Return a state as a safetensors file; order, dtypes and every bit are kept."""
    tensors: Params = {}
    parts: dict[str, dict[str, str]] = {}
    experts: dict[str, dict[str, Any]] = {}

    def put(where: str, params: Params) -> dict[str, str]:
        """Add tensors under names of their own; returns where each stands, in their order."""
        at = {name: f"{where}/{name}" for name in params}
        tensors.update({at[name]: p.detach().contiguous().clone() for name, p in params.items()})
        return at

    for part, params in state.params.items():
        parts[part] = put(f"params/{part}", dict(params))
    for site, expert in state.experts.items():
        named = {"anchors": expert.anchors, "opinion": expert.opinion}
        beside = {name: p for name, p in named.items() if p is not None}
        experts[site] = {
            "width": expert.width,
            "heard": expert.heard,
            "head": put(f"experts/{site}/head", expert.head),
            "beside": put(f"experts/{site}", beside),
        }
    facts = {"site": state.site, "round": state.round, "params": parts, "experts": experts}
    return save(tensors, metadata={FACTS: json.dumps(facts)})


def state_of(raw: bytes) -> SiteState:
    """Return the state that some bytes are.

    Raises:
        StoreError: They are none.
    """
    try:
        tensors = load(raw)
        begin = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
        facts = json.loads(json.loads(raw[LENGTH_BYTES:begin])["__metadata__"][FACTS])

        def got(at: dict[str, str]) -> Params:
            return {name: tensors[where] for name, where in at.items()}

        return SiteState(
            facts["site"],
            facts["round"],
            {part: got(at) for part, at in facts["params"].items()},
            {
                site: Expert(got(e["head"]), e["width"], e["heard"], **got(e["beside"]))
                for site, e in facts["experts"].items()
            },
        )
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(
            f"the stored state of the site cannot be read: {error!r}; restore a backup"
        ) from error
