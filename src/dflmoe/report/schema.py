"""The contract of ``report.json``: what a pilot writes and everything else reads.

Stable by ``schema_version``: fields are added, never renamed or given another meaning. A number
that cannot be had, or that would describe fewer than ``SMALL_CELL`` patients, is ``null``.
"""

from typing import Literal

from pydantic import BaseModel

SCHEMA_VERSION = "1.3"
SMALL_CELL = 5
"""Cells with fewer patients are not shown."""

ARM_NAMES = {
    "alone": "Alone",
    "federated": "With borrowed heads",
    "random_heads": "Control: random heads",
    "shuffled": "Control: peers trained on shuffled labels",
    "self": "Control: own bootstrap heads",
    "fedavg": "FedAvg (needs a server)",
    "pooled": "Pooled data (nobody may)",
}

Verdict = Literal[
    "gain", "capacity, not knowledge", "no gain shown", "harm", "too few cases", "not measured"
]


class Section(BaseModel, frozen=True, extra="forbid"):
    """A part of the report."""


class Value(Section):
    """A value with its 95 % interval over patients; the interval is null where there is none."""

    value: float
    low: float | None
    high: float | None


class Reliability(Section):
    """Said against seen frequency, in bins of equal numbers of rows."""

    said: list[float]
    seen: list[float]
    rows: list[int]


class Point(Section):
    """One arm at the operating points.

    ``sensitivity_there`` and ``specificity_there`` are at the threshold for the wanted specificity;
    ``calibrated_error`` is the calibration error after a temperature for each site.
    """

    sensitivity: Value | None
    specificity: Value | None
    brier: float
    calibration_error: float | None
    reliability: Reliability | None
    sensitivity_there: Value | None = None
    specificity_there: Value | None = None
    calibrated_error: float | None = None


class Subgroup(Section):
    """The change within a subgroup; null where it has too few patients of a class."""

    by: str
    group: str
    patients: int | None
    gain: Value | None


class Rehearsal(Section):
    """What a fault of one peer cost a site, against the same round without the fault."""

    fault: Literal["silent", "tampered", "poisoned"]
    culprit: str
    cost: float | None
    set_aside: float


class Safety(Section):
    """What a clinician asks before trusting a change."""

    operating_sensitivity: float
    alone: Point | None
    federated: Point | None
    newly_missed: float | None
    newly_found: float | None
    newly_alarmed: float | None
    newly_cleared: float | None
    net_correct_per_100: Value | None
    subgroups: list[Subgroup]
    fallback_share: float
    set_aside: dict[str, float]
    rehearsal: list[Rehearsal]
    operating_specificity: float | None = None


class Site(Section):
    """One site, or the mean of all."""

    name: str
    rows: int
    class_counts: dict[str, int | None]
    arms: dict[str, Value | None]
    gain: Value | None
    control_gain: Value | None
    best_control: str | None
    control_gains: dict[str, Value]
    within_split_gain: Value | None
    verdict: Verdict
    gate_share: dict[str, float]
    head_worth: dict[str, float] = {}
    logistic_share: float | None
    safety: Safety | None


class Money(Section):
    """A sum in the user's currency; value only if the user gave a figure per decision."""

    currency: str
    operator_hours_per_year: float
    operator_rate: float
    compute_rate: float
    cost_per_site_year: float
    value_per_decision: float | None
    decisions_per_year: int | None
    value_per_site_year: dict[str, Value] | None
    return_on_investment: dict[str, Value] | None


class Cost(Section):
    """What it takes to run."""

    payload_bytes_per_head: int
    overhead_bytes_per_head: int
    heads_per_site: int
    payload_bytes_per_site_day: int
    overhead_bytes_per_site_day: int
    lendings_per_day: float
    fedavg_bytes_per_site: int | None
    compute_hours_per_site: float
    money: Money


class Curve(Section):
    """Out-of-fold log-loss over training, or scores over rows."""

    x: list[float]
    y: list[float]


class RowsPoint(Section):
    """One point of the gain against the number of labelled rows."""

    train_rows: int
    alone: Value
    federated: Value
    pooled: Value | None
    gain: Value


class Operation(Section):
    """What a node measured while it ran: how it went, whatever came of it.

    ``peers`` says of each other site how far it got: known, reachable, authenticated, lending,
    used; ``missing`` why one did not contribute.
    """

    site: str
    rounds: int
    sent_bytes: int
    received_bytes: int
    peers: dict[str, str]
    missing: dict[str, str]
    refused: int
    outages: list[str]
    seconds: dict[str, float]
    audit_head: str | None


class Report(Section):
    """A whole pilot."""

    schema_version: str = SCHEMA_VERSION
    title: str
    task: str
    classes: list[str]
    metric: str
    mode: str
    seed: int
    folds: int
    repeats: int
    repeats_done: int
    rounds: int
    train_rows: int | None
    patients_named: bool
    partial: bool
    choices: list[str]
    warnings: list[str]
    sites: list[Site]
    mean: Site
    pooled_share: float | None
    fedavg_words: str | None
    training_curves: dict[str, Curve]
    fedavg_curves: dict[str, Curve]
    rows_curve: list[RowsPoint]
    cost: Cost
    seconds: float
    versions: dict[str, str]
    only_split: int | None = None
    wire_dtype: str = "fp32"
    operation: list[Operation] = []
