"""Play one run: one method, one task, one seed."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dflmoe.baselines.local import LocalOnly
from dflmoe.baselines.logistic import LogisticOnly
from dflmoe.baselines.rival import Budget
from dflmoe.bench.experiment import RunSetting
from dflmoe.bench.federation import Federation, federation
from dflmoe.bench.leaks import heads_by_anchors, leaks, on_common_body, opinions_by_anchors
from dflmoe.bench.methods import LOCAL, LOGISTIC, Ours, ours, rival
from dflmoe.bench.record import RunRecord, SiteScore, software
from dflmoe.core.algorithm import SERVER, Algorithm, Outcome
from dflmoe.core.auto import Exchange, exchange_for
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network, SiteData
from dflmoe.core.stacking import initial
from dflmoe.core.task import Labels
from dflmoe.errors import DflmoeError, ExperimentError, NetworkError
from dflmoe.privacy.lending import Lending, Private
from dflmoe.privacy.membership import Leak
from dflmoe.privacy.noise import Budget as Epsilon
from dflmoe.privacy.noise import Noise
from dflmoe.simulation.faults import Fault, Spell, Weather, churn
from dflmoe.simulation.federation import Played, play
from dflmoe.simulation.machine import Machine
from dflmoe.types import SiteId, generator

DELTA = 1e-5
"""Chance that the bound of a private head does not hold."""

PLAIN_MACHINE = Machine()
"""The cores of a CPU."""


def play_run(setting: RunSetting, root: Path | None, machine: Machine = PLAIN_MACHINE) -> RunRecord:
    """Play a run and return its record; a run that fails says why, and stops nothing else.

    Args:
        setting: What to play.
        root: The folder of data sets; ``None`` for the embedded set only.
        machine: On what.
    """
    began = time.perf_counter()
    record = RunRecord(digest=setting.digest, setting=setting, status="failed", software=software())
    try:
        sites = _federation(setting.cell, root)
        played, rounds = _played(setting, sites, root, machine)
        told = _told(setting, sites, played)
        scores = tuple(
            _scored(sites, name, played, setting, told.get(name, {}))
            for name in sites.data
            if _stays(name, setting, sites)
        )
        refused = [sentence for sentences in played.refused.values() for sentence in sentences]
        if refused and setting.condition.hostile is None:
            return record.model_copy(update={"reason": refused[0]})
        if not all(np.isfinite(site.value) for site in scores):
            return record.model_copy(update={"reason": "a score is not a finite number"})
        done = {
            "status": "done",
            "metric": sites.kind.metric,
            "grouped_by": sites.grouped_by,
            "public_rows": sites.public_rows,
            "rounds": rounds,
            "server_bytes": played.sent_bytes.get(SERVER, 0),
            "sites": scores,
        }
    except (DflmoeError, FloatingPointError) as error:
        done = {"reason": f"{error}"}
    return record.model_copy(update={**done, "seconds": round(time.perf_counter() - began, 2)})


_federation = lru_cache(maxsize=1)(federation)
"""Methods that are compared follow each other, and share rows and networks."""


def _budget(setting: RunSetting) -> Budget:
    learning = setting.task.learning
    return Budget(learning.training, learning.one_round, learning.rounds, setting.seed)


@lru_cache(maxsize=1)
def _alone_in(cell: RunSetting, root: Path | None, machine: Machine) -> Played:
    """Return what the sites of a comparison have alone."""
    return _alone(_federation(cell, root), _budget(cell), machine)


def _played(
    setting: RunSetting, sites: Federation, root: Path | None, machine: Machine
) -> tuple[Played, int]:
    """Return what came of a method, and its rounds."""
    budget, method = _budget(setting), setting.method
    if method == LOCAL:
        return _alone_in(setting.cell, root, machine), 0
    if method == LOGISTIC:
        return _alone(sites, budget, machine, method), 0
    lends = ours(method, _exchange(sites))
    if lends is not None:
        return _ours(lends, setting, sites, root, machine)
    found = rival(method)
    if found.alike and len(set(sites.names.values())) > 1:
        raise NetworkError(
            f"{found.title} needs {found.alike} at all sites, and they have "
            f"{', '.join(sorted(set(sites.names.values())))}; leave it out or give all sites one"
        )
    if "an agreed network" in found.needs and not sites.agreed:
        raise NetworkError(
            f"{found.title} needs a network that all sites agreed on; name the task's charter"
        )
    algorithms = {
        name: found.build(network, replace(budget, agreed=sites.agreed.get(name)))
        for name, network in sites.networks.items()
    }
    played = play(
        algorithms,
        sites.data,
        rounds=budget.rounds,
        seed=setting.seed,
        purpose="bench",
        server=found.serving(sites.networks, sites.data, budget),
        faults=_hostile(setting, sites),
        weather=_weather(setting, sites, budget.rounds),
        hears=found.topology(list(sites.data)) if found.topology else None,
        machine=machine,
    )
    return played, budget.rounds


def _alone(sites: Federation, budget: Budget, machine: Machine, method: str = LOCAL) -> Played:
    """Return what each site has alone: its own network, trained to convergence."""
    if method == LOGISTIC and not isinstance(sites.kind.task, Labels):
        raise ExperimentError("logistic regression predicts classes; leave it out for images")
    local: dict[SiteId, Algorithm] = {
        name: LogisticOnly(network.classes)
        if method == LOGISTIC
        else LocalOnly(network, budget.training)
        for name, network in sites.networks.items()
    }
    return play(local, sites.data, rounds=1, seed=budget.seed, purpose="alone", machine=machine)


def _ours(
    method: Ours,
    setting: RunSetting,
    sites: Federation,
    root: Path | None,
    machine: Machine,
) -> tuple[Played, int]:
    """Return what borrowed heads gave, with the site's own network to fall back to."""
    budget = _budget(setting)
    dials = method.dials_for(shared=bool(sites.shared))
    networks = _lending(method, setting, sites)
    data: Mapping[SiteId, SiteData] = sites.data
    if dials.guard:
        alone = _alone_in(setting.cell, root, machine)
        data = {
            name: replace(one, alone=alone.outcomes[name][-1].served) for name, one in data.items()
        }
    dials = _paced(dials, budget, once=method.once)
    rounds = 1 if method.once else budget.rounds
    if method.averages:
        dials, rounds = replace(dials, averaging=budget.rounds), budget.rounds + 1
    training = budget.training if method.once else budget.steps
    algorithms: dict[SiteId, Algorithm] = {
        name: DFLMoE(
            network,
            dials,
            training,
            budget.training,
            body_seed=setting.seed,
            lender=_noisy(setting, name),
        )
        for name, network in networks.items()
    }
    weather = _weather(setting, sites, rounds)
    played = play(
        algorithms,
        data,
        rounds=rounds,
        seed=setting.seed,
        purpose="bench",
        faults=_hostile(setting, sites),
        weather=weather,
        machine=machine,
    )
    return played, rounds


class _Once:
    """The account of a site that lends once."""

    def spend(self, head: str, noise: Noise) -> None:
        """See ``Ledger.spend``."""


def _noisy(setting: RunSetting, site: SiteId) -> Lending | None:
    """Return what adds noise to a site's head, if the condition asks for it."""
    epsilon = setting.condition.epsilon
    if epsilon is None:
        return None
    key = f"{setting.seed}/{site}".encode()  # no secret: what is lent here reaches nobody
    return Lending(private=Private(Epsilon(epsilon, epsilon, DELTA), key, _Once()))


def _exchange(sites: Federation) -> Exchange:
    """Return the exchange that ``auto`` plays."""
    return exchange_for(
        one_space=bool(sites.shared),
        charter=bool(sites.charter),
        anchors=sites.public_rows > 0,
    )


def _lending(method: Ours, setting: RunSetting, sites: Federation) -> Mapping[SiteId, Network]:
    """Return the networks whose heads are lent."""
    if method.charter and not sites.charter:
        raise ExperimentError(
            f"task {setting.task_name!r} names no charter, the one network whose heads sites with "
            "different networks can lend; name one"
        )
    if method.charter:
        return sites.charter
    return sites.shared if sites.shared and method.common else sites.networks


def _told(
    setting: RunSetting, sites: Federation, played: Played
) -> Mapping[SiteId, Mapping[str, Leak]]:
    """Return what all that our sites lent tells of their training rows.

    Heads of private bodies are attacked where public rows bring them together and all sites have
    rows of one shape. A site that left before it lent anything tells nothing.
    """
    lends = ours(setting.method, _exchange(sites))
    if lends is None or lends.dials.control != "none":
        return {}
    networks = _lending(lends, setting, sites)
    lent = {site: releases for site, releases in played.lent.items() if releases}
    data = {site: sites.data[site] for site in lent}
    if all(network.common for network in networks.values()):
        bodies = {
            name: initial(network.body, 1, generator(setting.seed, "body"))
            for name, network in networks.items()
        }
        return leaks(on_common_body(networks, bodies, data, lent), data, sites.patient)
    dials = lends.dials_for(shared=bool(sites.shared))
    one_shape = len({one.x.shape[2:] for one in data.values()}) == 1
    if dials.align != "anchored" or not one_shape:  # no peer's body takes the other's rows
        return {}
    by_heads = heads_by_anchors(networks, played.states, data, lent)
    told = leaks(by_heads, data, sites.patient)
    if dials.distil and isinstance(sites.kind.task, Labels):
        by_opinions = opinions_by_anchors(networks, played.states, data, lent)
        for site, found in leaks(by_opinions, data, sites.patient).items():
            told[site].update({f"{attack}, opinions": told_by for attack, told_by in found.items()})
    return told


def _paced(dials: Dials, budget: Budget, *, once: bool) -> Dials:
    """Return dials whose mixture learns at the pace of the task.

    Learned transforms take the task's own rate and batch. A method that goes by rounds gives the
    mixture a quarter of the local steps, as the publication gives it one epoch after four.
    """
    if dials.align != "paper":
        return dials
    steps = dials.mixture_steps if once else max(1, budget.steps.max_steps // 4)
    return replace(
        dials,
        mixture_rate=budget.steps.learning_rate,
        mixture_steps=steps,
        batch=budget.steps.batch,
    )


def _last(share: float, sites: Federation) -> list[SiteId]:
    """Return the sites that leave: a share of them, the last ones, the same for every method."""
    names = list(sites.data)
    return names[len(names) - round(share * len(names)) :]


def _stays(name: SiteId, setting: RunSetting, sites: Federation) -> bool:
    return name not in _last(setting.condition.gone, sites) and name not in _hostile(setting, sites)


def _hostile(setting: RunSetting, sites: Federation) -> dict[SiteId, Fault]:
    """Return the site that misleads the others: the first."""
    lie = setting.condition.hostile
    return {} if lie is None else {next(iter(sites.data)): lie}


def _weather(setting: RunSetting, sites: Federation, rounds: int) -> Weather:
    condition = setting.condition
    gone = dict.fromkeys(_last(condition.gone, sites), rounds // 2 + 1)
    spells = [
        Spell(site, "refuse", rounds // 3 + 1, 2 * rounds // 3)
        for site in _last(condition.rejoin, sites)
    ]
    if condition.churn:
        spells += churn(list(sites.data), rounds, condition.churn, setting.seed)
    return Weather(condition.lost, gone, setting.seed, spells)


def _scored(
    sites: Federation,
    name: SiteId,
    played: Played,
    setting: RunSetting,
    told: Mapping[str, Leak],
) -> SiteScore:
    """Return a site's scores on its test rows."""
    data, outcome = sites.data[name], played.outcomes[name][-1]
    test = data.crossfit.fold[0] < 0
    said, y = outcome.served[0, test], data.y[test]
    values = sites.kind.row_scores(said, y)
    people = sites.patient[name][test.numpy()]
    losses = sites.kind.task.losses(said[None], y[None])[0].double().numpy()
    groups = {
        int(p): (round(float(values[people == p].sum()), 5), int((people == p).sum()))
        for p in np.unique(people)
    }
    guarded = bool((outcome.own != outcome.mixture).any())
    unguarded = sites.kind.row_scores(outcome.mixture[0, test], y).mean() if guarded else None
    return SiteScore(
        name=name,
        network=sites.names[name],
        train_rows=int((~test).sum()),
        test_rows=int(test.sum()),
        groups=groups,
        scores={
            k: None if v is None else round(v, 5) for k, v in sites.kind.scores(said, y).items()
        },
        sent_bytes=played.sent_bytes.get(name, 0),
        heads_used=bool(outcome.used[0]) if guarded else None,
        losses={int(p): round(float(losses[people == p].sum()), 5) for p in np.unique(people)},
        leaks={attack: Leak(round(a, 4), round(e, 4)) for attack, (a, e) in told.items()},
        settled=_settled(outcome, setting) if setting.method == LOCAL else None,
        unguarded=None if unguarded is None else round(float(unguarded), 5),
    )


def _settled(outcome: Outcome, setting: RunSetting) -> bool:
    """Return whether training stopped by itself; a head that is solved always has."""
    learning = setting.task.learning
    looks = int(torch.isfinite(outcome.curve[0]).sum())
    return looks < 1 + -(-learning.steps // learning.judge_every)
