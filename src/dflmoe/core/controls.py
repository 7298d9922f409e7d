"""Controls: what would have been gained without any knowledge of the peers.

A gain of borrowed heads means something only beside these. Each goes through the same training,
gate, guard and tuning as the real thing.

``random``
    Each lent head is replaced by noise of the same norm, tensor by tensor: capacity.
``shuffled``
    Peers train their heads on permuted labels: heads that look trained and know nothing.
``self``
    As many heads, trained on (three different) bootstrap samples of the site's own rows:
    ensembling.
"""

from dataclasses import replace
from typing import Literal

import torch

from dflmoe.core.site import SiteData
from dflmoe.types import Params

Control = Literal["none", "random", "shuffled", "self"]


def random_like(head: Params, rng: torch.Generator) -> Params:
    """Return noise with the norm of each of the head's tensors, split by split."""
    noise = {}
    for name, p in sorted(head.items()):
        drawn = torch.randn(p.shape, generator=rng, device="cpu").to(p.device)
        norms = [v.reshape(len(v), -1).norm(dim=1).clamp(min=1e-12) for v in (p, drawn)]
        noise[name] = drawn * (norms[0] / norms[1]).view(-1, *[1] * (p.dim() - 1))
    return noise


def permuted(data: SiteData, rng: torch.Generator) -> SiteData:
    """Return the same rows with the labels dealt anew."""
    dealt = torch.randperm(len(data.y), generator=rng, device="cpu")
    return replace(data, y=data.y[dealt.to(data.y.device)])


def bootstrap(data: SiteData, rng: torch.Generator) -> SiteData:
    """Return a bootstrap sample of each split's training rows, drawn class by class.

    Rows keep their folds, so a fit's sample holds only rows that the fit may see.
    """
    trains = data.crossfit.fold >= 0
    times = torch.zeros(trains.shape, dtype=torch.int64)
    label_of = data.y if data.y.dim() == 1 else torch.zeros(len(data.y), dtype=torch.int64)
    for split, trained in enumerate(trains):
        for label in torch.unique(label_of[trained]):
            rows = torch.nonzero(trained & (label_of == label))[:, 0]
            picks = torch.randint(len(rows), (len(rows),), generator=rng, device="cpu")
            drawn = rows[picks.to(rows.device)]
            times[split] += torch.bincount(drawn, minlength=trains.shape[1])
    return replace(data, times=times)
