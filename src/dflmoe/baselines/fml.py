"""FML: a network of one's own and a common "meme" teach each other, and the memes are averaged.

Shen et al., Federated Mutual Learning, 2020: the own network's loss is alpha times the task's and
(1 - alpha) times its divergence from the meme; the meme's is the same the other way round, by beta.
Both are 0.5 here. The sites' own networks start alike, too.
"""

from functools import partial

from torch import Tensor

from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.messenger import Both, with_messenger
from dflmoe.baselines.rival import Budget, Rival
from dflmoe.core.site import Network


def mutual(alpha: float, beta: float, both: Both) -> Tensor:
    """Return the losses of both; see ``messenger.Lesson``."""
    own, meme = both.said, both.told
    learns = alpha * both.losses(own) + (1 - alpha) * both.taught(own, meme)
    return learns + beta * both.losses(meme) + (1 - beta) * both.taught(meme, own)


def build(network: Network, budget: Budget, alpha: float = 0.5, beta: float = 0.5) -> Averaging:
    """Return one site of FML."""
    return with_messenger(network, budget, partial(mutual, alpha, beta))


RIVAL = Rival("FML", "Shen et al., 2020", ("server", "an agreed network"), build, averaged)
