"""What it costs to run, and what it is worth only if the user said so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dflmoe.data.study import Study
from dflmoe.pilot.arms import Repeat
from dflmoe.pilot.plan import Options, Plan
from dflmoe.report.schema import Cost, Money, Site, Value
from dflmoe.simulation.federation import Played
from dflmoe.wire.payload import ENVELOPE_BYTES


@dataclass(frozen=True)
class Prices:
    """Assumptions of the money section; a value is only ever computed from the user's own figure.

    Attributes:
        currency: Of all sums.
        operator_hours: Of one site and year.
        operator_rate: Of one such hour.
        compute_rate: Of one hour of a small machine.
        per_decision: What one more right decision is worth to the user.
        decisions: Decisions of one site and year.
    """

    currency: str = "EUR"
    operator_hours: float = 24.0
    operator_rate: float = 60.0
    compute_rate: float = 0.10
    per_decision: float | None = None
    decisions: int | None = None


def cost(
    study: Study,
    options: Options,
    plan: Plan,
    *,
    repeats: Sequence[Repeat],
    sites: Sequence[Site],
    prices: Prices,
) -> Cost:
    """Return bytes and compute as measured, operator hours and money as assumed."""
    played = repeats[0].federation
    average = repeats[0].average
    payload = max(played.payload_bytes.values()) if played else 0
    splits = options.folds if options.only_split is None else 1
    messages = played.messages if played else 0
    hours = [
        sum(r.federation.seconds.values()) / len(study.sites) / splits / 3600
        for r in repeats
        if r.federation
    ]
    per_lending = float(np.mean(hours))
    compute = math.ceil(per_lending * 365)
    yearly = prices.operator_hours * prices.operator_rate + compute * prices.compute_rate
    value = _value_of(sites, prices)
    returns = None
    if value is not None:
        returns = {
            site.name: _scaled(value[site.name], 1 / yearly, -1)
            for site in sites
            if site.verdict == "gain"
        }
    return Cost(
        payload_bytes_per_head=payload,
        overhead_bytes_per_head=ENVELOPE_BYTES,
        heads_per_site=messages,
        payload_bytes_per_site_day=payload_bytes(played) if played else 0,
        overhead_bytes_per_site_day=messages * ENVELOPE_BYTES,
        lendings_per_day=1.0,
        fedavg_bytes_per_site=fedavg_bytes(plan) if average else None,
        compute_hours_per_site=per_lending,
        money=Money(
            currency=prices.currency,
            operator_hours_per_year=prices.operator_hours,
            operator_rate=prices.operator_rate,
            compute_rate=prices.compute_rate,
            cost_per_site_year=yearly,
            value_per_decision=prices.per_decision,
            decisions_per_year=prices.decisions,
            value_per_site_year=value,
            return_on_investment=returns or None,
        ),
    )


def _value_of(sites: Sequence[Site], prices: Prices) -> dict[str, Value] | None:
    """Return what more right decisions are worth, if the user said what one is worth."""
    if prices.per_decision is None or prices.decisions is None:
        return None
    factor = prices.per_decision * prices.decisions / 100
    return {
        site.name: _scaled(site.safety.net_correct_per_100, factor)
        for site in sites
        if site.safety is not None and site.safety.net_correct_per_100 is not None
    }


def _scaled(value: Value, factor: float, shift: float = 0.0) -> Value:
    low, high = (None if v is None else v * factor + shift for v in (value.low, value.high))
    return Value(value=value.value * factor + shift, low=low, high=high)


def payload_bytes(played: Played) -> int:
    """Return the payload that a site sends and receives in all rounds, whatever each one lends."""
    return 2 * max(played.sent_bytes.values()) - played.messages * ENVELOPE_BYTES


def fedavg_bytes(plan: Plan) -> int:
    """Return the bytes of one site: all that learns up and down in every round, in fp32."""
    network = next(iter(plan.networks.values()))
    parts = (network.body, network.head)
    numbers = sum(p.numel() for m in parts for p in m.parameters() if p.requires_grad)
    return 2 * plan.average_rounds * 4 * numbers


def fedavg_words(mean: Site, plan: Plan, repeats: Sequence[Repeat]) -> str | None:
    """Say how FedAvg did, and what it takes."""
    average, alone, federated = (mean.arms[a] for a in ("fedavg", "alone", "federated"))
    if average is None or alone is None or federated is None or repeats[0].federation is None:
        return None
    played = repeats[0].federation
    ours = payload_bytes(played)
    return (
        f"FedAvg reached {average.value:.3f} on average ({average.value - alone.value:+.3f} over "
        f"alone; borrowed heads {federated.value - alone.value:+.3f}). It needs a server that all "
        f"sites reach and trust in every one of {plan.average_rounds} rounds, one network for all, "
        f"and {fedavg_bytes(plan):,} bytes a site in all; borrowed heads need {plan.rounds} round"
        f"{'s' if plan.rounds > 1 else ''}, no server, and {ours:,} bytes a site (payload, both)."
    )
