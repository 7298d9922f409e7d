"""Dealing rows to simulated sites, anchors and folds; a group (a patient) is never divided.

Where rows are dealt, the site of each row is returned, 0 to S-1, and -1 for rows that no site gets.
The label of a group is the commonest label of its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.rows import block_mean, coded
from dflmoe.data.splits import fold_of
from dflmoe.errors import OptionError, SiteError
from dflmoe.types import SiteId

Codes = NDArray[np.int64]

TRIES = 2000
"""Dirichlet draws before it is said that the data do not allow what was asked for."""

CLASS_ROWS = 4
"""Rows that make a class count at a site: two to learn from and two to test on."""

MIN_GROUPS = 3
"""Groups that a site must have: one to test on and two to learn and decide on."""

HOSPITALS: Mapping[str, tuple[int, int, int]] = {
    "UKA": (4747, 11836, 1251),
    "UMCU": (5337, 740, 56),
    "RUMC": (3571, 2, 35),
    "USZ": (1911, 1244, 293),
    "CAM": (1678, 42, 58),
    "MHA": (904, 120, 96),
    "RSH": (4, 126, 221),
    "VHIO": (159, 0, 31),
}
"""Rows by class of the eight hospitals in MediSwarm's published table."""


@dataclass(frozen=True)
class _Groups:
    """Groups 0 to G-1: the group of each row, and the rows and the label of each group."""

    of: Codes
    rows: Codes
    label: Codes

    @classmethod
    def of_rows(cls, group: Codes, labels: Codes | None = None, sites: int = 1) -> Self:
        of = coded(group)
        if not 1 <= sites <= int(of.max()) + 1:
            raise SiteError(
                f"{int(of.max()) + 1} groups (patients, subjects, images) cannot be dealt to "
                f"{sites} sites; ask for fewer sites, and one at least"
            )
        label = coded(np.zeros(len(of)) if labels is None else labels)
        counts = np.zeros((int(of.max()) + 1, int(label.max()) + 1), dtype=np.int64)
        np.add.at(counts, (of, label), 1)
        return cls(of, counts.sum(1), counts.argmax(1))

    def mixed(self, rng: np.random.Generator) -> Codes:
        """Return the groups in a random order in which every stretch has the labels' mix."""
        place = np.zeros(len(self.rows))
        for label in np.unique(self.label):
            own = rng.permutation(np.flatnonzero(self.label == label))
            place[own] = _middles(self.rows[own])
        return np.lexsort((rng.random(len(place)), place))


def natural(site: Codes | None, group: Codes, largest: int | None = None) -> Codes:
    """Return the sites that rows really come from.

    Args:
        site: Of each row, or ``None`` where nobody knows.
        group: Of each row.
        largest: Keep as many sites, those with most rows; the rows of others become -1.

    Raises:
        SiteError: The data set has none, or a group has rows at two.
    """
    if site is None:
        raise SiteError("this data set has no natural sites; deal its rows in another way")
    pairs = np.unique(np.stack([group, site]), axis=1)
    shared = pairs[0, 1:] == pairs[0, :-1]
    if shared.any():
        raise SiteError(f"group {pairs[0, 1:][shared][0]} has rows at two natural sites")
    if largest is None:
        return site
    kept = np.argsort(-np.bincount(site), kind="stable")[:largest]
    return np.where(np.isin(site, kept), site, -1)


def dirichlet(
    labels: Codes,
    group: Codes,
    sites: int,
    alpha: float,
    rng: np.random.Generator,
    *,
    min_rows: int = 20,
) -> Codes:
    """Deal each class by shares from a symmetric Dirichlet law: the smaller alpha, the more skewed.

    Drawn again until every site has ``min_rows`` rows and two classes (or the only one) with four.

    Raises:
        OptionError: ``alpha`` is not a positive number.
        SiteError: There are too few groups, or no draw is good enough.
    """
    if not (np.isfinite(alpha) and alpha > 0):
        raise OptionError(f"alpha must be a positive number, not {alpha}")
    groups = _Groups.of_rows(group, labels, sites)
    code = coded(labels)
    wanted = min(2, int(code.max()) + 1)
    for _ in range(TRIES):
        site = np.zeros(len(groups.rows), dtype=np.int64)
        for label in np.unique(groups.label):
            own = rng.permutation(np.flatnonzero(groups.label == label))
            site[own] = _by_share(groups.rows[own], rng.dirichlet(np.full(sites, alpha)))
        counts = np.zeros((sites, int(code.max()) + 1), dtype=np.int64)
        np.add.at(counts, (site[groups.of], code), 1)
        if counts.sum(1).min() >= min_rows and ((counts >= CLASS_ROWS).sum(1) >= wanted).all():
            return site[groups.of]
    raise SiteError(
        f"in {TRIES} draws with alpha {alpha}, some of {sites} sites always had fewer than "
        f"{min_rows} rows, or fewer than {wanted} classes with {CLASS_ROWS} rows; raise alpha or "
        f"ask for fewer sites"
    )


def label_shards(
    labels: Codes, group: Codes, sites: int, shards_per_site: int, rng: np.random.Generator
) -> Codes:
    """Sort groups by label, cut them into shards of equal size, and deal each site some of them.

    References:
        McMahan et al., Communication-efficient learning of deep networks, 2017, section 3.

    Raises:
        SiteError: There are too few groups, or groups are so large that a site gets none.
    """
    groups = _Groups.of_rows(group, labels, sites)
    shards = sites * max(shards_per_site, 1)
    order = np.lexsort((rng.random(len(groups.rows)), groups.label))
    site = np.zeros(len(order), dtype=np.int64)
    shard = _by_share(groups.rows[order], np.full(shards, 1 / shards))
    site[order] = rng.permutation(shards)[shard] % sites
    return _all_used(site[groups.of], range(sites), "label shards")


def quantity_skew(group: Codes, sites: int, exponent: float, rng: np.random.Generator) -> Codes:
    """Deal rows so that sizes fall as ``rank ** -exponent``: site 0 has most, 0 is even.

    Raises:
        SiteError: There are too few groups, or a site's share is less than one.
    """
    groups = _Groups.of_rows(group, None, sites)
    share = np.arange(1, sites + 1) ** -float(exponent)
    site, order = np.zeros(len(groups.rows), dtype=np.int64), rng.permutation(len(groups.rows))
    site[order] = _by_want(groups.rows[order], len(group) * share / share.sum(), force=True)
    got = np.bincount(site[groups.of], minlength=sites)
    rank = np.argsort(np.argsort(-got, kind="stable"), kind="stable")
    return _all_used(rank[site][groups.of], range(sites), f"exponent {exponent}")


def even(group: Codes, sites: int, rng: np.random.Generator, labels: Codes | None = None) -> Codes:
    """Deal as many groups to every site, one more at most, label by label if there are labels.

    Sites get about as many rows: they differ by no more than the largest group has.

    Raises:
        SiteError: There are fewer groups than sites.
    """
    groups = _Groups.of_rows(group, labels, sites)
    order = np.lexsort((rng.random(len(groups.rows)), groups.label))
    site, got = np.zeros(len(order), dtype=np.int64), np.zeros(sites, dtype=np.int64)
    for start in range(0, len(order), sites):  # one each: the largest to who has least
        some = order[start : start + sites]
        some = some[np.argsort(-groups.rows[some], kind="stable")]
        least = np.lexsort((rng.random(sites), got))[: len(some)]
        site[some] = least
        got[least] += groups.rows[some]
    return site[groups.of]


def by_resolution(group: Codes, sites: int, rng: np.random.Generator) -> Codes:
    """Deal groups evenly to sites that see them at different resolutions: see `coarsened`."""
    return even(group, sites, rng)


def coarsened(x: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return images ``[..., height, width]`` as a coarser scanner sees them, at the same size.

    Every box of ``factor`` by ``factor`` pixels becomes its mean.

    Raises:
        OptionError: The factor does not divide the images.
    """
    height, width = x.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise OptionError(f"factor {factor} does not divide images of {height} x {width} pixels")
    if factor == 1:
        return x
    return block_mean(x, factor).repeat(factor, axis=-2).repeat(factor, axis=-1)


def eight_hospitals(labels: Codes, group: Codes, rng: np.random.Generator, classes: int) -> Codes:
    """Deal rows in the sizes and class mixes of MediSwarm's eight hospitals.

    The table is scaled by one factor, the largest that the rows of every class allow; other rows
    stay unused. Of three classes, class k takes column k. Of two, the first takes column 1 and the
    second columns 2 and 3 together; a single class takes all three. Of four or more, the first
    takes column 1, the last column 3, and those between share column 2 equally.

    Sites are in the order of `HOSPITALS`; labels are 0 to ``classes`` - 1.

    Raises:
        SiteError: A class has no rows, or there are too few rows for the smallest hospital.
    """
    wanted = _table(classes)
    groups = _Groups.of_rows(group, labels)
    label = np.unique(labels)[groups.label]
    there = np.bincount(label, groups.rows, minlength=classes)[:classes]
    site = np.full(len(label), -1)
    scale = (there / wanted.sum(0)).min()
    for k in range(classes):
        own = rng.permutation(np.flatnonzero(label == k))
        site[own] = _by_want(groups.rows[own], scale * wanted[:, k])
    return _all_used(site[groups.of], tuple(HOSPITALS), "the eight hospitals' table")


def anchors(
    group: Codes, count: int, rng: np.random.Generator, labels: Codes | None = None
) -> NDArray[np.bool_]:
    """Return a mask of whole groups with ``count`` rows or more, set apart before rows are dealt.

    With labels, the anchors have the labels' mix as nearly as whole groups allow.

    Raises:
        SiteError: That would leave no group for the sites.
    """
    groups = _Groups.of_rows(group, labels)
    order = groups.mixed(rng)
    before = np.cumsum(groups.rows[order]) - groups.rows[order]
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[order[before < count]] = True
    if chosen.all():
        raise SiteError(
            f"{count} anchor rows would take all {len(order)} groups; leave some for the sites"
        )
    return chosen[groups.of]


def capped(
    site: Codes, group: Codes, labels: Codes, max_rows: int, rng: np.random.Generator
) -> Codes:
    """Return the sites with at most ``max_rows`` rows each; other rows become -1.

    Whole groups are kept, in the labels' mix. Where fewer than three would fit, all of the site's
    groups are thinned instead, to sizes as equal as can be: a site must keep several patients.

    Raises:
        OptionError: ``max_rows`` is not positive.
    """
    if max_rows < 1:
        raise OptionError(f"max_rows must be 1 or more, not {max_rows}")
    kept = site.copy()
    for one in np.unique(site[site >= 0]):
        rows = np.flatnonzero(site == one)
        if len(rows) > max_rows:
            kept[rows] = -1
            kept[rows[_fitting(group[rows], labels[rows], max_rows, rng)]] = one
    return kept


def _fitting(group: Codes, labels: Codes, most: int, rng: np.random.Generator) -> Codes:
    groups = _Groups.of_rows(group, labels)
    whole, left = [], most
    for g in groups.mixed(rng):
        if groups.rows[g] <= left:
            whole.append(int(g))
            left -= int(groups.rows[g])
    if len(whole) >= MIN_GROUPS:
        return np.flatnonzero(np.isin(groups.of, whole))
    rows, left = [], most
    order = np.lexsort((rng.random(len(groups.rows)), groups.rows))
    for k, g in enumerate(order):
        own = np.flatnonzero(groups.of == g)
        rows.append(rng.permutation(own)[: left // (len(order) - k)])
        left -= len(rows[-1])
    return np.concatenate(rows)


def hold_out(
    labels: Codes,
    group: Codes,
    test_ratio: float,
    inner_folds: int,
    rng: np.random.Generator,
    *,
    name: SiteId = "this site",
) -> Codes:
    """Return the fold of each of a site's rows: -1 for the test, else 0 to K-1.

    Both levels are stratified by label. The test has about ``test_ratio`` of the rows, or of the
    groups where there are few. K is ``inner_folds``, or as many as groups are left to learn from.

    Raises:
        OptionError: The ratio is not in (0, 0.5], or there are fewer than two inner folds.
        SiteError: The site has fewer than three groups.
    """
    if not (0 < test_ratio <= 0.5) or inner_folds < 2:  # noqa: PLR2004 - half, and two to compare
        raise OptionError(
            f"test_ratio must be above 0 and up to 0.5, and inner_folds 2 or more, "
            f"not {test_ratio} and {inner_folds}"
        )
    of = coded(group)
    count = int(of.max()) + 1
    if count < MIN_GROUPS:
        raise SiteError(
            f"site {name!r} has {count} groups (patients, subjects, images) and needs "
            f"{MIN_GROUPS}: one to test on and two to learn from"
        )
    share = Fraction(test_ratio).limit_denominator(10)
    tested, parts = share.numerator, share.denominator
    if 2 * parts > count or tested == 0:  # too few for folds of equal size: count groups
        tested, parts = min(max(round(test_ratio * count), 1), count - 2), count
    learns = _folds(labels, of, parts, rng) >= tested
    fold = np.full(len(of), -1)
    inner = min(inner_folds, len(np.unique(of[learns])))
    fold[learns] = _folds(labels[learns], of[learns], inner, rng)
    return fold


def _folds(labels: Codes, group: Codes, folds: int, rng: np.random.Generator) -> Codes:
    """Return stratified folds; where some would be left empty, as many groups in each."""
    if int(np.unique(labels, return_counts=True)[1].max()) >= folds:
        fold = fold_of(labels, group, folds, rng)
        least = min(2, len(np.unique(group)) // folds)
        if min(len(np.unique(group[fold == k])) for k in range(folds)) >= least:
            return fold
    return even(group, folds, rng, labels)


def _table(classes: int) -> NDArray[np.float64]:
    """Return the hospitals' rows by class, ``[site, class]``, for any number of classes."""
    three: NDArray[np.float64] = np.array(list(HOSPITALS.values()), dtype=np.float64)
    nothing, rest, last = three[:, :1], three[:, 1:], three[:, 2:]
    if classes <= 2:  # noqa: PLR2004 - columns are put together
        parts = [nothing, rest.sum(1, keepdims=True)]
        return np.hstack(parts) if classes > 1 else np.add(*parts)
    return np.hstack([nothing, *[rest[:, :1] / (classes - 2)] * (classes - 2), last])


def _middles(rows: Codes) -> NDArray[np.float64]:
    """Return where groups lie that are laid end to end: the middle of each, in 0..1."""
    return np.asarray((np.cumsum(rows) - rows / 2) / rows.sum())


def _by_share(rows: Codes, share: NDArray[np.float64]) -> Codes:
    """Cut groups that are laid end to end into stretches of given shares."""
    cuts = np.cumsum(share)[:-1]
    return np.searchsorted(cuts, _middles(rows), side="right").astype(np.int64)


def _by_want(rows: Codes, wanted: NDArray[np.float64], *, force: bool = False) -> Codes:
    """Give each group, large ones first, to the site that lacks most rows.

    A group that overshoots by more than it mends stays unused (-1), unless ``force``.
    """
    lacks, site = wanted.copy(), np.full(len(rows), -1)
    for g in np.argsort(-rows, kind="stable"):
        k = int(lacks.argmax())
        if force or lacks[k] >= rows[g] / 2:
            site[g] = k
            lacks[k] -= rows[g]
    return site


def _all_used(site: Codes, names: Sequence[str | int], law: str) -> Codes:
    got = np.bincount(site[site >= 0], minlength=len(names))
    if got.min() == 0:
        raise SiteError(
            f"site {names[int(got.argmin())]!r} gets no rows by {law}: the {len(site)} rows are "
            f"too few, or in too large groups"
        )
    return site
