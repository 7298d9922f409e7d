"""Play every arm of one repeat on the same rows with the same care."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dflmoe.baselines.alone import better
from dflmoe.baselines.averaging import Averaging, averaged
from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import tuned_logistic
from dflmoe.core.algorithm import Algorithm, Outcome
from dflmoe.core.controls import Control
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.served import heat
from dflmoe.core.site import CrossFit, SiteData
from dflmoe.data.prepared import data_of, splits_of
from dflmoe.data.splits import Splits
from dflmoe.data.study import SiteRows, Study
from dflmoe.metrics.clinical import threshold_for_sensitivity, threshold_for_specificity
from dflmoe.pilot.plan import INNER_FOLDS, Options, Plan, alike
from dflmoe.simulation.faults import Fault
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine
from dflmoe.types import SiteId

CONTROLS: dict[str, Control] = {
    "random_heads": "random",
    "shuffled": "shuffled",
    "self": "self",
}


class FirstLook(NamedTuple):
    """What is played where a user wants to see something soon.

    Attributes:
        folds: Test folds.
        repeats: How often all rows are tested.
        arms: What is played beside ``alone`` and ``federated``.
    """

    folds: int = 2
    repeats: int = 1
    arms: tuple[str, ...] = ("random_heads",)


FIRST_LOOK = FirstLook()

ARMS = ("alone", "federated", *CONTROLS, "fedavg", "pooled")
ALONE, LENDING = "alone/{}", "lend/{}"
"""Random streams of a repeat; every arm of lending sees the same chance."""

FAULTS: tuple[Fault, ...] = ("silent", "tampered", "poisoned")


@dataclass(frozen=True)
class Tested:
    """What one arm says of each row of a site when the row is tested.

    Attributes:
        probs: Probabilities, ``[row, class]``.
        flagged: Whether the row is called positive at the operating point of its split, which was
            chosen on rows that the model did not see and that are not tested.
        cautious: The same at the threshold for the wanted specificity.
        calibrated: Probability of being positive after a temperature that was fitted on those rows.
    """

    probs: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    cautious: NDArray[np.bool_]
    calibrated: NDArray[np.float64]

    def only(self, rows: NDArray[np.bool_]) -> "Tested":
        """Return what is said of some of the rows."""
        return Tested(
            self.probs[rows], self.flagged[rows], self.cautious[rows], self.calibrated[rows]
        )


@dataclass
class Repeat:
    """One repeat: every row of every site tested once by every arm.

    Attributes:
        split: The split in which each row was tested.
        asked: Whether a row was tested at all.
        tested: By arm, then site.
        shares: Mean weight of each expert at each site.
        worth: What the mixture's out-of-fold log-loss would rise by without each peer's head.
        used: How often the guard let the mixture serve.
        quarantined: How often a peer's head was set aside.
        chosen: How often logistic regression was the better model alone.
        curves: Out-of-fold log-loss while training, by site.
        average_curve: FedAvg's out-of-fold log-loss by round, by site.
        rehearsal: What each fault of one peer did, by fault and site (first repeat only).
        federation: Bytes and times of the federated arm.
        average: Bytes and times of FedAvg.
    """

    split: dict[SiteId, NDArray[np.int64]] = field(default_factory=dict)
    asked: dict[SiteId, NDArray[np.bool_]] = field(default_factory=dict)
    tested: dict[str, dict[SiteId, Tested]] = field(default_factory=dict)
    shares: dict[SiteId, dict[SiteId, float]] = field(default_factory=dict)
    worth: dict[SiteId, dict[SiteId, float]] = field(default_factory=dict)
    used: dict[SiteId, float] = field(default_factory=dict)
    quarantined: dict[SiteId, dict[SiteId, float]] = field(default_factory=dict)
    chosen: dict[SiteId, float] = field(default_factory=dict)
    curves: dict[SiteId, list[float]] = field(default_factory=dict)
    average_curve: dict[SiteId, list[float]] = field(default_factory=dict)
    rehearsal: dict[Fault, "Rehearsed"] = field(default_factory=dict)
    federation: Played | None = None
    average: Played | None = None


@dataclass(frozen=True)
class Rehearsed:
    """A fault of one peer and what the others had of it."""

    culprit: SiteId
    tested: dict[SiteId, Tested]
    refused: int
    quarantined: dict[SiteId, float]


Step = Callable[[str], None]
"""Told what is done, for a progress bar."""


def play_repeat(
    study: Study,
    options: Options,
    plan: Plan,
    number: int,
    step: Step,
    *,
    arms: Collection[str] = ARMS,
) -> Repeat:
    """Play the arms of one repeat.

    Args:
        study: The sites.
        options: Folds, seed and the like.
        plan: Networks, dials and training.
        number: Of the repeat, from 0.
        step: Called after each arm.
        arms: What to play beside ``alone`` and ``federated``; the rehearsal is part of the whole.
    """
    seed = options.seed
    splits = {site.name: drawn(site, options, number) for site in study.sites}
    data = {
        site.name: data_of(
            site, splits[site.name], own_scale=study.own_scale, anchors=study.anchors
        )
        for site in study.sites
    }
    repeat = Repeat(
        split={n: s.test.int().argmax(0).numpy() for n, s in splits.items()},
        asked={n: s.test.any(0).numpy() for n, s in splits.items()},
    )

    def keep(arm: str, said: Mapping[SiteId, Float[Tensor, "split row class"]]) -> None:
        repeat.tested[arm] = {
            name: tested(said[name], data[name], splits[name], options) for name in said
        }
        step(arm)

    classes = len(study.classes)
    at_home, machine = plan.own or plan.networks, options.machine
    local = {name: LocalOnly(network, plan.training) for name, network in at_home.items()}
    networks = play(local, data, rounds=1, seed=seed, purpose=ALONE.format(number), machine=machine)
    alone = {}
    for name, one in data.items():
        own = networks.outcomes[name][-1]
        alone[name], share = better(tuned_logistic(one, classes), own.served, one)
        repeat.chosen[name] = share
        repeat.curves[name] = mean_curve(own)
    data = {name: replace(one, alone=alone[name]) for name, one in data.items()}
    keep("alone", alone)

    def lend(control: Control, faults: Mapping[SiteId, Fault] | None = None) -> Played:
        dials = replace(plan.dials, control=control)
        sites: dict[SiteId, Algorithm] = {
            name: DFLMoE(network, dials, plan.lending, plan.tuning, body_seed=seed)
            for name, network in plan.networks.items()
        }
        purpose = LENDING.format(number)
        return play(
            sites,
            data,
            rounds=plan.rounds,
            seed=seed,
            purpose=purpose,
            faults=faults,
            hears=options.peers,
            dtype=options.dtype,
            machine=machine,
        )

    repeat.federation = played = lend("none")
    keep("federated", served(played))
    for name, outcomes in played.outcomes.items():
        last = outcomes[-1]
        repeat.shares[name] = {peer: float(w.mean()) for peer, w in last.share.items()}
        repeat.worth[name] = {peer: float(w.mean()) for peer, w in last.worth.items()}
        repeat.used[name] = float(last.used.float().mean())
        repeat.quarantined[name] = {
            peer: float(q.float().mean()) for peer, q in last.quarantined.items()
        }
    for arm, control in CONTROLS.items():
        if arm in arms:
            keep(arm, served(lend(control)))

    network = next(iter(plan.networks.values()))
    one_network = alike(plan.networks)
    if one_network and "fedavg" in arms:
        averaging: dict[SiteId, Algorithm] = {
            name: Averaging(network, plan.averaging, seed) for name in data
        }
        repeat.average = played = play(
            averaging,
            data,
            rounds=plan.average_rounds,
            seed=seed,
            purpose=f"average/{number}",
            server=averaged,
            machine=machine,
        )
        keep("fedavg", served(played))
        repeat.average_curve = {
            name: [float(o.own_loss.mean()) for o in outcomes]
            for name, outcomes in played.outcomes.items()
        }
    if one_network and "pooled" in arms:
        keep(
            "pooled",
            _pooled(
                data,
                LocalOnly(network, plan.training),
                classes,
                seed=seed,
                number=number,
                machine=machine,
            ),
        )
    if number == 0 and set(arms) == set(ARMS):
        culprit = study.sites[0].name
        for fault in FAULTS:
            played = lend("none", {culprit: fault})
            said = served(played)
            repeat.rehearsal[fault] = Rehearsed(
                culprit,
                {
                    name: tested(said[name], data[name], splits[name], options)
                    for name in said
                    if name != culprit
                },
                sum(len(r) for r in played.refused.values()),
                {
                    name: float(o[-1].quarantined.get(culprit, torch.zeros(1)).float().mean())
                    for name, o in played.outcomes.items()
                    if name != culprit
                },
            )
            step(f"rehearsal: {fault}")
    return repeat


def drawn(site: SiteRows, options: Options, number: int) -> Splits:
    """Return the splits of a repeat that the options ask for."""
    return splits_of(
        site,
        folds=options.folds,
        inner_folds=INNER_FOLDS,
        seed=options.seed,
        number=number,
        train_rows=options.train_rows,
        only=None if options.only_split is None else (options.only_split,),
    )


def tested_only(study: Study, repeats: Sequence[Repeat]) -> tuple[Study, list[Repeat]]:
    """Return the rows that were tested, and what was said of them: all, where all splits were."""
    asked = {site.name: repeats[0].asked[site.name] for site in study.sites}
    sites = tuple(
        replace(
            site,
            x=site.x[asked[site.name]],
            y=site.y[asked[site.name]],
            patient=np.unique(site.patient[asked[site.name]], return_inverse=True)[1],
            subgroups={by: g[asked[site.name]] for by, g in site.subgroups.items()},
        )
        for site in study.sites
    )

    def cut(said: dict[SiteId, Tested]) -> dict[SiteId, Tested]:
        return {n: t.only(asked[n]) for n, t in said.items()}

    return replace(study, sites=sites), [
        replace(
            repeat,
            split={name: split[asked[name]] for name, split in repeat.split.items()},
            tested={arm: cut(said) for arm, said in repeat.tested.items()},
        )
        for repeat in repeats
    ]


def served(played: Played) -> dict[SiteId, Float[Tensor, "split row class"]]:
    """Return what each site would use after the last round."""
    return {name: outcomes[-1].served for name, outcomes in played.outcomes.items()}


def tested(
    said: Float[Tensor, "split row class"], data: SiteData, splits: Splits, options: Options
) -> Tested:
    """Return what is said of each row in the split that tests it."""
    probs = said.double().exp().numpy()
    test = splits.test.numpy()
    y = data.y.numpy()
    flagged, cautious = np.zeros((2, len(y)), dtype=bool)
    calibrated = np.zeros(len(y))
    if probs.shape[2] == 2:  # noqa: PLR2004 - an operating point needs one class to look for
        for split, rows in enumerate(test):
            trains = splits.crossfit.fold[split] >= 0
            seen = trains.numpy()
            found, came, here = probs[split, seen, 1], y[seen] == 1, probs[split, rows, 1]
            flagged[rows] = here >= threshold_for_sensitivity(found, came, options.sensitivity)
            cautious[rows] = here >= threshold_for_specificity(found, came, options.specificity)
            warm = said[split].double() / heat(said[split], data.y, trains.float())
            calibrated[rows] = warm.softmax(1)[rows, 1].numpy()
    return Tested((probs * test[..., None]).sum(0), flagged, cautious, calibrated)


def _pooled(
    data: Mapping[SiteId, SiteData],
    network: LocalOnly,
    classes: int,
    *,
    seed: int,
    number: int,
    machine: Machine,
) -> dict[SiteId, Float[Tensor, "split row class"]]:
    """Return what a model of all rows together says: the bound that nobody may reach."""
    offset = torch.tensor([0, *(len(one.y) for one in data.values())]).cumsum(0)
    small = [one.small for one in data.values() if one.small is not None]
    together = SiteData(
        x=torch.cat([one.x for one in data.values()], dim=1),
        y=torch.cat([one.y for one in data.values()]),
        crossfit=CrossFit(torch.cat([one.crossfit.fold for one in data.values()], dim=1)),
        group=torch.cat([one.group + 10**9 * k for k, one in enumerate(data.values())]),
        small=torch.cat(small) if len(small) == len(data) else None,
    )
    played = play(
        {"all": network},
        {"all": together},
        rounds=1,
        seed=seed,
        purpose=f"pooled/{number}",
        machine=machine,
    )
    said, _ = better(tuned_logistic(together, classes), played.outcomes["all"][-1].served, together)
    return {
        name: said[:, start:end]
        for name, start, end in zip(data, offset[:-1], offset[1:], strict=True)
    }


def mean_curve(outcome: Outcome) -> list[float]:
    """Return the out-of-fold loss of a network while it trained, the mean over splits."""
    return [float(v) for v in torch.nanmean(outcome.curve, dim=0)]
