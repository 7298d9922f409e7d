"""Which exchange a federation plays, from what it has.

What each site makes of it is not decided here but by its gate and its guard, from out-of-fold
scores of its own: in trials, playing several exchanges and mixing what came of them kept no more
than the one below (docs/adr/0012).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from dflmoe.core.dials import Dials
from dflmoe.core.training import Training

Exchange = Literal["shared", "averaged", "anchored", "seeded", "paper"]

AGREED = Dials(gate="selected", with_alone=True, hedge=True, mixture_steps=40, fading=0.5)
"""Heads of a light network that all agreed on, beside networks that each site keeps to itself."""

TAUGHT = replace(
    AGREED, align="anchored", body="private", vouched=False, distil=1.0, with_alone=True
)
"""Heads of the sites' own networks, brought together by public rows, and opinions of those rows."""

DIALS: Mapping[Exchange, Dials] = {
    "shared": Dials(),
    "averaged": AGREED,
    "anchored": TAUGHT,
    "seeded": Dials(vouched=False),
    "paper": Dials(align="paper", body="private", vouched=False),
}

WHY: Mapping[Exchange, str] = {
    "shared": "All sites compute the same features, so a head means the same everywhere: heads are "
    "lent once and mixed unless there is evidence of harm.",
    "averaged": "The sites agreed on one light network beside their own: it is averaged for some "
    "rounds and its heads are lent after that, to be mixed on evidence of benefit.",
    "anchored": "The sites have networks of their own and public rows: what they lend of those "
    "rows brings heads together, and their opinions of them teach.",
    "seeded": "All sites have one network, which starts alike and is trained apart, so nobody "
    "vouches that a head means the same everywhere: it is mixed on evidence of benefit only.",
    "paper": "The sites have different networks and nothing in common: transforms are learnt from "
    "labelled rows, and in our trials heads lent so did no better than random ones. Agree on one "
    "light network beside your own, or on public rows.",
}


AVERAGE_ROUNDS = 15
"""Rounds of averaging, ours and FedAvg's."""

TABLE_NETWORK = Training(
    weight_decays=(0.1, 0.01, 0.001), learning_rate=0.01, max_steps=300, patience=6
)
IMAGE_NETWORK = Training(
    weight_decays=(0.003,), learning_rate=0.005, max_steps=200, judge_every=20, batch=64
)
LOCAL_STEPS = Training(
    weight_decays=(0.003,), learning_rate=0.01, max_steps=10, batch=64, early_stopping=False
)
"""Of one round of averaging a network that all sites agreed on."""


def exchange_for(
    *, one_space: bool, charter: bool, anchors: bool = False, one_network: bool = False
) -> Exchange:
    """Return the exchange that suits a federation.

    Args:
        one_space: All sites compute the same features from the same row.
        charter: They agreed on one network whose heads they lend.
        anchors: They hold the same public rows.
        one_network: They have one network.
    """
    if charter:
        return "averaged"
    if one_space:
        return "shared"
    if anchors:
        return "anchored"
    return "seeded" if one_network else "paper"
