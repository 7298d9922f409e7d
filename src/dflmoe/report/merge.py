"""One report of several sites, from the reports that each wrote of itself.

No row and no prediction leaves a site for it: what a site publishes is enough. Sites have different
patients, so the interval of a mean follows from the sites' own by the method of variance estimates
recovery: distances to the bounds add in quadrature (Zou and Donner, Construction of confidence
limits about effect measures, Statistics in Medicine 2008).
"""

import math
from collections.abc import Sequence

from dflmoe.metrics.resampling import Interval
from dflmoe.report.schema import Report, Site, Value
from dflmoe.report.verdict import verdict


def merged(reports: Sequence[Report]) -> Report:
    """Return the report of all sites together.

    Args:
        reports: Of one or more sites each, played by the same options; at least one.

    Raises:
        ValueError: A site is in two of them, or they were not played alike.
    """
    first = reports[0]
    sites = [site for report in reports for site in report.sites]
    if len({site.name for site in sites}) < len(sites):
        raise ValueError("a site is in two of the reports")
    for report in reports:
        for same in ("metric", "seed", "folds", "repeats", "only_split", "wire_dtype", "classes"):
            if getattr(report, same) != getattr(first, same):
                raise ValueError(f"the reports were played with different {same}")
    alike = [site.arms for site in sites]
    return first.model_copy(
        update={
            "sites": sites,
            "mean": _mean(sites),
            "pooled_share": None,
            "partial": any(report.partial for report in reports),
            "rounds": max(report.rounds for report in reports),
            "warnings": list(dict.fromkeys(w for report in reports for w in report.warnings)),
            "training_curves": {
                k: c for report in reports for k, c in report.training_curves.items()
            },
            "fedavg_words": None if any(a["fedavg"] is None for a in alike) else first.fedavg_words,
            "operation": [o for report in reports for o in report.operation],
            "seconds": max(report.seconds for report in reports),
        }
    )


def _mean(sites: Sequence[Site]) -> Site:
    """Return the mean over sites, in the shape of one site."""
    gain = over([site.gain for site in sites])
    arms = {arm: over([site.arms[arm] for site in sites]) for arm in sites[0].arms}
    controls = set.intersection(*(set(site.control_gains) for site in sites))
    controlled = {
        arm: mean
        for arm in sites[0].control_gains
        if arm in controls and (mean := over([site.control_gains[arm] for site in sites]))
    }
    best = max(controlled, key=lambda arm: _value(arms[arm]), default=None)
    counts = {
        name: None
        if any(site.class_counts[name] is None for site in sites)
        else sum(site.class_counts[name] or 0 for site in sites)
        for name in sites[0].class_counts
    }
    known = [n for n in counts.values() if n]
    own = sum(site.gate_share.get(site.name, 1.0) for site in sites) / len(sites)
    return Site(
        name="mean of sites",
        rows=sum(site.rows for site in sites),
        class_counts=counts,
        arms=arms,
        gain=gain,
        control_gain=controlled[best] if best else None,
        best_control=best,
        control_gains=controlled,
        within_split_gain=over([site.within_split_gain for site in sites]),
        verdict=verdict(
            _interval(gain), _interval(controlled[best]) if best else None, min(known, default=0)
        )
        if gain
        else "not measured",
        gate_share={"own": own, "peers": 1 - own},
        logistic_share=None,
        safety=None,
    )


def over(values: Sequence[Value | None]) -> Value | None:
    """Return the mean of values of different patients; none if one is not there."""
    there = [one for one in values if one is not None]
    if len(there) < len(values) or not there:
        return None
    count = len(there)
    mean = sum(one.value for one in there) / count
    if any(one.low is None or one.high is None for one in there):
        return Value(value=mean, low=None, high=None)
    below, above = (
        math.sqrt(sum((one.value - bound) ** 2 for one, bound in zip(there, bounds, strict=True)))
        for bounds in ([one.low or 0.0 for one in there], [one.high or 0.0 for one in there])
    )
    return Value(value=mean, low=mean - below / count, high=mean + above / count)


def _interval(value: Value) -> Interval:
    low, high = (math.nan if bound is None else bound for bound in (value.low, value.high))
    return Interval(value.value, low, high)


def _value(value: Value | None) -> float:
    return -math.inf if value is None else value.value
