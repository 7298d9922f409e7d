"""The best model that a site has without any peer: what lending must beat."""

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import tuned_logistic
from dflmoe.core.algorithm import Outcome, out_of_fold_loss, run_round
from dflmoe.core.site import SiteData
from dflmoe.types import SiteId, generator


def alone(
    site: SiteId, data: SiteData, local: LocalOnly, *, seed: int, purpose: str
) -> tuple[Float[Tensor, "split row class"], float, Outcome]:
    """Return what the better of logistic regression and the own network says.

    Args:
        site: The site.
        data: Its rows.
        local: Its network, and how it is trained.
        seed: Of all chance.
        purpose: Names the random stream.

    Returns:
        Log probabilities, how often logistic regression was better, and the network's outcome.
    """
    state = local.init(site, data, generator(seed, purpose, site, "init"))
    rng = generator(seed, purpose, site, 0)
    _, outcome = run_round(local, state, lambda _: [], data, rng)
    said, share = better(tuned_logistic(data, local.network.classes), outcome.served, data)
    return said, share, outcome


def better(
    first: Float[Tensor, "split row class"],
    second: Float[Tensor, "split row class"],
    data: SiteData,
) -> tuple[Float[Tensor, "split row class"], float]:
    """Return in each split the predictions with the lower out-of-fold loss.

    Returns:
        The predictions, and how often they are the first.
    """
    wins = out_of_fold_loss(first, data) <= out_of_fold_loss(second, data)
    return torch.where(wins[:, None, None], first, second), float(wins.float().mean())
