"""What a run's lent heads tell about who was in the training sets."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from dflmoe.core.align import aligned, anchor_features, anchored_map
from dflmoe.core.dflmoe import ANCHORS, OPINION
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import stacked_call
from dflmoe.metrics.area import Floats
from dflmoe.privacy.membership import Leak, leak, likelihood_ratio, loss_threshold
from dflmoe.privacy.selfaudit import newest_fit, said_by_opinion
from dflmoe.types import Params, SiteId

ATTACKS = ("loss threshold", "likelihood ratio")

Losses = Callable[[SiteId, SiteId], Floats]
"""``[release, row]``: of a lender, named first, on the rows of a site."""

Ask = Callable[[Tensor], Tensor]
"""What a peer makes of its own features of rows by what was lent."""


def leaks(
    losses: Losses, data: Mapping[SiteId, SiteData], patient: Mapping[SiteId, NDArray[np.int64]]
) -> dict[SiteId, dict[str, Leak]]:
    """Attack all that every site lent, with its own test rows for those who were not there.

    Args:
        losses: Of every row under all that a site lent.
        data: Of each site that lent anything, in one split.
        patient: Of each row.
    """
    if len(data) < 2:  # noqa: PLR2004 - one alone has no peers to be compared with
        return {}
    found = {}
    for site, one in data.items():
        own = losses(site, site)
        peers = np.concatenate([losses(peer, site) for peer in data if peer != site])
        member = (one.crossfit.fold[0] >= 0).numpy()
        scores = (loss_threshold(own), likelihood_ratio(own, peers))
        found[site] = {
            attack: leak(score, member, patient[site])
            for attack, score in zip(ATTACKS, scores, strict=True)
        }
    return found


def on_common_body(
    networks: Mapping[SiteId, Network],
    bodies: Mapping[SiteId, Params],
    data: Mapping[SiteId, SiteData],
    lent: Mapping[SiteId, Sequence[Lent]],
) -> Losses:
    """Return the losses of rows under lent heads, as any member can compute them.

    Where every fit was lent, the attacker takes the last, which saw all training rows.

    Args:
        networks: Whose heads were lent; all of one architecture, on a common body.
        bodies: The common body, as every site holds it.
        data: Of each site.
        lent: What each site sent, round by round.
    """

    @cache
    def features(site: SiteId) -> Tensor:
        with torch.no_grad():
            return stacked_call(networks[site].body, bodies[site], data[site].x)

    def losses(lender: SiteId, site: SiteId) -> Floats:
        head = networks[site].head
        said = [_said(head, release, features(site)) for release in lent[lender]]
        return np.stack([_losses(one, data[site]) for one in said])

    return losses


def heads_by_anchors(
    networks: Mapping[SiteId, Network],
    states: Mapping[SiteId, SiteState],
    data: Mapping[SiteId, SiteData],
    lent: Mapping[SiteId, Sequence[Lent]],
) -> Losses:
    """Return the losses of rows under heads of private bodies, as every peer can compute them.

    A peer has no access to the lender's body. It takes its own features of the row, maps them to
    the lender's as it does to borrow the head (``core.align``), and asks the head. All peers
    compare notes: the losses of all of them are returned.

    Args:
        networks: Of each site.
        states: Of each site at the end, with its own body.
        data: Of each site, with anchors.
        lent: What each site sent: heads, and beside them features of anchors.
    """

    def asked(peer: SiteId, release: Lent, anchors: Tensor) -> Ask:
        head = networks[release.site].head
        if peer == release.site:
            return lambda features: _said(head, release, features)
        to = anchored_map(anchor_features(anchors), release.tensors[ANCHORS])
        return lambda features: _said(head, release, aligned(to, features))

    return _by_all_peers(networks, states, data, lent, asked)


def opinions_by_anchors(
    networks: Mapping[SiteId, Network],
    states: Mapping[SiteId, SiteState],
    data: Mapping[SiteId, SiteData],
    lent: Mapping[SiteId, Sequence[Lent]],
) -> Losses:
    """Return the losses of rows under what sites said of anchors, as every peer can compute them.

    A peer fits what the lender says of the anchors to its own features of them and asks that map
    of the row. Arguments are those of ``heads_by_anchors``; rows have classes.
    """

    def asked(_peer: SiteId, release: Lent, anchors: Tensor) -> Ask:
        opinion = release.tensors[OPINION]
        return lambda features: said_by_opinion(opinion, anchors, features)

    return _by_all_peers(networks, states, data, lent, asked)


def _by_all_peers(
    networks: Mapping[SiteId, Network],
    states: Mapping[SiteId, SiteState],
    data: Mapping[SiteId, SiteData],
    lent: Mapping[SiteId, Sequence[Lent]],
    asked: Callable[[SiteId, Lent, Tensor], Ask],
) -> Losses:
    """Return the losses of a site's rows under all that a lender sent, as all others ask it.

    Args:
        networks: Of each site.
        states: Of each site at the end, with its own body.
        data: Of each site, with anchors.
        lent: What each site sent.
        asked: How a peer asks what was lent, given its own features of the anchors.
    """

    @cache
    def features(peer: SiteId, site: SiteId | None) -> Tensor:
        """Return what the peer's body, the fit that saw all its rows, makes of rows or anchors."""
        x = data[peer].anchors if site is None else data[site].x[0]
        if x is None:
            raise ValueError("heads of private bodies are attacked by anchors, and there are none")
        body = data[peer].crossfit.final(states[peer].params["body"])
        with torch.no_grad():
            return stacked_call(networks[peer].body, body, x[None])

    @cache
    def asks(peer: SiteId, lender: SiteId) -> list[Ask]:
        return [asked(peer, release, features(peer, None)) for release in lent[lender]]

    def losses(lender: SiteId, site: SiteId) -> Floats:
        others = [peer for peer in lent if peer != site]
        said = [ask(features(peer, site)) for peer in others for ask in asks(peer, lender)]
        return np.stack([_losses(one, data[site]) for one in said])

    return losses


def _said(
    head: nn.Module, release: Lent, features: Float[Tensor, "split row feature ..."]
) -> Float[Tensor, "split row class ..."]:
    """Return what the head that saw all training rows says."""
    with torch.no_grad():
        return stacked_call(head, newest_fit(release), features)


def _losses(said: Float[Tensor, "split row class ..."], data: SiteData) -> Floats:
    """Return the loss of every row."""
    losses: Floats = data.task.losses(said, data.y[None])[0].double().numpy()
    return losses
