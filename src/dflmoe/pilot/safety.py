"""What borrowed heads change for patients: operating point, calibration, subgroups, faults."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.study import SiteRows, Study
from dflmoe.metrics.clinical import brier, calibration_error, reliability
from dflmoe.metrics.resampling import auc_samples, interval
from dflmoe.pilot.arms import Repeat
from dflmoe.pilot.plan import Options
from dflmoe.pilot.scores import Floats, Scored, means, value
from dflmoe.report.schema import SMALL_CELL, Point, Rehearsal, Reliability, Safety, Subgroup, Value
from dflmoe.report.verdict import MIN_CASES


class _Moved(NamedTuple):
    """Patients whose decision changes, on average over repeats."""

    missed: float | None = None
    found: float | None = None
    alarmed: float | None = None
    cleared: float | None = None


def _moved(site: SiteRows, repeats: Sequence[Repeat]) -> _Moved:
    positive = site.y == 1
    before, after = (
        np.stack([r.tested[arm][site.name].flagged for r in repeats])
        for arm in ("alone", "federated")
    )
    changes = (
        before & ~after & positive,
        ~before & after & positive,
        ~before & after & ~positive,
        before & ~after & ~positive,
    )
    return _Moved(*(float(change.sum(1).mean()) for change in changes))


def safety(study: Study, options: Options, one: Scored, repeats: Sequence[Repeat]) -> Safety:
    """Return what changes for the patients of one site."""
    site = one.site
    two = len(study.classes) == 2  # noqa: PLR2004 - an operating point
    moved = _moved(site, repeats) if two else _Moved()
    return Safety(
        operating_sensitivity=options.sensitivity,
        alone=_point(one, repeats, "alone", two=two),
        federated=_point(one, repeats, "federated", two=two),
        newly_missed=moved.missed,
        newly_found=moved.found,
        newly_alarmed=moved.alarmed,
        newly_cleared=moved.cleared,
        net_correct_per_100=None if one.net_correct is None else value(interval(one.net_correct)),
        subgroups=_subgroups(one, repeats),
        fallback_share=1 - float(np.mean([r.used[site.name] for r in repeats])),
        set_aside=means([r.quarantined[site.name] for r in repeats]),
        rehearsal=_rehearsal(one, repeats),
        operating_specificity=options.specificity,
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
    cautious = np.mean([t.cautious for t in tested], axis=0)

    def rate(right: Floats, rows: NDArray[np.bool_]) -> Value | None:
        if rows.sum() < SMALL_CELL:
            return None
        weights = one.weights[:, rows]
        return value(interval(weights @ right[rows] / weights.sum(1)))

    said = np.concatenate([t.probs[:, 1] for t in tested])
    seen = np.tile(positive, len(tested))
    return Point(
        sensitivity=rate(flagged, positive),
        specificity=rate(1 - flagged, ~positive),
        brier=quality,
        calibration_error=calibration_error(said, seen),
        reliability=Reliability(**reliability(said, seen)._asdict()),
        sensitivity_there=rate(cautious, positive),
        specificity_there=rate(1 - cautious, ~positive),
        calibrated_error=calibration_error(np.concatenate([t.calibrated for t in tested]), seen),
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
                gain = value(interval(samples[1] - samples[0]))
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
