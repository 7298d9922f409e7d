"""The mixture: many experts' predictions pooled into one distribution over classes."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pool = Literal["linear", "log", "logits"]


def mix(
    tokens: Float[Tensor, "model row expert class ..."],
    log_weights: Float[Tensor, "model _ expert ..."],
    pool: Pool,
) -> Float[Tensor, "model row class ..."]:
    """Return the log probabilities of the weighted mixture, for each row or each of its places.

    Args:
        tokens: What the experts say: log probabilities, or plain logits for ``pool="logits"``.
        log_weights: Log weights; they sum to one over the experts, ``-inf`` for an unused expert.
        pool: ``linear`` averages probabilities, ``log`` averages log probabilities and normalises
            the result, ``logits`` averages logits as the paper does (section 3.3).
    """
    if pool == "linear":
        return torch.logsumexp(tokens + beside(log_weights, tokens), dim=2)
    return F.log_softmax(averaged(tokens, log_weights), dim=2)


def averaged(
    tokens: Float[Tensor, "model row expert class ..."],
    log_weights: Float[Tensor, "model _ expert ..."],
) -> Float[Tensor, "model row class ..."]:
    """Return the weighted mean of what the experts say."""
    return (tokens * beside(log_weights, tokens).exp()).sum(2)


def beside(
    log_weights: Float[Tensor, "model _ expert ..."],
    tokens: Float[Tensor, "model row expert class ..."],
) -> Float[Tensor, "model _ expert 1 ..."]:
    """Return weights with a class axis, and with places where the gate says the same of all."""
    places = tokens.dim() - 4 if log_weights.dim() == 3 else 0  # noqa: PLR2004 - no place axes
    return log_weights.unsqueeze(3)[(...,) + (None,) * places]
