"""What a pilot leaves behind: a model of each site, learnt from all of its rows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from dflmoe.baselines.alone import best_alone
from dflmoe.baselines.local import LocalOnly
from dflmoe.core.algorithm import Algorithm
from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.site import CrossFit
from dflmoe.data.prepared import data_of
from dflmoe.data.splits import Splits, fold_of
from dflmoe.data.study import SiteRows, Study
from dflmoe.model.making import About, model_of
from dflmoe.model.model import Model
from dflmoe.pilot.plan import INNER_FOLDS, Options, Plan, chosen
from dflmoe.simulation.federation import play
from dflmoe.types import SiteId, generator


def models(study: Study, options: Options, plan: Plan | None = None) -> Mapping[SiteId, Model]:
    """Return a model of each site: what a node would have after as many rounds.

    All rows are learnt from, none is set aside: how good such models are is what the pilot has
    measured, and what is told of each is measured on rows that were left out in turn.

    Args:
        study: The sites.
        options: What the user chose.
        plan: Networks and dials; chosen from the study if not given.

    Raises:
        TrainingError: A loss is not finite.
    """
    plan = plan or chosen(study, options)
    seed, machine = options.seed, options.machine
    data = {
        site.name: data_of(
            site, _all_of(site, seed), own_scale=study.own_scale, anchors=study.anchors
        )
        for site in study.sites
    }
    at_home = plan.own or plan.networks
    local = {name: LocalOnly(network, plan.training) for name, network in at_home.items()}
    trained = play(local, data, rounds=1, seed=seed, purpose="model alone", machine=machine)
    had = {
        name: best_alone(trained.states[name], outcomes[-1], local[name], data[name])
        for name, outcomes in trained.outcomes.items()
    }
    data = {name: replace(one, alone=had[name].said) for name, one in data.items()}
    sites: dict[SiteId, Algorithm] = {
        name: DFLMoE(network, plan.dials, plan.lending, plan.tuning, body_seed=seed, keeps=True)
        for name, network in plan.networks.items()
    }
    played = play(
        sites,
        data,
        rounds=plan.rounds,
        seed=seed,
        purpose="model",
        hears=options.peers,
        dtype=options.dtype,
        machine=machine,
        history=False,
    )
    return {
        site.name: model_of(
            _about(study, site),
            data[site.name],
            had[site.name],
            played.outcomes[site.name][-1],
            network=plan.networks[site.name],
            dials=plan.dials,
            number=plan.rounds,
            seed=seed,
            own=at_home[site.name],
            raw=site.x,
            own_scale=study.own_scale,
        )
        for site in study.sites
    }


def _all_of(site: SiteRows, seed: int) -> Splits:
    """Return one split of which all rows are learnt from."""
    draw = torch.randint(2**31, (), generator=generator(seed, "model", site.name))
    fold = fold_of(site.y, site.patient, INNER_FOLDS, np.random.default_rng(int(draw)))
    return Splits(CrossFit(torch.from_numpy(fold)[None]), torch.zeros(1, len(fold)).bool())


def _about(study: Study, site: SiteRows) -> About:
    return About(
        site=site.name,
        federation=f"a pilot of {len(study.sites)} sites",
        task=study.task,
        classes=study.classes,
        kind=study.kind,
        shape=site.shape,
        columns=study.columns,
        source=study.source,
        names_patients=study.has_patients,
    )
