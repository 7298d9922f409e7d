"""The methods that the bench plays, by name: ours, the controls, and the rivals.

A rival of your own is named by import path, ``"package.module:RIVAL"``.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dflmoe.baselines import (
    apfl,
    d_psgd,
    dfedavgm,
    ditto,
    fedavg,
    feddf,
    fedkd,
    fedmd,
    fedper,
    fedproto,
    fedprox,
    fedrep,
    fml,
    kt_pfl,
    lg_fedavg,
    mh_pflid,
    scaffold,
    softpull,
)
from dflmoe.baselines.rival import Rival
from dflmoe.core import auto
from dflmoe.core.controls import Control
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
        charter: The heads are of the network that the federation agreed on, whatever a site's own
            is; that one stays at home, and is an expert too.
        averages: As many rounds of averaging as the rivals have come before the one round of heads.
    """

    title: str
    dials: Dials
    apart: Dials | None = None
    common: bool = False
    once: bool = False
    charter: bool = False
    averages: bool = False

    def dials_for(self, *, shared: bool) -> Dials:
        """Return the dials for sites that can have one feature space, or cannot."""
        return self.dials if shared or self.apart is None else self.apart


PAPER = Dials.paper()
SHARED = Dials(mixture_steps=40, batch=16)
APART = Dials(align="paper", body="private", vouched=False, mixture_steps=60, batch=16)
ONCE = Ours("dflmoe, heads lent once", auto.AGREED, charter=True, once=True)
ROUNDS = Ours("dflmoe, averaged first", auto.AGREED, charter=True, averages=True)
ANCHORED = Ours(
    "dflmoe, own networks and anchors",
    replace(auto.TAUGHT, distil=0.0, with_alone=False),
    once=True,
)
TAUGHT = Ours("dflmoe, taught by opinions", auto.TAUGHT, once=True)
BEST = Ours("dflmoe", SHARED, APART, common=True, once=True)


def _best(title: str, change: Callable[[Dials], Dials]) -> Ours:
    """Return the best exchange so far with a dial changed, in whatever feature space."""
    return replace(BEST, title=title, dials=change(SHARED), apart=change(APART))


def _control(ours: Ours, title: str, control: Control) -> Ours:
    """Return a method of ours without the peers' knowledge."""
    apart = None if ours.apart is None else replace(ours.apart, control=control)
    return replace(ours, title=title, dials=replace(ours.dials, control=control), apart=apart)


OURS_BY_NAME: Mapping[str, Ours] = {
    "auto": replace(ROUNDS, title="dflmoe, auto"),
    "anchored": ANCHORED,
    "anchored_random": _control(ANCHORED, "anchored, random heads", "random"),
    "taught": TAUGHT,
    "taught_shuffled": _control(TAUGHT, "taught, shuffled labels", "shuffled"),
    "once": ONCE,
    "rounds": ROUNDS,
    "rounds_random": _control(ROUNDS, "averaged first, random heads", "random"),
    "rounds_shuffled": _control(ROUNDS, "averaged first, shuffled labels", "shuffled"),
    "rounds_self": _control(ROUNDS, "averaged first, own bootstrap", "self"),
    "paper": Ours("dFLMoE as published", PAPER),
    "best": BEST,
    "best_random": _control(BEST, "control: random heads", "random"),
    "best_shuffled": _control(BEST, "control: shuffled labels", "shuffled"),
    "best_self": _control(BEST, "control: own bootstrap", "self"),
    "paper_random": Ours("published, random heads", replace(PAPER, control="random")),
    "paper_no_transform": Ours("published, no transform", replace(PAPER, align="shared")),
    "paper_no_gate": Ours(
        "published, all weighed alike", replace(PAPER, gate="static", gate_sd=1e-4)
    ),
    "best_no_guard": _best("dflmoe, no guard", lambda dials: replace(dials, guard=False)),
    "best_attention": _best(
        "dflmoe, attention gate", lambda dials: replace(dials, gate="attention")
    ),
    "best_consensus": replace(  # heads of different networks have no average
        BEST, title="dflmoe, consensus restart", dials=replace(SHARED, restart="consensus")
    ),
    "best_no_shift": _best("dflmoe, no shift", lambda dials: replace(dials, calibrate=False)),
}

BY_EXCHANGE: Mapping[auto.Exchange, Ours] = {
    "averaged": ROUNDS,
    "shared": BEST,
    "anchored": TAUGHT,
    "seeded": BEST,
    "paper": BEST,
}


def ours(name: str, exchange: auto.Exchange) -> Ours | None:
    """Return a method of ours by name, or ``None``.

    Args:
        name: Of the method; ``auto`` is the one that suits what the sites have.
        exchange: What suits them.
    """
    return BY_EXCHANGE[exchange] if name == "auto" else OURS_BY_NAME.get(name)


RIVALS: Mapping[str, Rival] = {
    "fedavg": fedavg.FEDAVG,
    "fedavg_tuned": fedavg.FEDAVG_TUNED,
    "fedrep": fedrep.RIVAL,
    "lg_fedavg": lg_fedavg.RIVAL,
    "d_psgd": d_psgd.RIVAL,
    "fedmd": fedmd.RIVAL,
    "fedprox": fedprox.RIVAL,
    "scaffold": scaffold.RIVAL,
    "ditto": ditto.RIVAL,
    "apfl": apfl.RIVAL,
    "fedper": fedper.RIVAL,
    "dfedavgm": dfedavgm.RIVAL,
    "softpull": softpull.RIVAL,
    "fedproto": fedproto.RIVAL,
    "feddf": feddf.RIVAL,
    "kt_pfl": kt_pfl.RIVAL,
    "fml": fml.RIVAL,
    "mh_pflid": mh_pflid.RIVAL,
    "fedkd": fedkd.RIVAL,
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


def is_control(name: str) -> bool:
    """Return whether a method is a control: ours without the peers' knowledge."""
    method = OURS_BY_NAME.get(name)
    return method is not None and method.dials.control != "none"


def revision(name: str) -> int:
    """Return how often what a method decides has changed; older results are played again.

    1: a hedge that the score and every class can veto.
    """
    method = OURS_BY_NAME.get(name)
    return int(method is not None and method.dials.hedge)


def needs(name: str) -> tuple[str, ...]:
    """Return what a method needs that lending heads does not."""
    return () if name in ALONE or name in OURS_BY_NAME else rival(name).needs


def paper(name: str) -> str:
    """Return where a method was published."""
    if name in ALONE:
        return ""
    return OURS if name in OURS_BY_NAME else rival(name).paper
