"""What a run's lent heads tell about who was in the training sets."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.core.site import Lent, Network, SiteData
from dflmoe.core.stacking import stacked_call
from dflmoe.metrics.area import Floats
from dflmoe.privacy.membership import Leak, leak, likelihood_ratio, loss_threshold
from dflmoe.types import Params, SiteId

ATTACKS = ("loss threshold", "likelihood ratio")


def leaks(
    networks: Mapping[SiteId, Network],
    bodies: Mapping[SiteId, Params],
    data: Mapping[SiteId, SiteData],
    patient: Mapping[SiteId, NDArray[np.int64]],
    lent: Mapping[SiteId, Sequence[Lent]],
) -> dict[SiteId, dict[str, Leak]]:
    """Attack all that every site lent, with its own test rows for those who were not there.

    A site that left before it lent anything tells nothing. Where every fit was lent, the attacker
    takes the last, which saw all training rows.

    Args:
        networks: Whose heads were lent; all of one architecture, on a common body.
        bodies: The common body, as every site holds it.
        data: Of each site, in one split.
        patient: Of each row.
        lent: What each site sent, round by round.
    """
    heard = {site: releases for site, releases in lent.items() if releases}
    if len(heard) < 2:  # noqa: PLR2004 - one alone has no peers to be compared with
        return {}
    found = {}
    for site, releases in heard.items():
        one = data[site]
        with torch.no_grad():
            features = stacked_call(networks[site].body, bodies[site], one.x)
        own = _losses(networks[site], features, one, releases)
        peers = [_losses(networks[site], features, one, heard[p]) for p in heard if p != site]
        scores = (loss_threshold(own), likelihood_ratio(own, np.concatenate(peers)))
        member = (one.crossfit.fold[0] >= 0).numpy()
        found[site] = {
            name: leak(score, member, patient[site])
            for name, score in zip(ATTACKS, scores, strict=True)
        }
    return found


def _losses(
    network: Network, features: torch.Tensor, data: SiteData, lent: Sequence[Lent]
) -> Floats:
    """Return the loss of every row under each head that was lent, ``[release, row]``."""
    losses = []
    for one in lent:
        head = {name: p[:, -1] for name, p in one.tensors.items()}
        if one.kind == "head":
            head = one.tensors
        with torch.no_grad():
            said = stacked_call(network.head, head, features)
            losses.append(data.task.losses(said, data.y[None])[0].double().numpy())
    return np.stack(losses)
