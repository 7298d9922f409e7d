"""From what every arm said of every row to the numbers of the report."""

from collections.abc import Sequence
from importlib import metadata
from platform import python_version

import numpy as np

from dflmoe.data.study import Study
from dflmoe.metrics.resampling import interval
from dflmoe.pilot.arms import ARMS, CONTROLS, Repeat, tested_only
from dflmoe.pilot.cost import Prices, cost, fedavg_words
from dflmoe.pilot.plan import Options, Plan
from dflmoe.pilot.safety import safety
from dflmoe.pilot.scores import Floats, Scored, means, score, value
from dflmoe.report.schema import SMALL_CELL, Curve, Operation, Report, RowsPoint, Safety, Site
from dflmoe.report.verdict import verdict
from dflmoe.types import SiteId


def report(
    study: Study,
    options: Options,
    plan: Plan,
    repeats: Sequence[Repeat],
    *,
    seconds: float,
    prices: Prices | None = None,
    rows_curve: Sequence[RowsPoint] = (),
    operation: Sequence[Operation] = (),
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
        operation: What nodes measured, where nodes played.
    """
    shown, seen = tested_only(study, repeats)
    scored = score(shown, options, seen)
    sites = [_site(shown, options, one, seen) for one in scored]
    mean = _mean(shown, scored, sites)
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
        warnings=_warnings(study, repeats, options, plan),
        sites=sites,
        mean=mean,
        pooled_share=_share_of_pooling(mean),
        fedavg_words=fedavg_words(mean, plan, repeats),
        training_curves=_curves([r.curves for r in repeats]),
        fedavg_curves=_curves([r.average_curve for r in repeats]),
        rows_curve=list(rows_curve),
        cost=cost(study, options, plan, repeats=repeats, sites=sites, prices=prices or Prices()),
        seconds=seconds,
        versions={
            name: metadata.version(name)
            for name in ("dflmoe", "torch", "numpy", "scikit-learn", "scipy")
        }
        | {"python": python_version()},
        only_split=options.only_split,
        wire_dtype=options.dtype,
        operation=list(operation),
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
        alone=value(interval(mean("alone"))),
        federated=value(interval(mean("federated"))),
        pooled=value(interval(mean("pooled"))) if "pooled" in scored[0].arms else None,
        gain=value(interval(mean("federated") - mean("alone"))),
    )


def _site(study: Study, options: Options, one: Scored, repeats: Sequence[Repeat]) -> Site:
    counts = np.bincount(one.site.y, minlength=len(study.classes))
    name = one.site.name
    return _compared(
        one.arms,
        one.within,
        name=name,
        fewest=int(counts[counts > 0].min()),
        class_counts={
            c: int(n) if n >= SMALL_CELL or n == 0 else None
            for c, n in zip(study.classes, counts, strict=True)
        },
        rows=len(one.site.y),
        gate_share=means([r.shares[name] for r in repeats]),
        head_worth=means([r.worth[name] for r in repeats]),
        logistic_share=float(np.mean([r.chosen[name] for r in repeats])),
        safe=safety(study, options, one, repeats),
    )


def _mean(study: Study, scored: Sequence[Scored], sites: Sequence[Site]) -> Site:
    """Return the mean over sites, in the shape of one site."""
    arms = set.intersection(*(set(one.arms) for one in scored))
    counts = np.sum([np.bincount(s.y, minlength=len(study.classes)) for s in study.sites], axis=0)
    own = float(np.mean([site.gate_share[site.name] for site in sites]))
    return _compared(
        {arm: np.mean([one.arms[arm] for one in scored], axis=0) for arm in arms},
        {arm: np.mean([one.within[arm] for one in scored], axis=0) for arm in arms},
        name="mean of sites",
        fewest=int(counts[counts > 0].min()),
        class_counts={c: int(n) for c, n in zip(study.classes, counts, strict=True)},
        rows=sum(site.rows for site in sites),
        gate_share={"own": own, "peers": 1 - own},
        head_worth={},
        logistic_share=None,
        safe=None,
    )


def _compared(
    arms: dict[str, Floats],
    within: dict[str, Floats],
    *,
    name: str,
    fewest: int,
    class_counts: dict[str, int | None],
    rows: int,
    gate_share: dict[str, float],
    head_worth: dict[str, float],
    logistic_share: float | None,
    safe: Safety | None,
) -> Site:
    """Return a site with its arms compared."""
    gain = interval(arms["federated"] - arms["alone"])
    controls = [arm for arm in CONTROLS if arm in arms]
    best = max(controls, key=lambda arm: float(arms[arm][0])) if controls else None
    over = {arm: interval(arms["federated"] - arms[arm]) for arm in controls}
    control_gain = over[best] if best else None
    return Site(
        name=name,
        rows=rows,
        class_counts=class_counts,
        arms={arm: value(interval(arms[arm])) if arm in arms else None for arm in ARMS},
        gain=value(gain),
        control_gain=value(control_gain) if control_gain else None,
        best_control=best,
        control_gains={arm: value(i) for arm, i in over.items()},
        within_split_gain=value(interval(within["federated"] - within["alone"])),
        verdict=verdict(gain, control_gain, fewest)
        if len(controls) == len(CONTROLS)
        else "not measured",
        gate_share=gate_share,
        head_worth=head_worth,
        logistic_share=logistic_share,
        safety=safe,
    )


def _warnings(study: Study, repeats: Sequence[Repeat], options: Options, plan: Plan) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    warnings = list(study.warnings)
    if not study.has_patients:
        warnings.append(
            "No patient column was named: every row was taken for a patient of its own. If "
            "patients have several rows, the same patient may have been trained and tested on."
        )
    if len(repeats) < options.repeats:
        warnings.append(f"Stopped early: {len(repeats)} of {options.repeats} repeats were played.")
    if options.precision != "fp32":
        warnings.append(
            f"Bodies computed in {options.precision}: numbers differ from those of fp32 by more "
            f"than rounding; play the final study without --precision."
        )
    if not all(arm in repeats[0].tested for arm in CONTROLS):
        warnings.append(
            "A first look: one control of three was played, and neither FedAvg nor pooled data. "
            "There is no verdict; play the pilot without --quick before anything is decided."
        )
    small = [
        site.name
        for site in study.sites
        if min(options.train_rows or len(site.y), len(site.y) * (1 - 1 / options.folds))
        < plan.dials.quarantine_rows
    ]
    if small:
        warnings.append(
            f"With fewer than {plan.dials.quarantine_rows} training rows ({', '.join(small)}) "
            f"no single borrowed head can "
            f"be judged by its predictions: only its form, its norm and a cap on its weight "
            f"protect the site, and the guard sees large harm only."
        )
    worths = [means([r.worth[site.name] for r in repeats]) for site in study.sites]
    for lender in (site.name for site in study.sites):
        found = [worth[lender] for worth in worths if lender in worth]
        if found and max(found) <= 0:
            warnings.append(
                f"The head lent by {lender} helped nobody: without it every other site's mixture "
                f"would have been as good or better out of fold."
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


def _share_of_pooling(mean: Site) -> float | None:
    """Return how much of what pooling gains lending gains; null if pooling gains nothing."""
    pooled, alone, federated = (mean.arms[a] for a in ("pooled", "alone", "federated"))
    if pooled is None or alone is None or federated is None or pooled.value <= alone.value:
        return None
    return (federated.value - alone.value) / (pooled.value - alone.value)
