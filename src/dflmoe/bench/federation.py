"""From a task's setting and a seed to sites with rows, splits and networks.

Public rows are set apart first, then the rest is dealt to sites, then each site's rows are divided
into training and test; at no step is a patient (recording, slide, image) divided.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.bench.experiment import NOISE, Partition, RunSetting, TaskSetting
from dflmoe.bench.public import public_weights
from dflmoe.core.site import CrossFit, Network, SiteData
from dflmoe.data import partitions
from dflmoe.data.rows import Rows, noise
from dflmoe.data.sets import load_set, other_people
from dflmoe.data.splits import draw_rows, fold_of
from dflmoe.errors import OptionError
from dflmoe.networks import build, entire, splits
from dflmoe.networks.public import public_body
from dflmoe.tasks import TASKS, Kind, scored_by
from dflmoe.types import SiteId, generator


@dataclass(frozen=True)
class Federation:
    """Sites that learn one task.

    Attributes:
        kind: Of the task.
        data: Of each site.
        networks: Of each site.
        names: What each site's network is called.
        shared: Networks in one feature space, for methods that can have it; empty if the sites'
            networks differ.
        charter: Networks whose heads are lent by sites that keep their own to themselves: the one
            that the federation agreed on, or the one that all have; else empty.
        agreed: The network that the federation agreed on, or the one that all have, with a light
            head, for a common model beside each site's own; else empty.
        patient: The set's own number of each row's patient, so that patients are the same ones
            over seeds.
        grouped_by: What stands for a patient.
        public_rows: Anchors.
    """

    kind: Kind
    data: Mapping[SiteId, SiteData]
    networks: Mapping[SiteId, Network]
    names: Mapping[SiteId, str]
    shared: Mapping[SiteId, Network]
    charter: Mapping[SiteId, Network]
    agreed: Mapping[SiteId, Network]
    patient: Mapping[SiteId, NDArray[np.int64]]
    grouped_by: str
    public_rows: int


loaded = cache(load_set)


def federation(setting: RunSetting, root: Path | None) -> Federation:
    """Deal the rows of a set to sites, as the setting and its seed say.

    Raises:
        DataError: The set is not there, or its rows do not fit the partition.
        NetworkError: A network does not fit.
        OptionError: A scale factor does not divide the images.
    """
    task, condition = setting.task, setting.condition
    if condition.sites:
        dealt = task.partition.model_copy(update={"sites": condition.sites})
        task = task.model_copy(update={"partition": dealt})
    rows = loaded(task.set, root, side=task.side, per_group=task.per_group)
    rng = _rng(setting, "partition")
    anchors, rows = _set_apart(rows, task, root, rng)
    if condition.anchors or condition.anchors_from:
        anchors = _instead(anchors, setting, root)
    rows, site = _dealt_to_sites(rows, setting, task, rng)
    kind = scored_by(TASKS[rows.kind], task.metric)
    data: dict[SiteId, SiteData] = {}
    patient: dict[SiteId, NDArray[np.int64]] = {}
    networks: dict[SiteId, Network] = {}
    shared: dict[SiteId, Network] = {}
    charter: dict[SiteId, Network] = {}
    agreed: dict[SiteId, Network] = {}
    names: dict[SiteId, str] = {}
    for code, (own, fold) in _split(rows, site, setting).items():
        name = _name(rows, task.partition, code)
        factor = _factor(task.partition, code)
        data[name] = SiteData(
            x=torch.from_numpy(_inputs(own, factor))[None],
            y=torch.from_numpy(own.y),
            crossfit=CrossFit(torch.from_numpy(fold)[None]),
            group=torch.from_numpy(own.group),
            task=kind.task,
            anchors=torch.from_numpy(_inputs(anchors, factor)),
        )
        patient[name] = own.group
        names[name] = task.networks[len(names) % len(task.networks)]
        scale = factor if rows.kind == "super_resolution" else 1
        outputs = len(rows.classes) or own.y.shape[1]
        shape = tuple(data[name].x.shape[2:])
        networks[name] = cut(names[name], shape, outputs, condition.lends or task.split, scale)
        if len(set(task.networks)) == 1:
            lent = condition.lends or task.lend_from or task.split
            shared[name] = replace(cut(names[name], shape, outputs, lent, scale), common=True)
        if task.charter is not None:
            chosen = cut(task.charter, shape, outputs, task.charter_split, scale)
            charter[name] = replace(chosen, common=True)
            light = task.charter_split if ":" in task.charter else None
            agreed[name] = cut(task.charter, shape, outputs, light, scale)
        if condition.public_body:
            lending = [where[name] for where in (shared, charter) if name in where]
            if not all(any(True for _ in network.body.parameters()) for network in lending):
                raise OptionError(
                    "a public body needs a body at every site, and here the whole network is lent; "
                    "lend less, and leave out the task's charter"
                )
            weights = public_weights(setting, names[name], shape, root)
            layers = {p.partition(".")[0] for p, _ in networks[name].body.named_parameters()}
            networks[name] = public_body(networks[name], weights, sorted(layers))
            if name in shared:
                shared[name] = public_body(shared[name], weights)
    return Federation(
        kind,
        data,
        networks,
        names,
        shared,
        charter or shared,
        agreed or (networks if shared else {}),
        patient,
        rows.grouped_by,
        len(anchors),
    )


def _set_apart(
    rows: Rows, task: TaskSetting, root: Path | None, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Return the public rows, and the rows for the sites: nobody has rows among both."""
    if task.anchors_from is not None:
        other = _of_others(task.anchors_from, task, root)
        return other.take(partitions.anchors(other.group, task.anchors, rng)), rows
    public = partitions.anchors(rows.group, task.anchors, rng, labels=rows.labels)
    return rows.take(public), rows.take(~public)


def _of_others(name: str, task: TaskSetting, root: Path | None) -> Rows:
    """Return the rows of a set of other people than the task's, read as the task's are."""
    name = other_people(name, task.set)
    return loaded(name, root, side=task.side, per_group=task.per_group)


def _instead(anchors: Rows, setting: RunSetting, root: Path | None) -> Rows:
    """Return the public rows that the condition asks for, in place of those that were set apart."""
    task, wanted = setting.task, setting.condition
    rng, count = _rng(setting, "anchors"), wanted.anchors or len(anchors)
    if wanted.anchors_from == NOISE:
        anchors = anchors.like(anchors.x.shape[1:])
        anchors = replace(anchors, x=noise(anchors.x.shape, rng))
    elif wanted.anchors_from is not None:
        anchors = _of_others(wanted.anchors_from, task, root).like(anchors.x.shape[1:])
    if count > len(anchors):
        raise OptionError(f"there are {len(anchors)} public rows, and {count} are asked for")
    return anchors.take(np.sort(rng.choice(len(anchors), count, replace=False)))


def cut(name: str, shape: tuple[int, ...], outputs: int, at: str | None, scale: int = 1) -> Network:
    """Return a network whose head begins at a layer.

    ``head`` and ``block`` stand for the layers that the catalogue names, and ``model`` for a head
    that is the whole network, behind a body that does nothing.
    """
    if at in {"head", "block"}:
        at = splits(name)[at == "block"]
    if at == "model":
        return entire(name, shape, outputs, scale=scale)
    return build(name, shape, outputs, at=at, scale=scale)


def _rng(setting: RunSetting, *purpose: str) -> np.random.Generator:
    """Return chance that depends on task and seed, and never on the method."""
    stream = generator(setting.seed, setting.task_name, *purpose)
    return np.random.default_rng(int(torch.randint(2**62, (), generator=stream)))


def _dealt_to_sites(
    rows: Rows, setting: RunSetting, task: TaskSetting, rng: np.random.Generator
) -> tuple[Rows, NDArray[np.int64]]:
    """Return rows and the site of each, -1 for none.

    As published, sites of different resolutions have the same rows.
    """
    same = setting.condition.as_published and task.partition.kind == "resolution"
    site = np.zeros(len(rows), dtype=np.int64) if same else _dealt(rows, task.partition, rng)
    if task.max_rows:
        site = partitions.capped(site, rows.group, rows.labels, task.max_rows, rng)
    if same:
        kept, sites = np.flatnonzero(site == 0), len(task.partition.factors)
        rows, site = rows.take(np.tile(kept, sites)), np.repeat(np.arange(sites), len(kept))
    return rows, site


def _dealt(rows: Rows, how: Partition, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the site of each row, -1 for none."""
    labels, group = rows.labels, rows.group
    match how.kind:
        case "natural":
            site = partitions.natural(rows.site, group, how.largest)
        case "dirichlet":
            site = partitions.dirichlet(labels, group, how.sites, how.alpha, rng)
        case "shards":
            site = partitions.label_shards(labels, group, how.sites, how.shards, rng)
        case "quantity":
            site = partitions.quantity_skew(group, how.sites, how.exponent, rng)
        case "eight_hospitals":
            site = partitions.eight_hospitals(labels, group, rng, len(rows.classes))
        case "resolution":
            site = partitions.by_resolution(group, len(how.factors), rng)
        case "even":
            site = partitions.even(group, how.sites, rng, labels)
    return site


def _factor(how: Partition, code: int) -> int:
    return how.factors[code] if how.kind == "resolution" else 1


def _inputs(rows: Rows, factor: int) -> NDArray[np.float32]:
    """Return what a site of a resolution sees of some rows."""
    if rows.kind != "super_resolution":
        return rows.x if factor == 1 else partitions.coarsened(rows.x, factor)
    if factor not in rows.coarse:
        raise OptionError(
            f"set {rows.name!r} has no images {factor} times as coarse; "
            f"there are {', '.join(map(str, rows.coarse))}"
        )
    return rows.coarse[factor]


def _name(rows: Rows, how: Partition, code: int) -> str:
    if how.kind == "natural":
        return rows.site_names[code]
    if how.kind == "eight_hospitals":
        return list(partitions.HOSPITALS)[code]
    if how.kind == "resolution":
        return f"site {code + 1} (x{how.factors[code]})"
    return f"site {code + 1}"


def _split(
    rows: Rows, site: NDArray[np.int64], setting: RunSetting
) -> dict[int, tuple[Rows, NDArray[np.int64]]]:
    """Return the rows of each site and their folds; training rows beyond the limit are dropped.

    All sites get as many inner folds, so that weights can be averaged fit by fit: as many as the
    setting says, or as the site with the fewest patients allows.
    """
    folds = setting.task.inner_folds
    while True:
        split = {
            int(code): _held_out(rows.take(site == code), setting, folds, int(code))
            for code in np.unique(site[site >= 0])
        }
        fewest = min(int(fold.max()) + 1 for _, fold in split.values())
        if fewest == folds:
            return split
        folds = fewest


def _held_out(
    rows: Rows, setting: RunSetting, folds: int, code: int
) -> tuple[Rows, NDArray[np.int64]]:
    """Return one site's rows and their folds."""
    task, limit = setting.task, setting.condition.train_rows or setting.task.train_rows
    name = _name(rows, task.partition, code)
    rng = _rng(setting, "split", name)
    whole = np.arange(len(rows)) if setting.condition.as_published else rows.group
    fold = partitions.hold_out(rows.labels, whole, task.test_ratio, folds, rng, name=name)
    if limit is None:
        return rows, fold
    learns = draw_rows(rows.labels, np.flatnonzero(fold >= 0), limit, rng)
    fold[learns] = fold_of(rows.labels[learns], whole[learns], folds, rng)
    kept = np.sort(np.concatenate([learns, np.flatnonzero(fold < 0)]))
    return rows.take(kept), fold[kept]
