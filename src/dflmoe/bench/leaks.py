"""What a run's lent heads tell about who was in the training sets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.core.align import aligned, anchor_features, anchored_map
from dflmoe.core.dflmoe import ANCHORS, OPINION
from dflmoe.core.site import Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import stacked_call
from dflmoe.core.task import LABELS, over_places
from dflmoe.metrics.area import Floats
from dflmoe.privacy.membership import Leak, leak, likelihood_ratio, loss_threshold
from dflmoe.types import Params, SiteId

ATTACKS = ("loss threshold", "likelihood ratio")

Losses = Callable[[SiteId, SiteId], Floats]
"""``[release, row]``: of a lender, named first, on the rows of a site."""


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

    def losses(lender: SiteId, site: SiteId) -> Floats:
        one = data[site]
        with torch.no_grad():
            features = stacked_call(networks[site].body, bodies[site], one.x)
            return np.stack(
                [
                    _losses(stacked_call(networks[site].head, _last(release), features), one)
                    for release in lent[lender]
                ]
            )

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

    def losses(lender: SiteId, site: SiteId) -> Floats:
        found = []
        for peer, release in _heard(lender, site, lent):
            seen = _seen(networks[peer], states[peer], data[peer])
            features = seen(data[site].x)
            if peer != lender:
                own = anchor_features(seen(_anchors(data[peer])))
                features = aligned(anchored_map(own, release.tensors[ANCHORS]), features)
            with torch.no_grad():
                said = stacked_call(networks[lender].head, _last(release), features)
            found.append(_losses(said, data[site]))
        return np.stack(found)

    return losses


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

    def losses(lender: SiteId, site: SiteId) -> Floats:
        found = []
        for peer, release in _heard(lender, site, lent):
            seen = _seen(networks[peer], states[peer], data[peer])
            own = over_places(seen(_anchors(data[peer])))
            says = anchored_map(own, release.tensors[OPINION].clamp(min=1e-4).log())
            raw = aligned(says, over_places(seen(data[site].x)))
            found.append(_losses(LABELS.said(raw, 2), data[site]))
        return np.stack(found)

    return losses


def _heard(
    lender: SiteId, site: SiteId, lent: Mapping[SiteId, Sequence[Lent]]
) -> list[tuple[SiteId, Lent]]:
    """Return what a lender sent with each peer that may attack a site: all others."""
    return [(peer, release) for peer in lent if peer != site for release in lent[lender]]


def _seen(network: Network, state: SiteState, data: SiteData) -> Callable[[Tensor], Tensor]:
    """Return what a site's own body, the fit that saw all training rows, makes of inputs."""
    body = data.crossfit.final(state.params["body"])

    def features(x: Float[Tensor, "split row ..."]) -> Tensor:
        with torch.no_grad():
            return stacked_call(network.body, body, x)

    return features


def _anchors(data: SiteData) -> Float[Tensor, "split anchor ..."]:
    if data.anchors is None:
        raise ValueError("heads of private bodies are attacked by anchors, and there are none")
    return data.anchors[None]


def _last(release: Lent) -> Params:
    """Return the head that saw all training rows, without what travelled beside it."""
    head = {name: p for name, p in release.tensors.items() if name not in {ANCHORS, OPINION}}
    return head if release.kind == "head" else {name: p[:, -1] for name, p in head.items()}


def _losses(said: Float[Tensor, "split row class ..."], data: SiteData) -> Floats:
    """Return the loss of every row."""
    losses: Floats = data.task.losses(said, data.y[None])[0].double().numpy()
    return losses
