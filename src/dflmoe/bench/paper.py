"""The paper's tables, ours beside what was published, and how all methods stand over them.

Methods are ranked by how many others they score above. That leaves out intervals, so wins, ties and
losses, which do not, stand beside it. Controls are no methods and have no rank.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
from pydantic import BaseModel

from dflmoe.bench.methods import LOCAL, is_control, title
from dflmoe.bench.summary import Figure, MethodRow, Summary
from dflmoe.toml import toml_of


class PublishedTable(BaseModel, frozen=True, extra="forbid"):
    """A table of the paper, or a column of one, and what plays it here.

    Attributes:
        title: What it shows.
        experiment: The experiment here.
        task: Its task.
        condition: Its condition.
        scores: Published scores by method, in points or dB.
        remark: Where the published protocol leaks, or a number repeats.
    """

    title: str
    experiment: str
    task: str
    condition: str = ""
    scores: dict[str, float]
    remark: str


class Published(BaseModel, frozen=True, extra="forbid"):
    """What the paper reports.

    Attributes:
        experiments: Those that play all of it, in order.
        ranked: Those whose tables methods are ranked over.
        tables: Its tables.
    """

    experiments: tuple[str, ...]
    ranked: tuple[str, ...]
    tables: tuple[PublishedTable, ...]


class Cell(BaseModel, frozen=True, extra="forbid"):
    """One method in one table.

    Attributes:
        method: Its title.
        published: The published score.
        published_gain: The same minus the published local only, where there is one.
        score: Ours; ``None`` where it was not played.
        gain: The same minus local only, paired.
        seeds: That ours is of.
    """

    method: str
    published: float
    published_gain: float | None
    score: Figure | None
    gain: Figure | None
    seeds: int


class Beside(BaseModel, frozen=True, extra="forbid"):
    """A published table, and ours beside it.

    Attributes:
        title: Of the published table.
        played: What was played; ``None`` where nothing was.
        stands_for: The set that was not at hand, if another was played.
        unit: 100 for points, 1 for dB.
        metric: What is scored.
        cells: The methods that were published.
        ours: What `auto` plays, and its controls.
        remark: On the published protocol.
    """

    title: str
    played: str | None
    stands_for: str | None
    unit: float
    metric: str
    cells: tuple[Cell, ...]
    ours: tuple[MethodRow, ...]
    remark: str


class Standing(BaseModel, frozen=True, extra="forbid"):
    """How a method stands over the tables of an experiment.

    Attributes:
        title: Its name for people.
        rank: By the next, 1 is best.
        above: Share of the others that it scores above, in 0..1, the mean over its tables; a tie
            counts a half.
        tables: As many.
        wins: Tables where ours is better.
        ties: Tables where no difference is shown.
        losses: Tables where ours is worse.
        site_bytes: Bytes that a site sent, the geometric mean over tables; 0 if none.
        needs: What it needs that lending heads does not.
    """

    title: str
    rank: int
    above: float
    tables: int
    wins: int
    ties: int
    losses: int
    site_bytes: float
    needs: tuple[str, ...]


class Standings(BaseModel, frozen=True, extra="forbid"):
    """All methods over the tables of some experiment, the best first."""

    name: str
    title: str
    tables: tuple[str, ...]
    rows: tuple[Standing, ...]

    @property
    def wins(self) -> int:
        """In how many comparisons ours is better."""
        return sum(row.wins for row in self.rows)

    @property
    def ties(self) -> int:
        """In how many comparisons no difference is shown."""
        return sum(row.ties for row in self.rows)

    @property
    def losses(self) -> int:
        """In how many comparisons ours is worse."""
        return sum(row.losses for row in self.rows)


class PaperSummary(BaseModel, frozen=True, extra="forbid"):
    """The paper's tables; the contract of the JSON beside the page."""

    format: int = 1
    quick: bool
    played: int
    planned: int
    failures: int
    ours: str
    beside: tuple[Beside, ...]
    standings: tuple[Standings, ...]
    experiments: dict[str, str]
    compute_hours: float


def published() -> Published:
    """Return what the paper reports."""
    text = (files("dflmoe.bench") / "paper.toml").read_text(encoding="utf-8")
    return Published.model_validate(toml_of(text))


def beside(summaries: Mapping[str, Summary]) -> PaperSummary:
    """Return ours beside what was published.

    Args:
        summaries: Of the experiments, by name.
    """
    paper = published()
    every = list(summaries.values())
    return PaperSummary(
        quick=any(summary.quick for summary in every),
        played=sum(row.seeds for s in every for table in s.tables for row in table.rows),
        planned=sum(summary.planned for summary in every),
        failures=sum(len(summary.failures) for summary in every),
        ours=every[0].reference,
        beside=tuple(_beside(table, summaries) for table in paper.tables),
        standings=tuple(
            standings(summaries[name]) for name in paper.ranked if summaries[name].tables
        ),
        experiments={name: summary.title for name, summary in summaries.items()},
        compute_hours=sum(summary.compute_hours for summary in every),
    )


def _beside(wanted: PublishedTable, summaries: Mapping[str, Summary]) -> Beside:
    found = [
        table
        for table in summaries[wanted.experiment].tables
        if (table.task, table.condition) == (wanted.task, wanted.condition)
    ]
    table = found[0] if found else None
    rows = {row.method: row for row in table.rows} if table else {}
    alone = wanted.scores.get(LOCAL)
    return Beside(
        title=wanted.title,
        played=table.title if table else None,
        stands_for=table.stands_for if table else None,
        unit=table.unit if table else 1,
        metric=table.metric if table else "",
        cells=tuple(
            Cell(
                method=title(method),
                published=score,
                published_gain=None if alone is None or method == LOCAL else score - alone,
                score=rows[method].score if method in rows else None,
                gain=rows[method].gain if method in rows else None,
                seeds=rows[method].seeds if method in rows else 0,
            )
            for method, score in wanted.scores.items()
        ),
        ours=tuple(row for method, row in rows.items() if method.startswith("rounds")),
        remark=wanted.remark,
    )


def standings(summary: Summary) -> Standings:
    """Return how methods stand over the tables of an experiment.

    Args:
        summary: Of the experiment; each of its tables counts the same.
    """
    above: dict[str, list[float]] = {}
    rows: dict[str, list[MethodRow]] = {}
    for table in summary.tables:
        methods = [row for row in table.rows if not is_control(row.method)]
        for row, share in zip(methods, _above([row.score.value for row in methods]), strict=True):
            above.setdefault(row.method, []).append(share)
            rows.setdefault(row.method, []).append(row)
    found = sorted(above, key=lambda method: -float(np.mean(above[method])))
    return Standings(
        name=summary.name,
        title=summary.title,
        tables=tuple(table.title for table in summary.tables),
        rows=tuple(_standing(k + 1, above[method], rows[method]) for k, method in enumerate(found)),
    )


def _above(scores: Sequence[float]) -> list[float]:
    """Return for each score the share of the others that it is above; a tie counts a half."""
    values = np.asarray(scores)
    over = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2
    return [float(count) for count in over / max(1, len(values) - 1)]


def _standing(rank: int, above: Sequence[float], rows: Sequence[MethodRow]) -> Standing:
    verdicts = [row.verdict for row in rows]
    sent = [row.site_bytes for row in rows]
    return Standing(
        title=rows[0].title,
        rank=rank,
        above=round(float(np.mean(above)), 4),
        tables=len(rows),
        wins=verdicts.count("worse"),
        ties=verdicts.count("level"),
        losses=verdicts.count("better"),
        site_bytes=float(np.exp(np.mean(np.log(sent)))) if all(sent) else 0.0,
        needs=rows[0].needs,
    )
