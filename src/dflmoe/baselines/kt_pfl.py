"""KT-pFL: as FedMD, but each site is taught by a mixture of all opinions that suits it.

Zhang et al., Parameterized Knowledge Transfer for Personalized Federated Learning, NeurIPS 2021. A
server learns the knowledge coefficient matrix: what each site is taught shall be near what it says
itself (squared distance, as in the authors' code; their paper has a divergence there), and no
teacher far from weighing as much as any other, with the authors' penalty of 0.7. Where the authors
take a step a round, we learn the matrix anew from every round's opinions, until it no longer moves.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dflmoe.baselines.fedmd import FedMD
from dflmoe.baselines.rival import Rival
from dflmoe.core.algorithm import SERVER
from dflmoe.core.site import Lent
from dflmoe.core.training import Adam
from dflmoe.types import SiteId

STEPS, RATE = 300, 0.1


def coefficients(
    said: Float[Tensor, "model site value"], penalty: float = 0.7
) -> Float[Tensor, "model site teacher"]:
    """Return how much each site is taught by every site, itself included; sums to one."""
    models, sites, values = said.shape
    near = said @ said.mT / values
    own, even = torch.eye(sites), 1 / sites
    scores = torch.zeros(models, sites, sites, requires_grad=True)
    optimiser = Adam({"scores": scores}, RATE)
    for _ in range(STEPS):
        weights = scores.softmax(2)
        apart = ((weights - own) @ near * (weights - own)).sum(2)
        optimiser.step((apart + penalty * (weights - even).square().mean(2)).sum())
    return scores.detach().softmax(2)


def transferred(lents: Sequence[Lent], penalty: float = 0.7) -> Mapping[SiteId, Lent]:
    """Return the server's answers: to each site what it is taught of the public rows."""
    said = torch.stack([lent.tensors["scores"] for lent in lents], dim=1)
    weights = coefficients(said.flatten(2), penalty)
    taught = torch.einsum("mst,mt...->ms...", weights, said)
    return {
        lent.site: Lent(SERVER, lent.round, lent.kind, lent.width, {"scores": taught[:, n]})
        for n, lent in enumerate(lents)
    }


BUILD = partial(FedMD, soft=True)
RIVAL = Rival("KT-pFL", "Zhang et al., NeurIPS 2021", ("server", "public data"), BUILD, transferred)
