"""MH-pFLID: a light messenger is injected into a network of one's own, and distilled from it.

Xie et al., MH-pFLID: Model Heterogeneous personalized Federated Learning via Injection and
Distillation for Medical Data Analysis, ICML 2024. Injection: the own network learns, and so does a
receiver, by which the messenger's features attend to the own ones; the messenger's head, held
still, must understand the outcome. Distillation: the messenger learns, and so does a transmitter,
an attention the other way round, from labels and from what the own network says. Weights of 0.9 and
0.1 are a public reproduction's. Open in what we could read, and our reading: tokens are places
(keys and values at 8 a side at most), so where there is one place attention is a linear map; and
each step does both halves, where the authors have four epochs of the first, then one of the second.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.messenger import MESSENGER, Both, agreed, with_messenger
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network
from dflmoe.core.stacking import part_of, stacked_call
from dflmoe.types import Params

MAIN, BESIDE, PLACES = 0.9, 0.1, 8


def build(network: Network, budget: Budget) -> Averaging:
    """Return one site of MH-pFLID."""
    width = agreed(network, budget).width
    beside: dict[str, nn.Module] = {}
    for name in ("receiver", "transmitter"):
        beside[f"{name}/align"] = nn.Linear(network.width, width, bias=False)
        beside |= {f"{name}/{part}": nn.Linear(width, width, bias=False) for part in "qkv"}
    return with_messenger(network, budget, injected_and_distilled, beside)


def injected_and_distilled(both: Both) -> Tensor:
    """Return the losses of both halves, each with the other's network held still."""
    head = part_of(both.model, f"{MESSENGER}/head")
    still = {name: p.detach() for name, p in head.items()}
    received = attended("receiver", both.model, both.theirs.detach(), both.own)
    understood = stacked_call(both.messenger.head, still, received)
    sent = attended("transmitter", both.model, both.theirs, both.own.detach())
    told = stacked_call(both.messenger.head, head, sent)
    injected = MAIN * both.losses(both.said) + BESIDE * both.losses(understood)
    return injected + MAIN * both.losses(told) + BESIDE * both.taught(told, both.said)


def attended(name: str, model: Params, theirs: Tensor, own: Tensor) -> Tensor:
    """Return a receiver's or a transmitter's features, shaped as the messenger's."""
    weights = {part: p.mT[:, None] for part, p in part_of(model, name).items()}
    places = list(theirs.shape[3:])
    aligned, common = tokens(at(own, places)) @ weights["align/weight"], tokens(theirs)
    asks, asked = (common, aligned) if name == "receiver" else (aligned, common)
    few = tokens(at(asked.mT.reshape(theirs.shape), [min(side, PLACES) for side in places]))
    q, k, v = asks @ weights["q/weight"], few @ weights["k/weight"], few @ weights["v/weight"]
    return F.scaled_dot_product_attention(q, k, v).mT.reshape(theirs.shape)


def at(features: Tensor, places: list[int]) -> Tensor:
    """Return features at so many places a side."""
    if list(features.shape[3:]) == places:
        return features
    pool = (nn.AdaptiveAvgPool1d if len(places) == 1 else nn.AdaptiveAvgPool2d)(tuple(places))
    pooled: Tensor = pool(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return pooled


def tokens(features: Tensor) -> Tensor:
    """Return features as tokens, ``[model, row, place, feature]``."""
    return features[..., None].flatten(3).mT


RIVAL = Rival("MH-pFLID", "Xie et al., ICML 2024", ("server", "an agreed network"), build, averaged)
