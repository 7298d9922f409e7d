"""From what every arm said of every row to the numbers of the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from platform import python_version

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.data.study import SiteRows, Study
from dflmoe.metrics.clinical import brier, calibration_error, reliability
from dflmoe.metrics.resampling import Interval, auc_samples, interval, patient_weights
from dflmoe.pilot.arms import ARMS, CONTROLS, Repeat
from dflmoe.pilot.plan import Options, Plan
from dflmoe.report.schema import (
    SMALL_CELL,
    Cost,
    Curve,
    Money,
    Point,
    Rehearsal,
    Reliability,
    Report,
    RowsPoint,
    Safety,
    Site,
    Subgroup,
    Value,
)
from dflmoe.report.verdict import MIN_CASES, verdict
from dflmoe.types import SiteId, generator
from dflmoe.wire.payload import ENVELOPE_BYTES

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class Scored:
    """One site's scores of every arm over patient resamples; the first is the real one."""

    site: SiteRows
    weights: Floats
    arms: dict[str, Floats]
    within: dict[str, Floats]
    net_correct: Floats | None


def score(study: Study, options: Options, repeats: Sequence[Repeat]) -> list[Scored]:
    """Score every arm at every site."""
    return [_score_site(study, site, options, repeats) for site in study.sites]


def report(
    study: Study,
    options: Options,
    plan: Plan,
    repeats: Sequence[Repeat],
    *,
    seconds: float,
    prices: Prices | None = None,
    rows_curve: Sequence[RowsPoint] = (),
) -> Report:
    """Return the report of the repeats that were played.

    Args:
        study: The sites.
        options: What the user chose.
        plan: What was chosen for the study.
        repeats: At least one; fewer than asked for make the report partial.
        seconds: Wall-clock time of the pilot.
        prices: Assumptions of the money section.
        rows_curve: Gain against labelled rows, if asked for.
    """
    scored = score(study, options, repeats)
    sites = [_site(study, options, one, repeats) for one in scored]
    mean = _mean(study, scored, sites)
    return Report(
        title=study.title,
        task=study.task,
        classes=list(study.classes),
        metric="AUC" if len(study.classes) == 2 else "macro AUC",  # noqa: PLR2004
        mode=options.mode,
        seed=options.seed,
        folds=options.folds,
        repeats=options.repeats,
        repeats_done=len(repeats),
        rounds=plan.rounds,
        train_rows=options.train_rows,
        patients_named=study.has_patients,
        partial=len(repeats) < options.repeats,
        choices=list(plan.why),
        warnings=_warnings(study, repeats, options),
        sites=sites,
        mean=mean,
        pooled_share=_share_of_pooling(mean),
        fedavg_words=_fedavg_words(mean, plan, repeats),
        training_curves=_curves([r.curves for r in repeats]),
        fedavg_curves=_curves([r.average_curve for r in repeats]),
        rows_curve=list(rows_curve),
        cost=_cost(study, options, plan, repeats, sites, prices or Prices()),
        seconds=seconds,
        versions={
            name: metadata.version(name)
            for name in ("dflmoe", "torch", "numpy", "scikit-learn", "scipy")
        }
        | {"python": python_version()},
    )


def rows_point(
    study: Study, options: Options, train_rows: int, repeats: Sequence[Repeat]
) -> RowsPoint:
    """Return the mean over sites at one number of labelled rows."""
    scored = score(study, options, repeats)

    def mean(arm: str) -> Floats:
        samples: Floats = np.mean([one.arms[arm] for one in scored], axis=0)
        return samples

    return RowsPoint(
        train_rows=train_rows,
        alone=_value(interval(mean("alone"))),
        federated=_value(interval(mean("federated"))),
        pooled=_value(interval(mean("pooled"))) if "pooled" in scored[0].arms else None,
        gain=_value(interval(mean("federated") - mean("alone"))),
    )


def _score_site(
    study: Study, site: SiteRows, options: Options, repeats: Sequence[Repeat]
) -> Scored:
    rng = generator(options.seed, "patients", site.name)
    seed = int(torch.randint(2**31, (), generator=rng))
    weights = patient_weights(
        site.y, site.patient, options.resamples, np.random.default_rng(seed)
    )
    split = np.stack([r.split[site.name] for r in repeats])
    arms, within = {}, {}
    for arm in ARMS:
        if all(site.name in r.tested.get(arm, {}) for r in repeats):
            probs = np.stack([r.tested[arm][site.name].probs for r in repeats])
            arms[arm] = auc_samples(probs, site.y, weights)
            within[arm] = auc_samples(probs, site.y, weights, split)
    net = None
    if len(study.classes) == 2:  # noqa: PLR2004 - an operating point
        right = [_right(site, r, "federated") - _right(site, r, "alone") for r in repeats]
        net = 100 * (weights @ np.mean(right, axis=0)) / weights.sum(1)
    return Scored(site, weights, arms, within, net)


def _right(site: SiteRows, repeat: Repeat, arm: str) -> Floats:
    """Return 1 for each row that the operating point decides rightly, else 0."""
    flagged = repeat.tested[arm][site.name].flagged
    return (flagged == (site.y == 1)).astype(np.float64)


def _site(study: Study, options: Options, one: Scored, repeats: Sequence[Repeat]) -> Site:
    counts = np.bincount(one.site.y, minlength=len(study.classes))
    name = one.site.name
    return Site(
        **_compared(one.arms, one.within, int(counts[counts > 0].min())),
        name=name,
        rows=len(one.site.y),
        class_counts={
            c: int(n) if n >= SMALL_CELL or n == 0 else None
            for c, n in zip(study.classes, counts, strict=True)
        },
        gate_share=_mean_of([r.shares[name] for r in repeats]),
        logistic_share=float(np.mean([r.chosen[name] for r in repeats])),
        safety=_safety(study, options, one, repeats),
    )


def _compared(
    arms: dict[str, Floats], within: dict[str, Floats], fewest: int
) -> dict[str, object]:
    """Return the fields of a site that compare its arms."""
    values = {arm: _value(interval(arms[arm])) if arm in arms else None for arm in ARMS}
    gain = interval(arms["federated"] - arms["alone"])
    controls = [arm for arm in CONTROLS if arm in arms]
    best = max(controls, key=lambda arm: float(arms[arm][0])) if controls else None
    control_gain = interval(arms["federated"] - arms[best]) if best else None
    return {
        "arms": values,
        "gain": _value(gain),
        "control_gain": _value(control_gain) if control_gain else None,
        "best_control": best,
        "within_split_gain": _value(interval(within["federated"] - within["alone"])),
        "verdict": verdict(gain, control_gain, fewest),
    }


def _mean(study: Study, scored: Sequence[Scored], sites: Sequence[Site]) -> Site:
    """Return the mean over sites, in the shape of one site."""
    arms = set.intersection(*(set(one.arms) for one in scored))
    mean = {arm: np.mean([one.arms[arm] for one in scored], axis=0) for arm in arms}
    within = {arm: np.mean([one.within[arm] for one in scored], axis=0) for arm in arms}
    counts = np.sum([np.bincount(s.y, minlength=len(study.classes)) for s in study.sites], axis=0)
    own = float(np.mean([site.gate_share[site.name] for site in sites]))
    return Site(
        **_compared(mean, within, int(counts[counts > 0].min())),
        name="mean of sites",
        rows=sum(site.rows for site in sites),
        class_counts={c: int(n) for c, n in zip(study.classes, counts, strict=True)},
        gate_share={"own": own, "peers": 1 - own},
        logistic_share=None,
        safety=None,
    )


def _safety(study: Study, options: Options, one: Scored, repeats: Sequence[Repeat]) -> Safety:
    site = one.site
    two = len(study.classes) == 2  # noqa: PLR2004 - an operating point
    moved: dict[str, float | None] = dict.fromkeys(
        ("newly_missed", "newly_found", "newly_alarmed", "newly_cleared")
    )
    if two:
        positive = site.y == 1
        before, after = (
            np.stack([r.tested[arm][site.name].flagged for r in repeats])
            for arm in ("alone", "federated")
        )
        moved = {
            "newly_missed": float((before & ~after & positive).sum(1).mean()),
            "newly_found": float((~before & after & positive).sum(1).mean()),
            "newly_alarmed": float((~before & after & ~positive).sum(1).mean()),
            "newly_cleared": float((before & ~after & ~positive).sum(1).mean()),
        }
    return Safety(
        operating_sensitivity=options.sensitivity,
        alone=_point(one, repeats, "alone", two=two),
        federated=_point(one, repeats, "federated", two=two),
        **moved,
        net_correct_per_100=None if one.net_correct is None else _value(interval(one.net_correct)),
        subgroups=_subgroups(one, repeats),
        fallback_share=1 - float(np.mean([r.used[site.name] for r in repeats])),
        set_aside=_mean_of([r.quarantined[site.name] for r in repeats]),
        rehearsal=_rehearsal(one, repeats),
    )


def _point(one: Scored, repeats: Sequence[Repeat], arm: str, *, two: bool) -> Point:
    """Return sensitivity, specificity and calibration of one arm."""
    site = one.site
    tested = [r.tested[arm][site.name] for r in repeats]
    quality = float(np.mean([brier(t.probs, site.y) for t in tested]))
    if not two:
        return Point(
            sensitivity=None,
            specificity=None,
            brier=quality,
            calibration_error=None,
            reliability=None,
        )
    positive = site.y == 1
    flagged = np.mean([t.flagged for t in tested], axis=0)

    def rate(right: Floats, rows: NDArray[np.bool_]) -> Value | None:
        if rows.sum() < SMALL_CELL:
            return None
        weights = one.weights[:, rows]
        return _value(interval(weights @ right[rows] / weights.sum(1)))

    said = np.concatenate([t.probs[:, 1] for t in tested])
    seen = np.tile(positive, len(tested))
    return Point(
        sensitivity=rate(flagged, positive),
        specificity=rate(1 - flagged, ~positive),
        brier=quality,
        calibration_error=calibration_error(said, seen),
        reliability=Reliability(**reliability(said, seen)._asdict()),
    )


def _subgroups(one: Scored, repeats: Sequence[Repeat]) -> list[Subgroup]:
    """Return the change within each subgroup that has enough patients of each class."""
    site, found = one.site, []
    for by, groups in one.site.subgroups.items():
        for group in np.unique(groups):
            rows = groups == group
            counts = np.bincount(site.y[rows], minlength=2)
            gain = None
            if (counts >= MIN_CASES).all():
                probs = {
                    arm: np.stack([r.tested[arm][site.name].probs[rows] for r in repeats])
                    for arm in ("alone", "federated")
                }
                weights = one.weights[:, rows]
                samples = [auc_samples(p, site.y[rows], weights) for p in probs.values()]
                gain = _value(interval(samples[1] - samples[0]))
            shown = int(rows.sum()) if rows.sum() >= SMALL_CELL else None
            found.append(Subgroup(by=by, group=str(group), patients=shown, gain=gain))
    return found


def _rehearsal(one: Scored, repeats: Sequence[Repeat]) -> list[Rehearsal]:
    """Return what each fault of a peer cost this site in the first repeat."""
    first, name, found = repeats[0], one.site.name, []
    for fault, rehearsed in first.rehearsal.items():
        if name not in rehearsed.tested:
            continue
        unit = np.ones((1, len(one.site.y)))
        with_fault, without = (
            float(auc_samples(t.probs[None], one.site.y, unit)[0])
            for t in (rehearsed.tested[name], first.tested["federated"][name])
        )
        found.append(
            Rehearsal(
                fault=fault,
                culprit=rehearsed.culprit,
                cost=with_fault - without,
                set_aside=rehearsed.quarantined[name],
            )
        )
    return found


def _cost(
    study: Study,
    options: Options,
    plan: Plan,
    repeats: Sequence[Repeat],
    sites: Sequence[Site],
    prices: Prices,
) -> Cost:
    played = repeats[0].federation
    average = repeats[0].average
    payload = max(played.payload_bytes.values()) if played else 0
    messages = 2 * (len(study.sites) - 1) * plan.rounds
    hours = [
        sum(r.federation.seconds.values()) / len(study.sites) / options.folds / 3600
        for r in repeats
        if r.federation
    ]
    per_lending = float(np.mean(hours))
    compute = math.ceil(per_lending * 365)
    cost = prices.operator_hours * prices.operator_rate + compute * prices.compute_rate
    value = _value_of(sites, prices)
    returns = None
    if value is not None:
        returns = {
            site.name: _scaled(value[site.name], 1 / cost, -1)
            for site in sites
            if site.verdict == "gain"
        }
    return Cost(
        payload_bytes_per_head=payload,
        overhead_bytes_per_head=ENVELOPE_BYTES,
        heads_per_site=messages,
        payload_bytes_per_site_day=messages * payload,
        overhead_bytes_per_site_day=messages * ENVELOPE_BYTES,
        lendings_per_day=1.0,
        fedavg_bytes_per_site=_fedavg_bytes(plan) if average else None,
        compute_hours_per_site=per_lending,
        money=Money(
            currency=prices.currency,
            operator_hours_per_year=prices.operator_hours,
            operator_rate=prices.operator_rate,
            compute_rate=prices.compute_rate,
            cost_per_site_year=cost,
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


def _fedavg_bytes(plan: Plan) -> int:
    """Return the bytes of one site: the whole model up and down in every round, in fp32."""
    network = next(iter(plan.networks.values()))
    numbers = sum(p.numel() for m in (network.body, network.head) for p in m.parameters())
    return 2 * plan.average_rounds * 4 * numbers


def _fedavg_words(mean: Site, plan: Plan, repeats: Sequence[Repeat]) -> str | None:
    """Say how FedAvg did, and what it takes."""
    average, alone, federated = (mean.arms[a] for a in ("fedavg", "alone", "federated"))
    if average is None or alone is None or federated is None or repeats[0].federation is None:
        return None
    head = max(repeats[0].federation.payload_bytes.values())
    return (
        f"FedAvg reached {average.value:.3f} on average ({average.value - alone.value:+.3f} over "
        f"alone; borrowed heads {federated.value - alone.value:+.3f}). It needs a server that all "
        f"sites reach and trust in every one of {plan.average_rounds} rounds, one network for all, "
        f"and {_fedavg_bytes(plan):,} bytes a site; borrowed heads need {plan.rounds} round"
        f"{'s' if plan.rounds > 1 else ''}, no server, and {head:,} bytes a head."
    )


def _share_of_pooling(mean: Site) -> float | None:
    """Return how much of what pooling gains lending gains; null if pooling gains nothing."""
    pooled, alone, federated = (mean.arms[a] for a in ("pooled", "alone", "federated"))
    if pooled is None or alone is None or federated is None or pooled.value <= alone.value:
        return None
    return (federated.value - alone.value) / (pooled.value - alone.value)


def _warnings(study: Study, repeats: Sequence[Repeat], options: Options) -> list[str]:
    warnings = list(study.warnings)
    if not study.has_patients:
        warnings.append(
            "No patient column was named: every row was taken for a patient of its own. If "
            "patients have several rows, the same patient may have been trained and tested on."
        )
    if len(repeats) < options.repeats:
        warnings.append(
            f"Stopped early: {len(repeats)} of {options.repeats} repeats were played."
        )
    small = [
        site.name
        for site in study.sites
        if (options.train_rows or len(site.y)) < 100  # noqa: PLR2004 - as Dials.quarantine_rows
    ]
    if small:
        warnings.append(
            f"With fewer than 100 training rows ({', '.join(small)}) no single borrowed head can "
            f"be judged by its predictions: only its form, its norm and a cap on its weight "
            f"protect the site, and the guard sees large harm only."
        )
    return warnings


def _curves(curves: Sequence[dict[SiteId, list[float]]]) -> dict[str, Curve]:
    """Return mean curves over repeats, cut to the shortest."""
    found = {}
    for site in curves[0]:
        length = min(len(c[site]) for c in curves)
        y = np.mean([c[site][:length] for c in curves], axis=0)
        found[site] = Curve(x=[float(k) for k in range(length)], y=[float(v) for v in y])
    return found


def _mean_of(shares: Sequence[dict[SiteId, float]]) -> dict[str, float]:
    return {name: float(np.mean([s.get(name, 0.0) for s in shares])) for name in shares[0]}


def _value(i: Interval) -> Value:
    low, high = (None if math.isnan(v) else v for v in (i.low, i.high))
    return Value(value=i.value, low=low, high=high)

