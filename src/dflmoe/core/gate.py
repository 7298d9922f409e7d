"""The gate: weights over experts for each row, starting uniform and shrunk towards it.

``attention``
    The paper's: the query is a linear map of the features into class space, the experts'
    predictions are keys and values, ``softmax(q P^T / sqrt(C))`` (dFLMoE, section 3.3).
``linear``
    A linear map of the features with a bias for each expert.
``static``
    One weight for each expert, the same for every row: the least that a gate can learn, and with
    few rows the most that it should.
``selected``
    No parameters: the weights are chosen by ``core.selection``, and nothing here moves them.

All parameters start at zero, where all three weigh experts equally, and are penalised for leaving.
They are named after the expert, so that the order of peers means nothing.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dflmoe.types import Params

GateKind = Literal["attention", "linear", "static", "selected"]


def uniform_gate(
    kind: GateKind, experts: Sequence[str], models: int, width: int, classes: int
) -> Params:
    """Return the parameters of a gate that weighs all experts equally."""
    if kind == "attention":
        return {"query": torch.zeros(models, classes, width)}
    if kind == "selected":
        return {}
    gate = {f"bias/{name}": torch.zeros(models) for name in experts}
    if kind == "linear":
        gate |= {f"slope/{name}": torch.zeros(models, width) for name in experts}
    return gate


def gate_scores(
    gate: Params,
    experts: Sequence[str],
    features: Float[Tensor, "model row feature ..."],
    tokens: Float[Tensor, "model row expert class ..."],
) -> Float[Tensor, "model _ expert ..."]:
    """Return how well each expert suits each row (or place of a row), before the softmax.

    A static gate says the same of every row, and says it once: its row axis has length one.

    Args:
        gate: Parameters as ``uniform_gate`` makes them; their names tell the kind.
        experts: Names in the order of the tokens.
        features: The rows' own features, or those of every place; where heads enlarge, a place of
            the features stands for several of the tokens.
        tokens: The experts' logits.
    """
    features = _at_places_of(tokens, features)
    if "query" in gate:
        query = torch.einsum("mcf,mnf...->mnc...", gate["query"], features)
        match: Tensor = torch.einsum("mnc...,mnec...->mne...", query, tokens)
        return match / math.sqrt(tokens.shape[3])
    if f"bias/{experts[0]}" not in gate:
        return torch.zeros(len(tokens), 1, len(experts))
    scores = torch.stack([gate[f"bias/{name}"] for name in experts], dim=1)[:, None, :]
    if f"slope/{experts[0]}" in gate:
        slopes = torch.stack([gate[f"slope/{name}"] for name in experts], dim=1)
        linear: Tensor = torch.einsum("mef,mnf...->mne...", slopes, features)
        scores = scores[(...,) + (None,) * (features.dim() - 3)] + linear
    return scores


def _at_places_of(tokens: Tensor, features: Tensor) -> Tensor:
    """Return features at the places of the tokens."""
    places = tokens.shape[4:]
    if not places or features.shape[3:] in (places, ()):
        return features
    enlarged = F.interpolate(features.flatten(0, 1), size=places)
    return enlarged.view(*features.shape[:3], *places)


def gate_log_weights(
    scores: Float[Tensor, "model row expert ..."],
    available: Bool[Tensor, "model expert"],
    cap: float = 1.0,
    own: int = 1,
) -> Float[Tensor, "model row expert ..."]:
    """Turn scores into log weights; the own head is expert 0.

    Args:
        scores: As ``gate_scores`` returns them.
        available: Experts that may be used; the others get weight zero.
        cap: The most that any one peer may weigh, above 0; what is cut goes to the own head.
        own: How many experts are the site's own; they come first.

    Raises:
        ValueError: The own head is not available; it always must be.
    """
    if not available[:, 0].all():
        raise ValueError("a mixture needs the site's own head (expert 0)")
    return capped_log_weights(scores, available, cap, own)


def capped_log_weights(
    scores: Float[Tensor, "model row expert ..."],
    available: Bool[Tensor, "model expert"],
    cap: float,
    own: int,
) -> Float[Tensor, "model row expert ..."]:
    """Return the same where the own head is known to be available; nothing here asks the data."""
    unused = ~available[:, None].view(len(available), 1, -1, *[1] * (scores.dim() - 3))
    log_weights = F.log_softmax(scores.masked_fill(unused, -torch.inf), dim=2)
    if cap >= 1:
        return log_weights
    others = log_weights[:, :, 1:].exp()
    others = torch.cat([others[:, :, : own - 1], others[:, :, own - 1 :].clamp(max=cap)], dim=2)
    weights = torch.cat([1 - others.sum(2, keepdim=True), others], dim=2)
    smallest = torch.finfo(weights.dtype).tiny  # the logarithm of an unused weight has no slope
    return weights.clamp(min=smallest).log().masked_fill(unused, -torch.inf)


def gate_pull(params: Params, sd: float) -> Float[Tensor, " model"]:
    """Return the pull of the gate back to uniform: minus the log density of a normal prior.

    Args:
        params: Stacked parameters, the gate's among them if it has any.
        sd: How far a parameter may be expected to move; infinite for no pull.
    """
    gate = [p for n, p in params.items() if n == "query" or n.startswith(("bias/", "slope/"))]
    none = torch.zeros(len(next(iter(params.values()))))
    return sum((p.reshape(len(p), -1).square().sum(1) for p in gate), none) / (2 * sd**2)
