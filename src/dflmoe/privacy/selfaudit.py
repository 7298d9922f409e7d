"""A site attacks what it is about to lend, before anybody else can.

Members are the rows that a head learnt from; the others are rows that it never saw: those that are
set aside for testing, and for each fit that leaves a fold out, that fold: such a fit is the lent
head's twin, made in the same way from a few rows fewer. The attacker is given more than a peer has:
the row, its label, and the site's own body.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dflmoe.core.algorithm import Release
from dflmoe.core.align import aligned, anchored_map
from dflmoe.core.dflmoe import OPINION, head_of
from dflmoe.core.site import Lent, SiteData
from dflmoe.core.stacking import stacked_call
from dflmoe.core.task import LABELS, over_places
from dflmoe.metrics.area import Floats
from dflmoe.privacy.membership import Leak, leak, likelihood_ratio, loss_threshold
from dflmoe.types import Params

Attack = Callable[[Floats], Floats]
"""A score of each row from its losses, ``[release, row]``."""


class Exposure(NamedTuple):
    """What the attack that tells most tells of who was in the training rows.

    Attributes:
        attack: Its name.
        area: Its AUROC, the mean over what it was tried on: 0.5 tells nothing.
        low: Lower end of its 95 % interval over patients.
        high: Upper end.
    """

    attack: str
    area: float
    low: float
    high: float


def exposure(release: Release) -> Exposure | None:
    """Return what a head about to be lent tells, by the attack that tells most.

    Returns:
        None where nobody is left who was not learnt from: no attack can be tried.
    """
    found: dict[str, list[Leak]] = {}
    for split in range(release.data.crossfit.splits):
        for attack, told in _attacks(release, split):
            found.setdefault(attack, []).append(told)
    if not found:
        return None
    means = {attack: _mean(leaks) for attack, leaks in found.items()}
    worst = max(means, key=lambda attack: means[attack].area)
    area, error = means[worst]
    return Exposure(worst, area, area - 1.96 * error, area + 1.96 * error)


def _attacks(release: Release, split: int) -> Iterator[tuple[str, Leak]]:
    """Yield what each attack tells in one split."""
    data, folds = release.data, release.data.crossfit
    member = data.learnt[split] > 0
    known = member[-1] | (folds.fold[split] == -1)
    models = slice(split * folds.fits, (split + 1) * folds.fits)
    features = release.features[models]

    def asked(head: Params, seen: Float[Tensor, "model row feature ..."]) -> Floats:
        with torch.no_grad():
            logits = stacked_call(release.network.head, head, seen)
        return _losses(data.task.said(logits, 2), data)

    def tried(attack: Attack, losses: Floats, members: Bool[Tensor, "model row"]) -> list[Leak]:
        return [
            leak(attack(loss[None, known.numpy()]), is_member.numpy(), data.group[known].numpy())
            for loss, is_member in zip(losses, members[:, known], strict=True)
            if is_member.any() and not is_member.all()
        ]

    one = slice(split, split + 1)
    final = {name: p[one] for name, p in newest_fit(release.lent).items()}
    lent, last = asked(final, features[-1:]), member[-1:]
    found = {"loss threshold": tried(loss_threshold, lent, last)}
    if release.heads:
        twins = asked({name: p[models][:-1] for name, p in release.heads.items()}, features[:-1])
        found["loss threshold, twins"] = tried(loss_threshold, twins, member[:-1])
    if release.peers:
        heads = [{name: p[one] for name, p in head.items()} for head in release.peers.values()]
        reference = np.concatenate([asked(head, features[-1:]) for head in heads])[:, known.numpy()]
        found["likelihood ratio"] = tried(
            lambda losses: likelihood_ratio(losses, reference), lent, last
        )
    if OPINION in release.lent.tensors and data.y.dim() == 1:
        if release.anchors is None:
            raise ValueError("opinions are lent of anchors, and there are none")
        opinion, anchors = release.lent.tensors[OPINION][one], release.anchors[one]
        said = _losses(said_by_opinion(opinion, anchors, features[-1:]), data)
        found["opinions"] = tried(loss_threshold, said, last)
    yield from ((attack, _mean(leaks)) for attack, leaks in found.items() if leaks)


def newest_fit(lent: Lent) -> Params:
    """Return the head that saw all training rows: where every fit was lent, the last."""
    params = head_of(lent.tensors)
    return {name: p[:, -1] for name, p in params.items()} if lent.kind == "fits" else params


def said_by_opinion(
    opinion: Float[Tensor, "split anchor class"],
    anchors: Float[Tensor, "split anchor feature ..."],
    features: Float[Tensor, "split row feature ..."],
) -> Float[Tensor, "split row class"]:
    """Return what who has heard a site's opinion of the anchors would say of rows.

    Args:
        opinion: Probabilities that the site gave.
        anchors: The listener's own features of them.
        features: And of the rows.
    """
    says = anchored_map(over_places(anchors), opinion.clamp(min=1e-4).log())
    return LABELS.said(aligned(says, over_places(features)), 2)


def _losses(said: Float[Tensor, "model row class ..."], data: SiteData) -> Floats:
    """Return the loss of every row under every model."""
    losses: Floats = (
        data.task.losses(said, data.y.expand(len(said), *data.y.shape)).double().numpy()
    )
    return losses


def _mean(leaks: Sequence[Leak]) -> Leak:
    """Return the mean of what was told of heads made alike; their spread is not independent."""
    return Leak(*(float(value) for value in np.mean(leaks, axis=0)))
