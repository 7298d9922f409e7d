"""The pilot from Python: any body, any head, any data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from dflmoe.core.auto import AVERAGE_ROUNDS, DIALS, LOCAL_STEPS, WHY, exchange_for
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network
from dflmoe.core.stacking import learns
from dflmoe.core.training import Training
from dflmoe.data.study import SiteRows, Study
from dflmoe.errors import LabelError, OptionError, SiteError
from dflmoe.pilot.plan import Options, Plan, alike
from dflmoe.pilot.run import run
from dflmoe.report.render import write
from dflmoe.report.schema import Report
from dflmoe.types import SiteId


@dataclass(frozen=True)
class Site:
    """A site to simulate.

    Attributes:
        name: Unique among the sites.
        dataset: Pairs of an input (all of one shape) and a class, 0 to C-1.
        body: Inputs to features, ``[row, ...] -> [row, feature, ...]``; it stays at the site. Its
            weights are drawn anew. Many sites that are given the very same modules are trained
            together.
        head: Features to logits, ``-> [row, class]``; it is lent.
        patient: Patient of each row; without it each row is taken for one.
    """

    name: str
    dataset: Dataset[Any]  # of pairs; torch types its own data sets by longer tuples
    body: nn.Module
    head: nn.Module
    patient: Sequence[int] | None = None


@dataclass(frozen=True)
class Result:
    """What came of a simulation; ``numbers`` is the contract of ``report.json``."""

    numbers: Report

    def report(self, path: str | Path) -> None:
        """Write the report as one page, and its numbers as JSON beside it.

        Raises:
            OutputError: The folder cannot be made or written.
            MissingExtraError: The extra ``pilot`` is not installed.
        """
        write(self.numbers, Path(path))

    def __str__(self) -> str:
        r = self.numbers
        lines = [f"{'site':<16} {'alone':>7} {'lent':>7} {'gain':>7}  verdict ({r.metric})"]
        for site in [*r.sites, r.mean]:
            alone, lent, gain = site.arms["alone"], site.arms["federated"], site.gain
            shown = [f"{v.value:7.3f}" if v else "      -" for v in (alone, lent)]
            change = f"{gain.value:+7.3f}" if gain else "      -"
            lines.append(f"{site.name:<16} {shown[0]} {shown[1]} {change}  {site.verdict}")
        return "\n".join(lines)


def simulate(
    sites: Sequence[Site],
    *,
    folds: int = 5,
    repeats: int = 1,
    rounds: int = 1,
    seed: int = 0,
    train_rows: int | None = None,
    dials: Dials | None = None,
    training: Training | None = None,
    charter: tuple[nn.Module, nn.Module] | None = None,
    anchors: torch.Tensor | None = None,
    peers: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    executor: str = "threads",
    workers: int | None = None,
) -> Result:
    """Play a pilot of these sites: alone, with borrowed heads, with every control and rival.

    Args:
        sites: Two or more.
        folds: Test folds.
        repeats: How often all rows are tested.
        rounds: Rounds of lending.
        seed: Of all chance.
        train_rows: Labelled rows that each site may learn from.
        dials: Of the method; chosen from what the sites have if not given (``core.auto``), and the
            report says why.
        training: How networks are trained.
        charter: Body and head of one light network that the sites agreed on, whose heads they lend
            while their own networks stay at home. The body stays as the federation's seed makes it;
            ``nn.Identity()`` for none.
        anchors: Public inputs without labels that all sites hold, ``[anchor, ...]``: what sites
            lend of them brings heads of different networks together, and teaches.
        peers: Peers that each site hears in a round, by usefulness and chance; all if not given.
        device: Where networks are trained: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        precision: What bodies compute in: ``fp32`` or ``bf16``; all else is in fp32.
        executor: Who trains them: ``threads`` of this process, or ``ray``.
        workers: How many of them; as many as there are cores if not given.

    Raises:
        OptionError: An option makes no sense, or a body, a head or the anchors do not fit.
        SiteError: A site cannot take part.
        LabelError: A class is not a whole number from 0.
        TrainingError: A loss is not finite.
    """
    if charter is not None and anchors is not None:
        raise OptionError("the sites lend heads by a charter or by anchors; give one of the two")
    if dials is not None and anchors is None and (dials.align == "anchored" or dials.distil):
        raise OptionError("these dials align or teach by anchors, and there are none; give some")
    rows = [_rows(site) for site in sites]
    classes = 1 + max(int(one.y.max()) for one in rows) if rows else 0
    networks = {
        site.name: _network(site, one, classes) for site, one in zip(sites, rows, strict=True)
    }
    if len(networks) < len(sites):
        raise SiteError("two sites have one name; give each its own")
    study = Study(
        title="Simulation",
        task=f"{classes} classes",
        classes=tuple(str(k) for k in range(classes)),
        sites=tuple(rows),
        kind="table" if rows and rows[0].x.ndim == 2 else "image",  # noqa: PLR2004 - rows, features
        has_patients=all(site.patient is not None for site in sites),
        anchors=None if anchors is None else _public(anchors, rows),
    )
    train = training or Training(
        weight_decays=(0.01, 0.001), learning_rate=0.01, max_steps=300, batch=64
    )
    exchange = exchange_for(
        one_space=all(network.common for network in networks.values()),
        charter=charter is not None,
        anchors=anchors is not None,
        one_network=alike(networks),
    )
    averages = AVERAGE_ROUNDS if exchange == "averaged" else 0
    method = dials or replace(DIALS[exchange], averaging=averages)
    plan = Plan(
        networks=_agreed(sites, rows, classes, charter) if charter else networks,
        own=networks,
        dials=method,
        training=train,
        lending=LOCAL_STEPS if method.averaging else train,
        tuning=train,
        averaging=replace(LOCAL_STEPS, early_stopping=True),
        rounds=method.averaging + rounds,
        average_rounds=AVERAGE_ROUNDS,
        why=(
            "The networks are the user's own.",
            "So are the dials." if dials else WHY[exchange],
        ),
    )
    options = Options(
        folds=folds,
        repeats=repeats,
        rounds=rounds,
        seed=seed,
        train_rows=train_rows,
        peers=peers,
        device=device,
        precision=precision,
        executor=executor,
        workers=workers,
    )
    report = run(study, options, plan=plan)
    if report is None:
        raise KeyboardInterrupt
    return Result(report)


def _rows(site: Site) -> SiteRows:
    """Return the rows of a data set as arrays.

    Raises:
        SiteError: The data set is empty.
        LabelError: A class is not a whole number from 0.
    """
    pairs = [site.dataset[k] for k in range(len(site.dataset))]  # type: ignore[arg-type]  # torch's Dataset promises no length
    if not pairs:
        raise SiteError(f"site {site.name!r} has no rows; give it some or leave it out")
    x = torch.stack([torch.as_tensor(x, dtype=torch.float32) for x, _ in pairs])
    y = torch.as_tensor([int(label) for _, label in pairs])
    if int(y.min()) < 0:
        raise LabelError(f"site {site.name!r} has class {int(y.min())}; classes count from 0")
    patient = np.arange(len(y)) if site.patient is None else np.asarray(site.patient)
    if len(patient) != len(y):
        raise SiteError(
            f"site {site.name!r} names {len(patient)} patients for {len(y)} rows; name one a row"
        )
    return SiteRows(
        name=site.name,
        x=x.numpy(),
        y=y.numpy(),
        patient=np.unique(patient, return_inverse=True)[1].astype(np.int64),
    )


def _public(anchors: torch.Tensor, rows: Sequence[SiteRows]) -> NDArray[np.float32]:
    """Return the anchors as an array.

    Raises:
        OptionError: They are not of the shape of the sites' rows, or not finite.
    """
    if (
        anchors.dim() == 0
        or len(anchors) == 0
        or any(anchors.shape[1:] != one.x.shape[1:] for one in rows)
    ):
        raise OptionError(
            f"the anchors are of shape {tuple(anchors.shape)} and the sites' rows of "
            f"{tuple(rows[0].x.shape[1:])}; give one or more of the same"
        )
    if not torch.isfinite(anchors).all():
        raise OptionError("an anchor holds a number that is not finite; leave it out")
    public: NDArray[np.float32] = anchors.detach().float().numpy()
    return public


def _agreed(
    sites: Sequence[Site],
    rows: Sequence[SiteRows],
    classes: int,
    charter: tuple[nn.Module, nn.Module],
) -> dict[SiteId, Network]:
    """Return the network that all sites agreed on, its body as the federation's seed makes it."""
    body, head = charter
    return {
        site.name: replace(_network(replace(site, body=body, head=head), one, classes), common=True)
        for site, one in zip(sites, rows, strict=True)
    }


def _network(site: Site, rows: SiteRows, classes: int) -> Network:
    """Return the site's network, sized by a trial with two rows.

    Raises:
        OptionError: Body or head do not fit the data or each other.
    """
    try:
        with torch.no_grad():
            features = site.body(torch.from_numpy(rows.x[:2]))
            logits = site.head(features)
    except RuntimeError as error:
        raise OptionError(
            f"body and head of site {site.name!r} do not fit its data: {error}"
        ) from error
    if logits.shape != (2, classes):
        raise OptionError(
            f"the head of site {site.name!r} puts out {tuple(logits.shape[1:])} for each row; "
            f"there are {classes} classes"
        )
    if any(True for part in (site.body, site.head) for _ in part.buffers()):
        raise OptionError(
            f"the network of site {site.name!r} keeps running statistics (BatchNorm?), which "
            f"describe patients and may not travel; use GroupNorm or LayerNorm"
        )
    common = not learns(site.body)
    return Network(site.body, site.head, features.shape[1], classes, common=common)
