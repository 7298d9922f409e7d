"""The account of all private heads that a site has made, over restarts."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from dflmoe.errors import KeyFileError
from dflmoe.files import replace_file
from dflmoe.node.store import Store
from dflmoe.privacy.noise import KEY_BYTES, Budget, Noise, spent
from dflmoe.security.keys import secret_text
from dflmoe.security.policy import Policy
from dflmoe.types import Clock
from dflmoe.wire.manifest import Spent

NOISE_KEY = "noise.key"
"""The file of the secret that noise is drawn from; whoever has it can take the noise away."""


def budget_of(policy: Policy) -> Budget | None:
    """Return what a site's policy allows it to tell; none where it promises nothing."""
    if policy.epsilon_per_head is None or policy.epsilon_budget is None:
        return None
    return Budget(policy.epsilon_per_head, policy.epsilon_budget, policy.delta)


def noises(store: Store) -> list[Noise]:
    """Return what each private head was protected by."""
    return [Noise(sigma, steps) for _, sigma, steps in store.spent()]


def told_so_far(store: Store, policy: Policy) -> Spent | None:
    """Return what a site says of the privacy that all its heads have spent together."""
    if budget_of(policy) is None:
        return None
    return Spent(epsilon=spent(noises(store), policy.delta), delta=policy.delta)


@dataclass(frozen=True)
class StoredLedger:
    """The account in a node's store (``privacy.lending.Ledger``).

    Attributes:
        store: Of the node.
        budget: What may be told.
        clock: By which entries are dated.
    """

    store: Store
    budget: Budget
    clock: Clock

    def spend(self, head: str, noise: Noise) -> str | None:
        """See ``Ledger.spend``: a head is noted before it is made, and the same one only once."""
        if head in {made for made, *_ in self.store.spent()}:
            return None
        delta, before = self.budget.delta, noises(self.store)
        total = spent([*before, noise], delta)
        if total > self.budget.total:
            return (
                f"with one more private head all would tell epsilon {total:.2f} and the budget is "
                f"{self.budget.total:g} ({spent(before, delta):.2f} is spent); the site goes on "
                f"learning from others, or its policy allows more"
            )
        facts = {
            "epsilon": round(total, 4),
            "delta": delta,
            "budget": self.budget.total,
            "heads": len(before) + 1,
        }
        self.store.spend(head, noise.sigma, noise.steps, facts, self.clock())
        return None


def noise_key(folder: Path) -> bytes:
    """Return the secret that a site's noise is drawn from; it is made when it is first needed.

    Raises:
        KeyFileError: It cannot be read, may be read by others, or is none.
        OutputError: It cannot be written.
    """
    path = folder / NOISE_KEY
    if not path.exists():
        replace_file(path, secrets.token_hex(KEY_BYTES) + "\n", mode=0o600)
    fix = "restore it from a backup"
    try:
        key = bytes.fromhex(secret_text(path, fix))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path} is no key of noise; {fix}")
    return key
