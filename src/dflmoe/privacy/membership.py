"""Membership attacks: can a peer tell from what a site lends whose rows it was trained on?

An attack scores rows; its AUROC is the chance that a row of the training set scores higher than one
that the site never learnt from: 0.5 tells nothing. Both attacks assume the worst that the roster
allows: the attacker is a member, knows the architecture and the common body, holds the row and its
label, and has kept everything that the site lent in any round. They are lower bounds: a cleverer
attack may do better.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dflmoe.metrics.area import Floats, auroc_parts


class Leak(NamedTuple):
    """How well members are told from others.

    Attributes:
        area: AUROC of the attack, 0.5 for nothing.
        error: Its standard error over patients.
    """

    area: float
    error: float


def loss_threshold(losses: Floats) -> Floats:
    """Return what a row scores: the lower the lent heads' loss, the likelier it was learnt from.

    Yeom et al., Privacy Risk in Machine Learning, CSF 2018.

    Args:
        losses: ``[release, row]``, under each head that the site lent.
    """
    score: Floats = -losses.mean(0)
    return score


def likelihood_ratio(losses: Floats, reference: Floats) -> Floats:
    """Return what a row scores: how much lower its loss is than under heads that never saw it.

    A row may be easy for everybody, and the peers' heads tell: after Carlini et al., Membership
    Inference Attacks From First Principles, S&P 2022, with peers in place of shadow models.

    Args:
        losses: ``[release, row]``, under each head that the site lent.
        reference: ``[release, row]``, under heads of sites that never had the row.
    """
    score: Floats = reference.mean(0) - losses.mean(0)
    return score


def leak(score: Floats, member: NDArray[np.bool_], patient: NDArray[np.int64]) -> Leak:
    """Return how well a score tells members, with its spread over patients.

    Args:
        score: Of each row.
        member: Whether the site learnt from it.
        patient: Of each row; the rows of a patient are not independent.
    """
    parts = auroc_parts(score, member)
    _, whose = np.unique(patient, return_inverse=True)
    area, people = float(parts.mean()), int(whose.max()) + 1
    sums = np.bincount(whose, weights=parts - area)
    spread = np.sqrt(np.square(sums).sum() * people / max(people - 1, 1)) / len(parts)
    return Leak(area, float(spread))
