"""What a charter means here: the network that is lent, and what a head must look like."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from dflmoe.core.auto import (
    AVERAGE_ROUNDS,
    DIALS,
    IMAGE_NETWORK,
    LOCAL_STEPS,
    TABLE_NETWORK,
    Exchange,
)
from dflmoe.core.controls import Control
from dflmoe.core.dflmoe import ANCHORS, OPINION, DFLMoE
from dflmoe.core.site import Lent, LentKind, Network
from dflmoe.core.training import Training
from dflmoe.data.one_site import agreed
from dflmoe.data.source import Source
from dflmoe.data.study import SiteRows
from dflmoe.errors import HeadError
from dflmoe.model.making import About
from dflmoe.networks import build, entire
from dflmoe.security.charter import Charter
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.payload import HeadSpec

KINDS: Mapping[Exchange, frozenset[LentKind]] = {
    "shared": frozenset({"head"}),
    "averaged": frozenset({"fits", "head"}),
    "anchored": frozenset({"head"}),
    "seeded": frozenset({"head"}),
    "paper": frozenset({"head"}),
}
"""What each exchange lends."""


def network_of(charter: Charter) -> Network:
    """Return the network whose head the sites lend.

    Raises:
        NetworkError: The charter names none that is known here, or that fits its shape.
    """
    shape, classes = charter.shape, len(charter.classes)
    if charter.exchange == "averaged":
        return entire(charter.network, shape, classes)
    common = charter.exchange == "shared"
    return build(charter.network, shape, classes, at=charter.head_from, common=common)


def method_of(charter: Charter, network: Network, *, control: Control = "none") -> DFLMoE:
    """Return the method that a site of the federation plays.

    Args:
        charter: The rules.
        network: As ``network_of`` returns it, or with a public body.
        control: What stands in the place of the peers' knowledge.
    """
    averages = AVERAGE_ROUNDS if charter.exchange == "averaged" else 0
    dials = replace(
        DIALS[charter.exchange], averaging=averages, control=control, max_age=charter.max_age
    )
    if charter.public_body is not None:
        dials = replace(dials, body="public", vouched=network.common)
    training = training_of(charter)
    lending = LOCAL_STEPS if averages else training
    return DFLMoE(
        network,
        dials,
        lending,
        training,
        body_seed=charter.body_seed,
        min_class_patients=charter.min_class_patients,
    )


def about_of(charter: Charter, source: Source, rows: SiteRows) -> About:
    """Return what a site's model is for."""
    columns = None if charter.columns is None else agreed(charter.columns, source.where)
    return About(
        site=rows.name,
        federation=charter.name,
        task=charter.task,
        classes=charter.classes,
        kind=charter.kind,
        shape=charter.shape,
        columns=columns,
        source=source,
        names_patients=rows.names_patients,
    )


def training_of(charter: Charter) -> Training:
    """Return how a site trains its network to convergence."""
    if charter.network == "plain":
        return Training()
    return TABLE_NETWORK if charter.kind == "table" else IMAGE_NETWORK


@lru_cache
def _head_of(charter: Charter) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Return the width of the head that is lent, and the shapes of its tensors."""
    network = network_of(charter)
    return network.width, {n: tuple(p.shape) for n, p in network.head.named_parameters()}


def spec_of(charter: Charter, head: Manifest | Lent) -> HeadSpec:
    """Return what a head must look like.

    Args:
        charter: The rules.
        head: What is said of it.

    Raises:
        HeadError: The charter lends no tensors of this kind, or heads of another width.
        NetworkError: The charter's network is not known here.
    """
    width, shapes = _head_of(charter)
    if head.kind not in KINDS[charter.exchange]:
        raise HeadError(f"{head.site} lends {head.kind}, which the charter does not know")
    if head.width != width:
        raise HeadError(f"the head of {head.site} reads {head.width} features, not {width}")
    leading = (1, charter.inner_folds + 1) if head.kind == "fits" else (1,)
    beside: dict[str, tuple[int | None, ...]] = {}
    if charter.exchange == "anchored":
        beside = {ANCHORS: (1, None, width), OPINION: (1, None, len(charter.classes))}
    return HeadSpec(
        {name: (*leading, *shape) for name, shape in shapes.items()} | beside,
        max_bytes=charter.max_head_bytes,
        max_norm=charter.max_norm,
        dtype=charter.dtype,
        leading=len(leading),
    )
