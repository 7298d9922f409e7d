"""The mixture: many experts' predictions pooled into one distribution over classes."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pool = Literal["linear", "log", "logits"]


def mix(
    tokens: Float[Tensor, "model row expert class"],
    log_weights: Float[Tensor, "model _ expert"],
    pool: Pool,
) -> Float[Tensor, "model row class"]:
    """Return the log probabilities of the weighted mixture.

    Args:
        tokens: What the experts say: log probabilities, or plain logits for ``pool="logits"``.
        log_weights: Log weights; they sum to one over the experts, ``-inf`` for an unused expert.
        pool: ``linear`` averages probabilities, ``log`` averages log probabilities and normalises
            the result, ``logits`` averages logits as the paper does (section 3.3).
    """
    if pool == "linear":
        return torch.logsumexp(tokens + log_weights[..., None], dim=-2)
    return F.log_softmax((tokens * log_weights.exp()[..., None]).sum(-2), dim=-1)
