"""The methods that the bench plays, by name: ours, the controls, and the rivals.

A rival of your own is named by import path, ``"package.module:RIVAL"``.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dflmoe.baselines import d_psgd, fedavg, fedmd, fedrep, lg_fedavg
from dflmoe.baselines.rival import Rival
from dflmoe.core.dials import Dials
from dflmoe.errors import ExperimentError

OURS = "Xie et al., CVPR 2025"


@dataclass(frozen=True)
class Ours:
    """dFLMoE with some dials.

    Attributes:
        title: Name in tables.
        dials: Where sites have one network, and so can have one feature space.
        apart: Where they have not; the same if not given.
        common: Every site keeps the body as the federation's seed made it.
        once: One round, trained to convergence; else as many rounds as the rivals.
        note: What it is for.
    """

    title: str
    dials: Dials
    apart: Dials | None = None
    common: bool = False
    once: bool = False
    note: str = ""


PAPER = Dials.paper()
SHARED = Dials(mixture_steps=40, batch=16)
APART = Dials(align="paper", body="private", vouched=False, mixture_steps=60, batch=16)
BEST = Ours(
    "dflmoe", SHARED, APART, common=True, once=True, note="the best exchange of heads so far"
)

OURS_BY_NAME: Mapping[str, Ours] = {
    "paper": Ours("dFLMoE as published", PAPER, note="private bodies, learned transforms"),
    "best": BEST,
    "best_random": replace(
        BEST,
        title="control: random heads",
        dials=replace(SHARED, control="random"),
        apart=replace(APART, control="random"),
        note="capacity without knowledge",
    ),
    "best_shuffled": replace(
        BEST,
        title="control: shuffled labels",
        dials=replace(SHARED, control="shuffled"),
        apart=replace(APART, control="shuffled"),
        note="heads that look trained and know nothing",
    ),
    "best_self": replace(
        BEST,
        title="control: own bootstrap",
        dials=replace(SHARED, control="self"),
        apart=replace(APART, control="self"),
        note="ensembling without peers",
    ),
    "paper_random": Ours("published, random heads", replace(PAPER, control="random")),
    "paper_no_transform": Ours("published, no transform", replace(PAPER, align="shared")),
    "paper_no_gate": Ours(
        "published, all weighed alike", replace(PAPER, gate="static", gate_sd=1e-4)
    ),
    "best_no_guard": replace(
        BEST,
        title="dflmoe, no guard",
        dials=replace(SHARED, guard=False),
        apart=replace(APART, guard=False),
    ),
    "best_attention": replace(
        BEST,
        title="dflmoe, attention gate",
        dials=replace(SHARED, gate="attention"),
        apart=replace(APART, gate="attention"),
    ),
    "best_consensus": replace(
        BEST, title="dflmoe, consensus restart", dials=replace(SHARED, restart="consensus")
    ),
    "best_no_shift": replace(
        BEST,
        title="dflmoe, no shift",
        dials=replace(SHARED, calibrate=False),
        apart=replace(APART, calibrate=False),
    ),
}

RIVALS: Mapping[str, Rival] = {
    "fedavg": fedavg.FEDAVG,
    "fedavg_tuned": fedavg.FEDAVG_TUNED,
    "fedrep": fedrep.RIVAL,
    "lg_fedavg": lg_fedavg.RIVAL,
    "d_psgd": d_psgd.RIVAL,
    "fedmd": fedmd.RIVAL,
}

LOCAL = "local"
LOGISTIC = "logistic"
ALONE: Mapping[str, str] = {LOCAL: "local only", LOGISTIC: "local, logistic regression"}


def names() -> list[str]:
    """Return the methods that come with the package."""
    return [*ALONE, *OURS_BY_NAME, *RIVALS]


def rival(name: str) -> Rival:
    """Return a rival by name or by import path.

    Raises:
        ExperimentError: There is no such rival.
    """
    if name in RIVALS:
        return RIVALS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ExperimentError(
            f"method {name!r} is unknown; there are {', '.join(names())}, "
            f"or name a rival of your own as package.module:RIVAL"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExperimentError(f"rival {name!r} cannot be imported: {error}") from error
    if not isinstance(found, Rival):
        raise ExperimentError(f"{name!r} is no Rival but {type(found).__name__}")
    return found


def title(name: str) -> str:
    """Return the name of a method in tables."""
    if name in ALONE:
        return ALONE[name]
    return OURS_BY_NAME[name].title if name in OURS_BY_NAME else rival(name).title


def needs(name: str) -> tuple[str, ...]:
    """Return what a method needs that lending heads does not."""
    return () if name in ALONE or name in OURS_BY_NAME else rival(name).needs


def paper(name: str) -> str:
    """Return where a method was published."""
    if name in ALONE:
        return ""
    return OURS if name in OURS_BY_NAME else rival(name).paper
