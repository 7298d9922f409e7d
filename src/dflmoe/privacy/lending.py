"""What stands between a head and its lending: the site's own attack on it, and noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from dflmoe.core.algorithm import Release
from dflmoe.core.site import Lent, Network
from dflmoe.core.stacking import initial
from dflmoe.errors import PrivacyError
from dflmoe.privacy.noise import (
    Budget,
    Noise,
    Stream,
    entry_of,
    name_of,
    private_head,
    seed_of,
)
from dflmoe.privacy.selfaudit import Exposure, exposure
from dflmoe.types import Params, generator

HELP = (
    "more labelled rows would help, or a head of fewer weights, or differential privacy "
    "(epsilon_per_head in policy.toml)"
)


class Ledger(Protocol):
    """The account of all heads that a site has lent, over restarts."""

    def spend(self, head: str, noise: Noise) -> str | None:
        """Note a head before it is made; the same head is noted once.

        Args:
            head: What it is made of and by which key, in a digest.
            noise: What it is protected by.

        Returns:
            Why it must not be lent; none if it may.
        """
        ...


@dataclass(frozen=True)
class Audited:
    """What came of the audit of a head.

    Attributes:
        round: The site's.
        kind: What would be lent.
        exposure: What the site's own attack tells; none if none could be tried.
        withheld: Why nothing is lent; none if it is.
    """

    round: int
    kind: str
    exposure: Exposure | None
    withheld: str | None


@dataclass(frozen=True)
class Private:
    """Differential privacy of what a site lends.

    Attributes:
        budget: How much may be told.
        key: The secret that noise is drawn from; whoever has it can take the noise away.
        ledger: The account.
    """

    budget: Budget
    key: bytes
    ledger: Ledger


@dataclass(frozen=True)
class Lending:
    """Lends a head if an attack on it tells little enough (``core.algorithm.Lender``).

    Attributes:
        limit: The most that the attack may tell, as an AUROC; none for no limit.
        private: What noise is added; none for none.
        tell: Hears what came of each audit.
    """

    limit: float | None = None
    private: Private | None = None
    tell: Callable[[Audited], None] = lambda _: None

    def __call__(self, release: Release) -> Lent:
        """See ``Lender``."""
        withheld = None
        if self.private is not None:
            release, withheld = _with_noise(release, self.private)
        found = exposure(release) if withheld is None else None
        if withheld is None and found is not None and self.limit is not None:
            withheld = _above(found, self.limit)
        lent = release.lent
        self.tell(Audited(lent.round, lent.kind, found, withheld))
        return lent if withheld is None else replace(lent, tensors={}, withheld=withheld)


def _above(found: Exposure, limit: float) -> str | None:
    if found.area <= limit:
        return None
    return (
        f"an attack on it ({found.attack}) tells training rows from others with AUROC "
        f"{found.area:.2f} [{found.low:.2f}, {found.high:.2f}], above the limit of {limit:.2f}; "
        f"{HELP}"
    )


def honest(network: Network, kinds: frozenset[str]) -> None:
    """Check that differential privacy can be promised for what a site lends.

    Args:
        network: Whose head is lent.
        kinds: What is lent of it (``core.site.LentKind``).

    Raises:
        PrivacyError: The body learnt from the site's rows, or every fit is lent in many rounds.
    """
    if kinds != frozenset({"head"}):
        raise PrivacyError(
            "differential privacy is asked for, but this exchange lends every fit in many rounds, "
            "which no useful epsilon covers; use the exchange 'shared', or remove epsilon_per_head"
        )
    if not network.common:
        raise PrivacyError(
            "differential privacy is asked for, but the body under the head learns from this "
            "site's rows, so no epsilon of the head alone would be honest; use a public or frozen "
            "body, or remove epsilon_per_head from policy.toml"
        )


def _with_noise(release: Release, private: Private) -> tuple[Release, str | None]:
    """Return the same with private heads of every split in place of those that were learnt."""
    honest(release.network, frozenset({release.lent.kind}))
    data, noise = release.data, private.budget.noise
    if data.y.dim() != 1 or data.y.is_floating_point():
        raise PrivacyError(
            "differential privacy is asked for, but only heads that predict a class can be made "
            "private; remove epsilon_per_head from policy.toml"
        )
    heads: list[Params] = []
    for split in range(data.crossfit.splits):
        learns = data.learnt[split, -1] > 0
        features = release.features[(split + 1) * data.crossfit.fits - 1][learns]
        y, patient = data.y[learns], data.group[learns]
        name = name_of(release.network.head, noise, features, y, patient)
        refused = private.ledger.spend(entry_of(private.key, name), noise)
        if refused is not None:
            return release, refused
        head, stream = release.network.head, Stream(seed_of(private.key, name))
        heads.append(
            private_head(head, _start(head), features, y, patient, noise=noise, stream=stream)
        )
    tensors = {name: torch.stack([head[name] for head in heads]) for name in heads[0]}
    return replace(release, lent=replace(release.lent, tensors=tensors), heads={}), None


def _start(head: nn.Module) -> Params:
    """Return what a private head starts from: nothing, or what everybody would draw."""
    drawn = {name: p[0] for name, p in initial(head, 1, generator(0, "private head")).items()}
    if isinstance(head, nn.Linear):
        return {name: torch.zeros_like(p) for name, p in drawn.items()}
    return drawn
