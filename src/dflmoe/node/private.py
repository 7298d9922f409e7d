"""What a node lends of what it learnt: its own attack on each head, and noise where it promises."""

from dflmoe.core.site import Network
from dflmoe.node.agreed import KINDS, network_of
from dflmoe.node.replica import Replica
from dflmoe.node.spending import StoredLedger, budget_of, noise_key
from dflmoe.privacy.lending import Audited, Lending, Private, honest
from dflmoe.security.audit import Facts
from dflmoe.security.charter import Charter
from dflmoe.security.policy import Policy


def limit_of(charter: Charter, policy: Policy) -> float | None:
    """Return the most that an attack may tell: the stricter of charter and policy."""
    limits = [x for x in (charter.max_attack_auc, policy.max_attack_auc) if x is not None]
    return min(limits, default=None)


def check_promise(charter: Charter, policy: Policy) -> None:
    """Check, before anything is learnt, that what the policy promises can be kept.

    Raises:
        PrivacyError: The policy asks for differential privacy, and it would not be honest here.
    """
    if budget_of(policy) is not None and charter.public_body is None:
        honest(network_of(charter), KINDS[charter.exchange])


def lender_of(replica: Replica, network: Network) -> Lending:
    """Return what stands between a node's heads and their lending.

    Args:
        replica: Of the node; its store keeps the account, its log what came of every audit.
        network: Whose head is lent, as the site has it.

    Raises:
        PrivacyError: The policy asks for a promise that cannot be given honestly.
        KeyFileError: The secret of the noise cannot be used.
    """
    policy, charter = replica.policy, replica.roster.charter
    budget, private = budget_of(policy), None
    if budget is not None:
        honest(network, KINDS[charter.exchange])
        ledger = StoredLedger(replica.store, budget, replica.now)
        private = Private(budget, noise_key(replica.home.folder), ledger)

    def tell(audited: Audited) -> None:
        found = audited.exposure
        facts: Facts = {"round": audited.round, "kind": audited.kind}
        if found is not None:
            numbers = {"auc": found.area, "low": found.low, "high": found.high}
            told = {name: round(value, 4) for name, value in numbers.items()}
            replica.store.note("audited", {**facts, "attack": found.attack, **told}, replica.now())
        if audited.withheld is not None:
            replica.store.note("withheld", {**facts, "why": audited.withheld}, replica.now())

    return Lending(limit_of(charter, policy), private, tell)
