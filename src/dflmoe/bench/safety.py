"""No worse than alone: what a guard let through and what it cost, over all sites and seeds."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from dflmoe.bench.experiment import RunSetting
from dflmoe.bench.methods import LOCAL
from dflmoe.bench.record import RunRecord
from dflmoe.tasks import UNITS

RESAMPLES = 2000
WORSE, TRULY = 2.0, 2.0
"""Points by which a site counts as worse than alone, and as truly gaining without a guard."""


class Safety(BaseModel, frozen=True, extra="forbid"):
    """Changes against alone in points, over tasks, sites and seeds; images' dB are left out.

    Attributes:
        method: Whose.
        cases: Sites times seeds, under each condition.
        sites: Sites of all tasks; what a site does under one condition goes with the others.
        mean: Mean change.
        fifth: The change that one case in twenty falls below.
        worse: Share of cases that are worse than alone by more than two points.
        worse_at_most: Its one-sided 95 % bound, over sites.
        gaining: Sites where the mixture without a guard gains two points or more, over seeds; once
            for each condition.
        kept: How much of that the guard keeps; ``None`` if there is no such site, or the records
            do not have it.
    """

    method: str
    cases: int
    sites: int
    mean: float
    fifth: float
    worse: float
    worse_at_most: float
    gaining: int
    kept: float | None


def part_by_part(records: Sequence[RunRecord], method: str) -> list[tuple[RunSetting, Safety]]:
    """Return the same for each task and condition, each over the sites that all conditions have.

    So a condition in which a site leaves or lies is compared with the others on the same sites.

    Returns:
        The setting of one run of each part, and how the method did there.
    """
    parts: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        if record.status == "done":
            where = record.setting.task_name, record.setting.condition.name
            parts.setdefault(where, []).append(record)
    common: dict[str, set[str]] = {}
    for (task, _), part in parts.items():
        names = {site.name for record in part for site in record.sites}
        common[task] = common.get(task, names) & names
    found = []
    for (task, _), part in parts.items():
        same = [
            r.model_copy(update={"sites": tuple(s for s in r.sites if s.name in common[task])})
            for r in part
        ]
        one = safety(same, method)
        if one is not None:
            found.append((part[0].setting, one))
    return found


def safety(records: Sequence[RunRecord], method: str) -> Safety | None:
    """Return how a method did against alone, run by run; ``None`` if there is nothing to compare.

    Args:
        records: Of an experiment, all methods.
        method: With a guard.
    """
    runs = {
        (r.setting.task_name, r.setting.condition.name, r.setting.seed, r.setting.method): r
        for r in records
        if r.status == "done" and UNITS[r.metric] > 1
    }
    served: dict[tuple[str, str, str], list[float]] = {}
    unguarded: dict[tuple[str, str, str], list[float]] = {}
    known = True
    for (task, condition, seed, played), run in runs.items():
        alone = runs.get((task, condition, seed, LOCAL))
        if played != method or alone is None:
            continue
        before = {site.name: site.value for site in alone.sites}
        for site in run.sites:
            key, unit = (task, condition, site.name), UNITS[run.metric]
            known = known and (site.unguarded is not None or site.heads_used is None)
            free = site.value if site.unguarded is None else site.unguarded
            served.setdefault(key, []).append(unit * (site.value - before[site.name]))
            unguarded.setdefault(key, []).append(unit * (free - before[site.name]))
    if not served:
        return None
    every = np.concatenate([np.array(v) for v in served.values()])
    by_site: dict[tuple[str, str], list[float]] = {}
    for (task, _, name), changes in served.items():
        by_site.setdefault((task, name), []).extend(changes)
    worse = np.array([(np.array(v) < -WORSE).sum() for v in by_site.values()])
    count = np.array([len(v) for v in by_site.values()])
    drawn = np.random.default_rng(0).integers(len(count), size=(RESAMPLES, len(count)))
    shares = worse[drawn].sum(1) / count[drawn].sum(1)
    gains = {key: (np.mean(served[key]), np.mean(v)) for key, v in unguarded.items()}
    truly = [(kept, free) for kept, free in gains.values() if known and free >= TRULY]
    return Safety(
        method=method,
        cases=len(every),
        sites=len(by_site),
        mean=round(float(every.mean()), 3),
        fifth=round(float(np.quantile(every, 0.05)), 3),
        worse=round(float(worse.sum() / count.sum()), 4),
        worse_at_most=round(float(np.quantile(shares, 0.95)), 4),
        gaining=len(truly),
        kept=round(sum(k for k, _ in truly) / sum(f for _, f in truly), 4) if truly else None,
    )
