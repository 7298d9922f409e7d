"""A round of federated learning without a server, the same in the simulator and in a hospital."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.task import training_mean
from dflmoe.types import Params, SiteId

Exchange = Callable[[Lent], Sequence[Lent]]
"""Lend one, get those of the peers: in step (paper, bench) or the newest ones held (node)."""

Server = Callable[[Sequence[Lent]], Lent | Mapping[SiteId, Lent]]
"""Answers all sites at once, or each for itself; only rivals have one."""

SERVER = "server"
"""Who an answer is from."""


@dataclass(frozen=True)
class Outcome:
    """What a site knows after a round: predictions for every row, and how they came about.

    Predictions (log probabilities, or images) are out of fold on training rows, and of the final
    fit elsewhere.

    Attributes:
        served: What the site would use.
        own: The own model, without any peer.
        mixture: Own and borrowed heads together, whether it is used or not.
        used: Whether the guard lets the mixture serve.
        share: Mean weight of each expert, own head under the site's own name, on test rows (on
            training rows where there are none).
        quarantined: Peers whose head was set aside on evidence of harm.
        own_loss: Out-of-fold log-loss of the own model.
        mixture_loss: The same of the mixture.
        curve: Out-of-fold log-loss of the own network while it trained.
        worth: What the mixture's out-of-fold log-loss would rise by without each peer; below zero
            for a head that does harm.
        whole: Whether the mixture itself serves, and not the mean of it and of the own model; none
            where nothing was mixed.
        fitted: What the mixture of the last fit is made of, by part (``core.served``); empty unless
            it was asked for.
    """

    served: Float[Tensor, "split row class ..."]
    own: Float[Tensor, "split row class ..."]
    mixture: Float[Tensor, "split row class ..."]
    used: Bool[Tensor, " split"]
    share: dict[SiteId, Float[Tensor, " split"]]
    quarantined: dict[SiteId, Bool[Tensor, " split"]]
    own_loss: Float[Tensor, " split"]
    mixture_loss: Float[Tensor, " split"]
    curve: Float[Tensor, "split look"] = field(default_factory=lambda: torch.empty(0, 0))
    worth: dict[SiteId, Float[Tensor, " split"]] = field(default_factory=dict)
    whole: Bool[Tensor, " split"] | None = None
    fitted: Mapping[str, Params] = field(default_factory=dict)


def alone_outcome(
    log_probs: Float[Tensor, "split row class ..."], state: SiteState, data: SiteData
) -> Outcome:
    """Return the outcome of a model that borrows nothing."""
    loss = out_of_fold_loss(log_probs, data)
    splits = data.crossfit.splits
    return Outcome(
        served=log_probs,
        own=log_probs,
        mixture=log_probs,
        used=torch.zeros(splits, dtype=torch.bool),
        share={state.site: torch.ones(splits)},
        quarantined={},
        own_loss=loss,
        mixture_loss=loss,
        curve=state.params.get("training", {}).get("curve", torch.empty(splits, 0)),
    )


def out_of_fold_losses(
    log_probs: Float[Tensor, "split row class ..."], data: SiteData
) -> Float[Tensor, "split row"]:
    """Return the loss of each row: log-loss for a class, the task's own otherwise."""
    return data.task.losses(log_probs, data.y.expand(len(log_probs), *data.y.shape))


def out_of_fold_loss(
    log_probs: Float[Tensor, "split row class ..."], data: SiteData
) -> Float[Tensor, " split"]:
    """Return the mean loss over each split's training rows."""
    return training_mean(out_of_fold_losses(log_probs, data), data.crossfit.fold)


@dataclass(frozen=True)
class Release:
    """A head that is about to be lent, and what is known of it at home.

    Attributes:
        lent: What would travel.
        network: The site's.
        heads: The head of every fit, ``[model, ...]``; none if the one that is lent has no twins.
        features: Of all rows, under the body of every fit.
        anchors: Features of the anchors under the body of the last fit, where their like is lent.
        data: The site's rows.
        peers: The newest head of each peer that means the same here; none in a space of its own.
    """

    lent: Lent
    network: Network
    heads: Params
    features: Float[Tensor, "model row feature ..."]
    anchors: Float[Tensor, "split anchor feature ..."] | None
    data: SiteData
    peers: Mapping[SiteId, Params]


@runtime_checkable
class Lender(Protocol):
    """Stands between a head and its lending: lends it, a private one in its place, or nothing."""

    def __call__(self, release: Release) -> Lent:
        """Return what is lent; without tensors if nothing is."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """Ours and every rival: all state is in ``SiteState``, all chance in ``rng``."""

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """Return the state of a site that has not trained yet."""
        ...

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train on the site's own rows and return what the site lends."""
        ...

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Take in what arrived; ``inbox`` holds admitted heads only, in any order."""
        ...


def run_round(
    algorithm: Algorithm,
    state: SiteState,
    exchange: Exchange,
    data: SiteData,
    rng: torch.Generator,
) -> tuple[SiteState, Outcome]:
    """Play one round of one site: train, lend, borrow, mix.

    A hospital's node calls this. The simulator plays the same two halves, and between them has all
    sites meet.
    """
    state, lent = algorithm.prepare(state, data, rng)
    return algorithm.absorb(state, exchange(lent), data, rng)
