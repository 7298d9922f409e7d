"""From records to tables: means, intervals, what is better than what, and what it cost."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from pydantic import BaseModel

from dflmoe.bench.experiment import Experiment, RunSetting
from dflmoe.bench.methods import LOCAL, needs, paper, title
from dflmoe.bench.record import RunRecord, SiteScore
from dflmoe.bench.safety import Safety, part_by_part, safety
from dflmoe.metrics.crossed import Floats, Resamples, resamples, score_samples
from dflmoe.metrics.resampling import interval
from dflmoe.tasks import UNITS

RESAMPLES = 2000
Verdict = Literal["better", "worse", "level"]


class Figure(BaseModel, frozen=True, extra="forbid"):
    """A number with its 95 % interval over patients and seeds."""

    value: float
    low: float | None
    high: float | None


class MethodRow(BaseModel, frozen=True, extra="forbid"):
    """What one method reached on one task.

    Attributes:
        method: Its name in files.
        title: Its name for people.
        paper: Where it was published.
        needs: What it needs that lending heads does not.
        score: Mean over sites and seeds, in the task's unit.
        gain: The same minus local only, paired; ``None`` for local only itself.
        against: The same minus the method that all are compared with; ``None`` for that one.
        verdict: How it compares with that method: by whether the interval leaves out zero.
        loss_gain: The loss of local only minus this method's, paired; above zero is better.
        unguarded: The score if the mixture served everywhere.
        leak: AUROC of the attack that tells most of who was among the training rows, from all that
            was lent; 0.5 tells nothing. Its interval is over patients; seeds count as one.
        attack: Which one that is.
        scores: Means of further scores.
        site_bytes: Bytes that a site, and its share of a server, sent in the whole run.
        rounds: Rounds.
        heads_used: Share of sites and seeds in which borrowed heads serve.
        seconds: Of one run, without what other methods of the comparison had computed before.
        seeds: Seeds that were played to the end.
    """

    method: str
    title: str
    paper: str
    needs: tuple[str, ...]
    score: Figure
    gain: Figure | None
    against: Figure | None
    verdict: Verdict | None
    loss_gain: Figure | None = None
    unguarded: float | None = None
    leak: Figure | None = None
    attack: str = ""
    scores: dict[str, float | None]
    site_bytes: float
    rounds: int
    heads_used: float | None
    seconds: float
    seeds: int


class TaskTable(BaseModel, frozen=True, extra="forbid"):
    """One task under one condition.

    Attributes:
        settled: How often the network trained alone stopped by itself before its steps ran out.
            Where it often did not, training longer gains too, and a gain over local only is not yet
            knowledge of the peers.
        stands_for: The set that was not at hand, where this one was played in its place.
    """

    task: str
    title: str
    condition: str
    metric: str
    unit: float
    grouped_by: str
    sites: int
    train_rows: int
    public_rows: int
    networks: tuple[str, ...]
    patients: int
    settled: float | None = None
    stands_for: str | None = None
    rows: tuple[MethodRow, ...]

    @property
    def shows_loss(self) -> bool:
        """Whether the records have losses, and scores without a guard."""
        return any(row.loss_gain for row in self.rows)

    @property
    def shows_leak(self) -> bool:
        """Whether anything that was lent was attacked."""
        return any(row.leak for row in self.rows)

    @property
    def heading(self) -> str:
        """The task and, if there is one, the condition."""
        return " · ".join(filter(None, (self.title, self.condition)))


def unit_name(table: TaskTable) -> str:
    """Return the metric with its unit."""
    return f"{table.metric}, points" if table.unit > 1 else f"{table.metric}, dB"


class Failure(BaseModel, frozen=True, extra="forbid"):
    """A run that failed."""

    label: str
    reason: str


class SafetyOf(BaseModel, frozen=True, extra="forbid"):
    """No worse than alone, of one task under one condition."""

    title: str
    condition: str
    safety: Safety


class Summary(BaseModel, frozen=True, extra="forbid"):
    """An experiment's results; the contract of the JSON beside the page."""

    format: Literal[1] = 1
    name: str
    title: str
    question: str
    reference: str
    quick: bool
    planned: int
    tables: tuple[TaskTable, ...]
    safety: Safety | None = None
    safety_of: tuple[SafetyOf, ...] = ()
    failures: tuple[Failure, ...]
    software: tuple[str, ...]
    compute_hours: float


def summarise(
    experiment: Experiment, settings: Sequence[RunSetting], records: Sequence[RunRecord]
) -> Summary:
    """Return the tables of an experiment from the records that are there.

    Args:
        experiment: What was asked.
        settings: The runs that were planned.
        records: Those that have been played, of these very settings.
    """
    done = [record for record in records if record.status == "done"]
    tasks = list(dict.fromkeys(s.task_name for s in settings))
    conditions = list(dict.fromkeys(s.condition.name for s in settings))

    def place(record: RunRecord) -> tuple[int, int]:
        setting = record.setting
        return tasks.index(setting.task_name), conditions.index(setting.condition.name)

    tables = [
        _table(list(part), experiment.reference)
        for _, part in groupby(sorted(done, key=place), key=place)
    ]
    software = {
        ", ".join(f"{k} {v}" for k, v in {"dflmoe": r.setting.version, **r.software}.items())
        for r in done
    }
    return Summary(
        name=experiment.name,
        title=experiment.title,
        question=experiment.question,
        reference=title(experiment.reference),
        quick=any(setting.quick for setting in settings),
        planned=len(settings),
        tables=tuple(tables),
        safety=safety(done, experiment.reference),
        safety_of=tuple(
            SafetyOf(title=s.task.title, condition=s.condition.name, safety=found)
            for s, found in part_by_part(sorted(done, key=place), experiment.reference)
        ),
        failures=tuple(
            Failure(label=r.setting.label, reason=r.reason) for r in records if r.status == "failed"
        ),
        software=tuple(sorted(software)),
        compute_hours=sum(record.seconds for record in records) / 3600,
    )


def _table(records: Sequence[RunRecord], reference: str) -> TaskTable:
    """Return the table of one task under one condition."""
    first = records[0]
    by_method: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        by_method.setdefault(record.setting.method, {})[record.setting.seed] = record
    patients = {p for record in records for site in record.sites for p in site.groups}
    unit = UNITS[first.metric]
    compared = _Compared(by_method, sorted(patients), unit)
    return TaskTable(
        task=first.setting.task_name,
        title=first.setting.task.title,
        condition=first.setting.condition.name,
        metric=first.metric,
        unit=unit,
        grouped_by=first.grouped_by,
        sites=len(first.sites),
        train_rows=int(np.median([site.train_rows for site in first.sites])),
        public_rows=first.public_rows,
        networks=tuple(dict.fromkeys(site.network for site in first.sites)),
        patients=len(patients),
        settled=_settled(by_method.get(LOCAL, {})),
        stands_for=first.setting.task.stands_for,
        rows=tuple(_row(method, compared, reference) for method in by_method),
    )


def _settled(runs: Mapping[int, RunRecord]) -> float | None:
    """Return how often a network trained alone stopped by itself; ``None`` if nobody noted it."""
    noted = [s.settled for run in runs.values() for s in run.sites if s.settled is not None]
    return float(np.mean(noted)) if noted else None


class _Compared:
    """The scores of all methods in the same resamples, each computed once.

    Args:
        runs: By method and seed.
        patients: All that any of them was tested on.
        unit: That scores are multiplied by.
    """

    def __init__(
        self, runs: dict[str, dict[int, RunRecord]], patients: Sequence[int], unit: float
    ) -> None:
        self.runs, self._patients, self._unit = runs, patients, unit
        self._draws: dict[int, Resamples] = {}
        self._samples: dict[tuple[str, tuple[int, ...], str], Floats] = {}

    def score(self, method: str) -> Figure:
        """Return the score of a method."""
        return _figure(self._of(method, tuple(sorted(self.runs[method]))))

    def difference(self, method: str, other: str) -> Figure | None:
        """Return a method's score minus another's on the seeds that both have; paired."""
        if method == other or other not in self.runs:
            return None
        seeds = tuple(sorted(self.runs[method].keys() & self.runs[other].keys()))
        return _figure(self._of(method, seeds) - self._of(other, seeds)) if seeds else None

    def unguarded(self, method: str) -> float | None:
        """Return the score without a guard; ``None`` where there is none, or no record of it."""
        runs = [run.sites for run in self.runs[method].values()]
        if all(site.unguarded is None for sites in runs for site in sites):
            return None
        means = [
            np.mean([s.value if s.unguarded is None else s.unguarded for s in sites])
            for sites in runs
        ]
        return round(self._unit * float(np.mean(means)), 4)

    def loss_saved(self, method: str) -> Figure | None:
        """Return the loss of local only minus a method's; paired."""
        if method == LOCAL or LOCAL not in self.runs:
            return None
        seeds = tuple(sorted(self.runs[method].keys() & self.runs[LOCAL].keys()))
        runs = [self.runs[name][seed] for name in (method, LOCAL) for seed in seeds]
        if not seeds or not all(site.losses for run in runs for site in run.sites):
            return None
        return _figure(self._of(LOCAL, seeds, "losses") - self._of(method, seeds, "losses"))

    def _of(self, method: str, seeds: tuple[int, ...], what: str = "groups") -> Floats:
        key = (method, seeds, what)
        if key not in self._samples:
            by_seed = [
                [_sums(site, what) for site in self.runs[method][seed].sites] for seed in seeds
            ]
            samples = score_samples(by_seed, self._drawn(len(seeds)))
            self._samples[key] = samples * (self._unit if what == "groups" else 1)
        return self._samples[key]

    def _drawn(self, seeds: int) -> Resamples:
        if seeds not in self._draws:
            rng = np.random.default_rng(0)
            self._draws[seeds] = resamples(self._patients, seeds, RESAMPLES, rng)
        return self._draws[seeds]


def _sums(site: SiteScore, what: str) -> Mapping[int, tuple[float, int]]:
    """Return the sum of a score, or of the loss, and the rows of each patient."""
    if what == "groups":
        return site.groups
    return {p: (site.losses[p], rows) for p, (_, rows) in site.groups.items()}


def _row(method: str, compared: _Compared, reference: str) -> MethodRow:
    """Return the row of one method; it is compared on the seeds that both have."""
    runs = compared.runs[method]
    against = compared.difference(method, reference)
    names = next(iter(runs.values())).sites[0].scores
    attack, leak = _leak(runs)
    used = [s.heads_used for r in runs.values() for s in r.sites if s.heads_used is not None]
    return MethodRow(
        method=method,
        title=title(method),
        paper=paper(method),
        needs=needs(method),
        score=compared.score(method),
        gain=compared.difference(method, LOCAL),
        against=against,
        verdict=None if against is None else _verdict(against),
        loss_gain=compared.loss_saved(method),
        unguarded=compared.unguarded(method),
        leak=leak,
        attack=attack,
        scores={name: _mean_of(runs, name) for name in names},
        site_bytes=float(np.mean([r.moved_bytes / len(r.sites) for r in runs.values()])),
        rounds=next(iter(runs.values())).rounds,
        heads_used=float(np.mean(used)) if used else None,
        seconds=float(np.median([r.seconds for r in runs.values()])),
        seeds=len(runs),
    )


def _leak(runs: Mapping[int, RunRecord]) -> tuple[str, Figure | None]:
    """Return the attack that tells most, averaged over sites and seeds."""
    told = [[site.leaks for site in run.sites if site.leaks] for run in runs.values()]
    every = [run for run in told if run]
    sites = [site for run in every for site in run]
    attacks = [name for name in (sites[0] if sites else ()) if all(name in s for s in sites)]
    found: dict[str, Figure] = {}
    for attack in attacks:
        areas = [site[attack].area for site in sites]
        errors = [np.sqrt(sum(site[attack].error ** 2 for site in run)) / len(run) for run in every]
        area, reach = float(np.mean(areas)), 1.96 * float(np.mean(errors))
        found[attack] = Figure(
            value=round(area, 4), low=round(area - reach, 4), high=round(area + reach, 4)
        )
    if not found:
        return "", None
    attack = max(found, key=lambda name: found[name].value)
    return attack, found[attack]


def _figure(samples: Floats) -> Figure:
    found = interval(samples)
    low, high = (None if np.isnan(v) else round(v, 4) for v in (found.low, found.high))
    return Figure(value=round(found.value, 4), low=low, high=high)


def _verdict(difference: Figure) -> Verdict:
    """Return how a method compares, by whether the interval leaves out zero."""
    if difference.low is None or difference.high is None:
        return "level"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "level"


def _mean_of(runs: dict[int, RunRecord], name: str) -> float | None:
    values = [v for r in runs.values() for site in r.sites if (v := site.scores[name]) is not None]
    return round(float(np.mean(values)), 4) if values else None
