"""The best model that a site has without any peer: what lending must beat."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import fitted_logistic
from dflmoe.core.algorithm import Outcome, out_of_fold_loss, run_round
from dflmoe.core.served import whole_of
from dflmoe.core.site import SiteData, SiteState
from dflmoe.types import SiteId, generator


@dataclass(frozen=True)
class Alone:
    """What a site has without any peer.

    Attributes:
        said: Log probabilities of the better model: out of fold on training rows.
        logistic: How often logistic regression was the better one.
        outcome: Of the own network.
        models: The better model of each split.
    """

    said: Float[Tensor, "split row class"]
    logistic: float
    outcome: Outcome
    models: tuple[nn.Module, ...]


def alone(site: SiteId, data: SiteData, local: LocalOnly, *, seed: int, purpose: str) -> Alone:
    """Return the better of logistic regression and the own network.

    Args:
        site: The site.
        data: Its rows.
        local: Its network, and how it is trained.
        seed: Of all chance.
        purpose: Names the random stream.
    """
    state = local.init(site, data, generator(seed, purpose, site, "init"))
    rng = generator(seed, purpose, site, 0)
    state, outcome = run_round(local, state, lambda _: [], data, rng)
    return best_alone(state, outcome, local, data)


def best_alone(state: SiteState, outcome: Outcome, local: LocalOnly, data: SiteData) -> Alone:
    """Return the better of logistic regression and the own network as it has been trained.

    Args:
        state: Of the network.
        outcome: Of its training.
        local: The network.
        data: The site's rows.
    """
    linear, models = fitted_logistic(data, local.network.classes)
    wins = _first_wins(linear, outcome.served, data)
    last = {part: data.crossfit.final(state.params[part]) for part in ("body", "head")}
    chosen: list[nn.Module] = []
    for split, logistic in enumerate(models):
        trained = {p: {n: t[split] for n, t in params.items()} for p, params in last.items()}
        chosen.append(logistic if wins[split] else whole_of(local.network, trained))
    return Alone(*_by(wins, linear, outcome.served), outcome, tuple(chosen))


def _first_wins(
    first: Float[Tensor, "split row class"],
    second: Float[Tensor, "split row class"],
    data: SiteData,
) -> Bool[Tensor, " split"]:
    """Return whether the first predictions have the lower out-of-fold loss, or none higher."""
    return out_of_fold_loss(first, data) <= out_of_fold_loss(second, data)


def better(
    first: Float[Tensor, "split row class"],
    second: Float[Tensor, "split row class"],
    data: SiteData,
) -> tuple[Float[Tensor, "split row class"], float]:
    """Return in each split the predictions with the lower out-of-fold loss.

    Returns:
        The predictions, and how often they are the first.
    """
    return _by(_first_wins(first, second, data), first, second)


def _by(
    wins: Bool[Tensor, " split"],
    first: Float[Tensor, "split row class"],
    second: Float[Tensor, "split row class"],
) -> tuple[Float[Tensor, "split row class"], float]:
    return torch.where(wins[:, None, None], first, second), float(wins.float().mean())
