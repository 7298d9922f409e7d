"""The mixture: many experts' predictions pooled into one distribution over classes."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pool = Literal["linear", "log", "logits"]


def mix(
    tokens: Float[Tensor, "*rows expert class"],
    log_weights: Float[Tensor, "*rows expert"],
    pool: Pool,
) -> Float[Tensor, "*rows class"]:
    """Return the log probabilities of the weighted mixture.

    Args:
        tokens: The experts' logits.
        log_weights: Log weights; they sum to one over the experts, ``-inf`` for an unused expert.
        pool: ``linear`` averages probabilities, ``log`` averages log probabilities (both then
            normalised), ``logits`` averages logits as the paper does (equation of section 3.3).
    """
    if pool == "linear":
        log_probs = F.log_softmax(tokens, dim=-1)
        return F.log_softmax(torch.logsumexp(log_probs + log_weights[..., None], dim=-2), dim=-1)
    values = F.log_softmax(tokens, dim=-1) if pool == "log" else tokens
    return F.log_softmax((values * log_weights.exp()[..., None]).sum(-2), dim=-1)
