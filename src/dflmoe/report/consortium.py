"""A consortium's report, from what its sites chose to share: who gains, who gives, what it costs.

Everything follows from the shares; nothing is guessed for a site that shared none.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from dflmoe.errors import ShareError
from dflmoe.report.merge import over
from dflmoe.report.money import Assumptions, Running, running
from dflmoe.report.schema import Section, Value, Verdict
from dflmoe.report.share import Measured, Share, judged_by
from dflmoe.types import SiteId


class Given(Section):
    """What a site's head is to the others.

    Attributes:
        site: Who lent it.
        weight: Its mean weight in the mixtures of those who shared.
        worth: By how much their out-of-fold losses would rise without it, on the mean; null where
            none of them measured it.
        borrowers: Sites in whose mixture it weighs something.
    """

    site: str
    weight: float
    worth: float | None
    borrowers: list[str]


class Absent(Section):
    """Somebody who contributed nothing somewhere, and why.

    Attributes:
        site: Who.
        where: To whom.
        why: As that site saw it.
    """

    site: str
    where: str
    why: str


class Fairness(Section):
    """How a gain is spread.

    Attributes:
        best: Site with the largest gain, and that gain.
        worst: Site with the smallest.
        spread: The difference between the two.
        better: How many sites are better off, by their estimates.
        harmed: Sites with a verdict of harm.
        givers: The rank correlation of what a site gives (weight at others) with what it gains, -1
            to 1; null for fewer than four sites.
    """

    best: tuple[str, float]
    worst: tuple[str, float]
    spread: float
    better: int
    harmed: list[str]
    givers: float | None


class Consortium(Section):
    """The consortium's report; the contract of ``federation.json``.

    Attributes:
        schema_version: Fields are added, never renamed.
        title: Of the federation.
        vouched: Whether every share was checked against the roster.
        members: All members that are known, whether they shared or not.
        silent: Members that shared nothing.
        shares: What the sites said, by name.
        mean_gain: Over the sites that measured one.
        verdict: On that.
        given: What each site's head is to the others.
        flows: Weight of each lender's head (inner) at each borrower (outer).
        fairness: How the gain is spread; null where none was measured.
        absent: Who contributed nothing, and why.
        assumptions: Of money and energy.
        years: A year of each site.
        notes: What a reader must know.
    """

    schema_version: Literal["1.0"] = "1.0"
    title: str
    task: str
    metric: str
    vouched: bool
    members: list[str]
    silent: list[str]
    shares: list[Share]
    mean_gain: Value | None
    verdict: Verdict
    given: list[Given]
    flows: dict[str, dict[str, float]]
    fairness: Fairness | None
    absent: list[Absent]
    assumptions: Assumptions
    years: list[Running]
    notes: list[str]


def consortium(
    shares: Sequence[Share],
    *,
    members: Sequence[SiteId] = (),
    vouched: bool = False,
    assumed: Assumptions | None = None,
) -> Consortium:
    """Return the report of all sites that shared theirs.

    Args:
        shares: Of one site each.
        members: Of the roster; those who shared, if not given.
        vouched: Whether every share was checked against the roster.
        assumed: Of money and energy.

    Raises:
        ShareError: There are none, a site is in two of them, or they are of different federations.
    """
    ordered = sorted(shares, key=lambda one: one.site)
    _agree(ordered)
    assumed = assumed or Assumptions()
    names = [share.site for share in ordered]
    everybody = sorted({*members, *names, *(peer for share in ordered for peer in share.peers)})
    gains = [_value(share.gain) for share in ordered]
    mean = over([gain for gain in gains if gain is not None])
    return Consortium(
        title=ordered[0].title,
        task=ordered[0].task,
        metric=ordered[0].metric,
        vouched=vouched,
        members=everybody,
        silent=[name for name in everybody if name not in names],
        shares=ordered,
        mean_gain=mean,
        verdict=_mean_verdict(ordered, mean),
        given=[_given(name, ordered) for name in everybody],
        flows={share.site: _borrowed(share) for share in ordered},
        fairness=_fairness(ordered),
        absent=[
            Absent(site=peer, where=share.site, why=why)
            for share in ordered
            for peer, why in _absent(share).items()
        ],
        assumptions=assumed,
        years=[running(share, assumed) for share in ordered],
        notes=_notes(ordered, vouched=vouched),
    )


def _agree(shares: Sequence[Share]) -> None:
    if not shares:
        raise ShareError("no shared report was given; name at least one file")
    names = [share.site for share in shares]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ShareError(f"two of the reports are of {twice}; give one of each site")
    for field in ("federation", "charter", "metric", "task"):
        values = {getattr(share, field) for share in shares}
        if len(values) > 1:
            raise ShareError(
                f"the reports of {names[0]} and others differ in their {field}; "
                f"give reports of one federation and one charter"
            )


def _value(found: Measured | None) -> Value | None:
    return None if found is None else Value(value=found.value, low=found.low, high=found.high)


def _borrowed(share: Share) -> dict[str, float]:
    """Return the weights of the peers' heads at a site; what is its own has its name."""
    return {
        peer: weight for peer, weight in share.shares.items() if weight > 0 and peer != share.site
    }


def _given(site: str, shares: Sequence[Share]) -> Given:
    others = [share for share in shares if share.site != site]
    weights = [share.shares.get(site, 0.0) for share in others]
    worth = [share.worth[site] for share in others if site in share.worth]
    return Given(
        site=site,
        weight=sum(weights) / len(weights) if weights else 0.0,
        worth=sum(worth) / len(worth) if worth else None,
        borrowers=[share.site for share in others if share.shares.get(site, 0.0) > 0],
    )


def _fairness(shares: Sequence[Share]) -> Fairness | None:
    gains = {share.site: share.gain.value for share in shares if share.gain is not None}
    if not gains:
        return None
    best, worst = (pick(gains, key=lambda site: gains[site]) for pick in (max, min))
    given = {site: _given(site, shares).weight for site in gains}
    return Fairness(
        best=(best, gains[best]),
        worst=(worst, gains[worst]),
        spread=gains[best] - gains[worst],
        better=sum(gain > 0 for gain in gains.values()),
        harmed=[share.site for share in shares if share.verdict == "harm"],
        givers=_ranked(given, gains),
    )


def _ranked(given: Mapping[str, float], gains: Mapping[str, float]) -> float | None:
    """Return the rank correlation of two numbers of the same sites (Spearman)."""
    from scipy.stats import spearmanr  # noqa: PLC0415 - takes a second

    fewest = 4
    if len(gains) < fewest or any(len(set(side.values())) < 2 for side in (given, gains)):  # noqa: PLR2004
        return None
    sites = sorted(gains)
    return float(spearmanr([given[s] for s in sites], [gains[s] for s in sites]).statistic)


def _absent(share: Share) -> dict[str, str]:
    aside = dict.fromkeys(share.aside, "its head was set aside on evidence of harm")
    idle = {
        peer: f"it got as far as {state!r}"
        for peer, state in share.peers.items()
        if state not in {"lending", "used"}
    }
    return {**idle, **share.missing, **aside}


def _mean_verdict(shares: Sequence[Share], mean: Value | None) -> Verdict:
    """Return the verdict on the mean; all sites have at least the cases of the one with most."""
    measured = [share for share in shares if share.gain is not None]
    controls = over([_value(share.control_gain) for share in measured])
    fewest = max((share.fewest or 0 for share in measured), default=0)
    return judged_by(_told(mean), _told(controls), fewest)


def _told(value: Value | None) -> Measured | None:
    return None if value is None else Measured(value=value.value, low=value.low, high=value.high)


def _notes(shares: Sequence[Share], *, vouched: bool) -> list[str]:
    notes = []
    if not vouched:
        notes.append(
            "Nothing vouches for these numbers: the reports were not signed, or not checked "
            "against a roster."
        )
    if all(share.control_gain is None for share in shares):
        notes.append(
            "No controls were played: nodes lend for use, and play none. A gain over alone may be "
            "capacity and not knowledge, so none is called a gain here; dflmoe pilot plays them."
        )
    if any(share.days < 1 for share in shares):
        notes.append("Some sites have taken part for less than a day; a year is told as if a day.")
    return notes
