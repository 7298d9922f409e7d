"""The life of a node: train, lend, borrow, mix, store; again, for ever or to a number.

It waits for nobody: a round is played with the newest heads that are held. What stops it costs the
round it was in and nothing else; started again, it plays that round as if nothing had happened.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from torch import Tensor

from dflmoe.core.algorithm import Algorithm, Outcome, run_round
from dflmoe.core.site import Lent, SiteData, SiteState
from dflmoe.errors import ExchangeError, SecurityError
from dflmoe.metrics.resampling import auc_samples
from dflmoe.node.exchange import Exchange
from dflmoe.node.replica import Replica
from dflmoe.security.audit import Event, Facts
from dflmoe.types import SiteId, generator
from dflmoe.wire.manifest import Document
from dflmoe.wire.state import state_bytes, state_of

logger = logging.getLogger(__name__)

ALONE, PURPOSE = "alone/0", "lend/0"
"""Random streams, named as in the first repeat of a pilot: the same rows give the same numbers."""


class RoundSummary(Document):
    """What is kept of a round, for people and reports.

    Attributes:
        number: Of the round, from 1.
        own_loss: Out-of-fold loss of the own model.
        mixture_loss: The same of own and borrowed heads together.
        own_score: Out-of-fold AUC of the own model; none if it cannot be had.
        mixture_score: The same of own and borrowed heads together.
        used: Whether the guard lets the mixture serve.
        share: Mean weight of each expert.
        quarantined: Peers whose heads were set aside.
        heard: Peers whose heads were in the mixture.
        missing: Sites of the roster that contributed nothing, each with the reason.
        outage: Why nothing could be exchanged; none if something could.
        withheld: Why the site did not lend its head; none if it did.
        worth: What the mixture's out-of-fold loss would rise by without each peer.
    """

    number: int
    own_loss: float
    mixture_loss: float
    own_score: float | None = None
    mixture_score: float | None = None
    used: bool
    share: dict[str, float]
    quarantined: tuple[str, ...]
    heard: tuple[str, ...]
    missing: dict[str, str] = Field(default_factory=dict)
    outage: str | None
    withheld: str | None = None
    worth: dict[str, float] = Field(default_factory=dict)


Serve = Callable[[RoundSummary, Outcome], bytes]
"""The model that a round came to, as a file."""


@dataclass
class Node:
    """One site that plays rounds.

    Attributes:
        replica: The heads that it holds.
        exchange: How they reach others.
        algorithm: The method.
        data: Its rows, in one split.
        seed: Of all chance: every round draws by its number, so a round that is played again is
            the same.
        serve: Makes the model that is kept beside the state; none is kept if not given.
    """

    replica: Replica
    exchange: Exchange
    algorithm: Algorithm
    data: SiteData
    seed: int = 0
    serve: Serve | None = None

    @property
    def site(self) -> SiteId:
        """The site's name."""
        return self.replica.name

    def state(self) -> SiteState:
        """Return the state after the last round that was played to its end.

        Raises:
            StoreError: It cannot be read.
        """
        raw = self.replica.store.state()
        if raw is not None:
            return state_of(raw)
        rng = generator(self.seed, PURPOSE, self.site, "init")
        return self.algorithm.init(self.site, self.data, rng)

    def rounds(self, until: int | None = None) -> Iterator[tuple[RoundSummary, Outcome]]:
        """Play rounds, and yield what came of each once it is stored.

        Args:
            until: The last round; for ever if not given.

        Raises:
            StoreError: A round cannot be stored; those before are.
            FloatingPointError: A loss is not finite.
        """
        state = self.state()
        while until is None or state.round < until:
            state, summary, outcome = self._round(state)
            yield summary, outcome

    def _round(self, state: SiteState) -> tuple[SiteState, RoundSummary, Outcome]:
        outages: list[str] = []
        inbox: list[Lent] = []

        withheld: list[str] = []

        def swap(lent: Lent) -> Sequence[Lent]:
            withheld.extend([lent.withheld] if lent.withheld else ())
            try:
                if lent.tensors:
                    self.replica.lend(lent, learnt(self.data))
                self.exchange.sync()
            except (ExchangeError, SecurityError) as error:
                logger.warning("nothing was exchanged: %s", error)
                outages.append(str(error))
            inbox.extend(one for one in self.replica.inbox() if one.kind == lent.kind)
            return inbox

        rng, began = generator(self.seed, PURPOSE, self.site, state.round), time.thread_time()
        state, outcome = run_round(self.algorithm, state, swap, self.data, rng)
        summary = RoundSummary(
            number=state.round,
            own_loss=float(outcome.own_loss.mean()),
            mixture_loss=float(outcome.mixture_loss.mean()),
            own_score=_score(outcome.own, self.data),
            mixture_score=_score(outcome.mixture, self.data),
            used=bool(outcome.used.all()),
            share={site: float(share.mean()) for site, share in outcome.share.items()},
            quarantined=tuple(s for s, aside in outcome.quarantined.items() if bool(aside.any())),
            heard=tuple(lent.site for lent in inbox),
            missing=self.replica.missing(lent.site for lent in inbox),
            outage=outages[0] if outages else None,
            withheld=withheld[0] if withheld else None,
            worth={site: float(worth.mean()) for site, worth in outcome.worth.items()},
        )
        before = self.replica.store.last_round()
        last = RoundSummary.model_validate_json(before) if before else None
        if self.serve is not None:
            self.replica.home.serve(self.serve(summary, outcome))
        self.replica.store.keep_round(
            state.round,
            state_bytes(state),
            summary.signed(),
            self.replica.now(),
            list(_events(summary, last)),
            seconds=time.thread_time() - began,
        )
        return state, summary, outcome


def _events(now: RoundSummary, before: RoundSummary | None) -> Iterator[Event]:
    """Yield what the log says of a round: whose heads were used, and whose were set aside anew."""
    used = [site for site, share in sorted(now.share.items()) if share > 0]
    facts: Facts = {
        "round": now.number,
        "used": used if now.used else [],
        "heard": list(now.heard),
        "missing": [f"{site}: {why}" for site, why in sorted(now.missing.items())],
        "outage": now.outage,
    }
    yield "round", facts
    aside = set(before.quarantined) if before else set()
    for site in sorted(set(now.quarantined) - aside):
        yield "quarantined", {"site": site, "round": now.number, "why": "evidence of harm"}
    for site in sorted(aside - set(now.quarantined)):
        yield "released", {"site": site, "round": now.number}


def learnt(data: SiteData) -> int:
    """Return the number of rows that a site learns from."""
    return int((data.crossfit.fold[0] >= 0).sum())


def _score(log_probs: Tensor, data: SiteData) -> float | None:
    """Return the out-of-fold AUC on training rows, of the only split of a node."""
    seen = (data.crossfit.fold[0] >= 0).numpy()
    y = data.y.numpy()[seen]
    probs = log_probs[0].double().exp().numpy()[seen]
    score = float(auc_samples(probs[None], y, np.ones((1, len(y))))[0])
    return score if math.isfinite(score) else None
