"""What a site's model says of new rows, and how far its experts agree.

The mixture of the last round is fitted again, from what it was fitted from, with the new rows among
those that nothing is learnt from: what is said of them is what that round would have said.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.baselines.alone import alone
from dflmoe.baselines.local import LocalOnly
from dflmoe.core.site import CrossFit, SiteData
from dflmoe.core.streaming import with_more
from dflmoe.data.shaping import shrunk
from dflmoe.node.agreed import method_of, training_of
from dflmoe.node.baseline import Baseline
from dflmoe.node.node import ALONE
from dflmoe.security.charter import Charter
from dflmoe.types import SiteId
from dflmoe.wire.state import state_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Predictions of some rows.

    Attributes:
        classes: Names of the classes.
        probs: Of each row and class.
        opinions: The same by each expert alone, the own head under the site's own name.
        used: Whether borrowed heads serve, or the site's own model.
        round: In which the model was made.
    """

    classes: tuple[str, ...]
    probs: Floats
    opinions: dict[SiteId, Floats]
    used: bool
    round: int

    @property
    def likely(self) -> NDArray[np.int64]:
        """The likeliest class of each row."""
        found: NDArray[np.int64] = self.probs.argmax(1)
        return found

    @property
    def agreement(self) -> Floats:
        """Lowest and highest probability that an expert gives a row's likeliest class."""
        rows = np.arange(len(self.probs))
        said = np.stack([one[rows, self.likely] for one in self.opinions.values()])
        return np.stack([said.min(0), said.max(0)], axis=1)


def predict(
    charter: Charter, had: Baseline, serving: bytes, x: NDArray[np.float32], *, seed: int
) -> Predicted:
    """Return what a site's model of the last round says of new rows.

    Args:
        charter: The rules.
        had: The site's own rows.
        serving: As ``Home.serving`` returns it.
        x: The new rows, ``[row, ...]``.
        seed: The node's.

    Raises:
        StoreError: What predictions are made with cannot be read.
    """
    state = state_of(serving)
    chance = torch.Generator()
    chance.set_state(state.params["chance"]["state"])
    network, new = with_more(had.network, torch.from_numpy(np.nan_to_num(x, nan=0.0)))
    data = _with(had.data, new, x)
    local = LocalOnly(network, training_of(charter))
    said, _, _ = alone(state.site, data, local, seed=seed, purpose=ALONE)
    data = replace(data, alone=said)
    method = method_of(charter, network)
    state, outcome = method.absorb(state, [], data, chance)
    these = slice(len(had.data.y), None)

    def probs(log_probs: torch.Tensor) -> Floats:
        found: Floats = log_probs[0, these].double().exp().numpy()
        return found

    return Predicted(
        charter.classes,
        probs(outcome.served),
        {site: probs(log_probs) for site, log_probs in method.opinions(state, data).items()},
        bool(outcome.used.all()),
        state.round,
    )


def _with(data: SiteData, new: torch.Tensor, x: NDArray[np.float32]) -> SiteData:
    """Return a site's rows and new ones, from which nothing is learnt.

    Args:
        data: The site's own rows.
        new: The new ones, as its network takes them.
        x: The same as they are.
    """
    count, last = len(x), int(data.group.max())
    fold = torch.full((1, count), -1, dtype=data.crossfit.fold.dtype)
    small = data.small
    if small is not None:
        small = torch.cat([small, torch.from_numpy(np.stack([shrunk(row) for row in x]))])
    return replace(
        data,
        x=torch.cat([data.x, new.to(data.x.dtype).expand(len(data.x), *new.shape)], dim=1),
        y=torch.cat([data.y, torch.zeros(count, dtype=data.y.dtype)]),
        crossfit=CrossFit(torch.cat([data.crossfit.fold, fold], dim=1)),
        group=torch.cat([data.group, last + 1 + torch.arange(count)]),
        alone=None,
        small=small,
    )
