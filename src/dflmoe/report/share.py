"""What a site tells a consortium of itself: scores, weights, bytes; no row, and no small cell."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from dflmoe.errors import EnvelopeError, ShareError
from dflmoe.metrics.resampling import Interval
from dflmoe.report.schema import Operation, Report, Site, Value, Verdict
from dflmoe.report.verdict import MIN_CASES, verdict
from dflmoe.wire.manifest import Band, Count, Digest, Document, FederationId, band

SHARE = "application/vnd.dflmoe.share.v1+json"
"""The kind of a shared report's envelope."""

SMALL = 5
"""Fewer patients than this stand in no cell that leaves a site."""

Name = Annotated[str, Field(min_length=1, max_length=100)]
Words = Annotated[str, Field(max_length=300)]
Number = Annotated[float, Field(allow_inf_nan=False)]
State = Literal["known", "reachable", "authenticated", "lending", "used"]


class Measured(Document):
    """A number with its 95 % interval over patients; null where it cannot be had."""

    value: Number
    low: Number | None = None
    high: Number | None = None


class Share(Document):
    """A site's report for others.

    Attributes:
        format: Of this document.
        federation: Whom it is for; none of a simulation.
        charter: SHA-256 of the rules that were played by; none of a simulation.
        site: Whose report it is.
        at: When it was made.
        title: Of the federation, for people.
        task: What is predicted.
        metric: What scores are.
        rounds: Played.
        rows: Band of the rows that it learnt from.
        patients: On whom it was tested; null below five.
        fewest: Cases of the rarest class among them; null below five.
        alone: Score of the best model without any peer.
        mixed: Score of what serves now.
        gain: Mixed minus alone, of the same patients.
        control_gain: Mixed minus the best control; null where no control was played, as at a node.
        verdict: By the report's rule.
        shares: Mean weight of each site's head here, its own included.
        worth: What the out-of-fold loss here would rise by without each peer's head.
        peers: How far each other site got.
        missing: Why some contributed nothing.
        aside: Whose head was set aside on evidence of harm.
        withheld: Why this site lent nothing, last; null if it lent.
        sent: Bytes that left it, on all days.
        received: Bytes that came in.
        head_bytes: Of its head.
        days: That it has taken part.
        seconds: Of computing in all rounds.
        attack: AUROC of its own attack on its last head; null where none could be tried.
        epsilon: Privacy spent by all its heads; null where nothing was promised.
        audit: Head of its audit chain.
        software: Version that made this.
    """

    format: Literal["dflmoe-share-1"] = "dflmoe-share-1"
    federation: FederationId | None = None
    charter: Digest | None = None
    site: Name
    at: AwareDatetime
    title: Words
    task: Words
    metric: Words
    rounds: Count
    rows: Band
    patients: Count | None
    fewest: Count | None
    alone: Measured | None
    mixed: Measured | None
    gain: Measured | None
    control_gain: Measured | None = None
    verdict: Verdict
    shares: dict[Name, Number]
    worth: dict[Name, Number] = Field(default_factory=dict)
    peers: dict[Name, State]
    missing: dict[Name, Words] = Field(default_factory=dict)
    aside: tuple[Name, ...] = ()
    withheld: Annotated[str, Field(max_length=600)] | None = None
    sent: Count
    received: Count
    head_bytes: Count
    days: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    attack: Measured | None = None
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    audit: Digest | None = None
    software: Annotated[str, Field(max_length=40)]

    @model_validator(mode="after")
    def _nothing_small(self) -> Self:
        for cell in (self.patients, self.fewest):
            if cell is not None and cell < SMALL:
                raise ValueError(f"a cell of fewer than {SMALL} patients is null, not a number")
        return self


def large(count: int | None) -> int | None:
    """Return a count of patients, or none if it is small."""
    return count if count is not None and count >= SMALL else None


def judged_by(gain: Measured | None, control_gain: Measured | None, fewest: int | None) -> Verdict:
    """Return the verdict on a gain; without a control none is called a gain.

    Args:
        gain: Mixed minus alone.
        control_gain: Mixed minus the best control; none if there was none.
        fewest: Cases of the rarest class.
    """
    if gain is None or gain.low is None or gain.high is None:
        return "not measured"
    found = verdict(
        Interval(gain.value, gain.low, gain.high),
        None
        if control_gain is None or control_gain.low is None or control_gain.high is None
        else Interval(control_gain.value, control_gain.low, control_gain.high),
        fewest if fewest is not None else MIN_CASES - 1,
    )
    uncontrolled = found == "capacity, not knowledge" and control_gain is None
    return "not measured" if uncontrolled else found


def weights(site: str, shares: Mapping[str, float], peers: Iterable[str]) -> dict[str, float]:
    """Return the weight of each peer's head, and of all that is a site's own together."""
    borrowed = {peer: shares[peer] for peer in peers if peer in shares}
    return {site: max(0.0, 1 - sum(borrowed.values())), **borrowed}


def shares_of(report: Report, at: datetime) -> list[Share]:
    """Return what the sites of a simulation, or of a demonstration, would have shared.

    Raises:
        ShareError: The report names no site that could share.
    """
    ran = {one.site: one for one in report.operation}
    try:
        return [_of_site(report, site, ran.get(site.name), at) for site in report.sites]
    except ValueError as error:
        raise ShareError(
            f"the report of {report.title!r} cannot be used for a consortium: {error}"
        ) from error


def _of_site(report: Report, site: Site, ran: Operation | None, at: datetime) -> Share:
    cost, name = report.cost, site.name
    others = [one.name for one in report.sites if one.name != name]
    fewest = min((n for n in site.class_counts.values() if n is not None), default=None)
    if any(n is None for n in site.class_counts.values()):
        fewest = None
    lent = cost.payload_bytes_per_site_day + cost.overhead_bytes_per_site_day
    peers = (
        ran.peers if ran else {o: "used" if site.gate_share.get(o) else "lending" for o in others}
    )
    return Share.model_validate(
        {
            "site": name,
            "at": at,
            "title": report.title,
            "task": report.task,
            "metric": report.metric,
            "rounds": ran.rounds if ran else report.rounds,
            "rows": band(site.rows),
            "patients": large(site.rows),
            "fewest": large(fewest),
            "alone": _measured(site.arms["alone"]),
            "mixed": _measured(site.arms["federated"]),
            "gain": _measured(site.gain),
            "control_gain": _measured(site.control_gain),
            "verdict": site.verdict,
            "shares": weights(name, site.gate_share, others),
            "worth": site.head_worth,
            "peers": peers,
            "missing": ran.missing if ran else {},
            "aside": tuple(
                peer
                for peer, part in (site.safety.set_aside if site.safety else {}).items()
                if part > 0.5  # noqa: PLR2004 - in most splits
            ),
            "sent": ran.sent_bytes if ran else lent,
            "received": ran.received_bytes if ran else lent,
            "head_bytes": cost.payload_bytes_per_head,
            "days": 1.0,
            "seconds": 3600 * cost.compute_hours_per_site,
            "audit": ran.audit_head if ran else None,
            "software": report.versions.get("dflmoe", "unknown"),
        }
    )


def _measured(value: Value | None) -> Measured | None:
    return None if value is None else Measured(value=value.value, low=value.low, high=value.high)


def read_share(payload: bytes, what: str) -> Share:
    """Return the share that checked bytes are.

    Raises:
        ShareError: They are none, or by a newer version.
    """
    try:
        return Share.read(payload, what)
    except EnvelopeError as error:
        raise ShareError(f"{error}") from error
