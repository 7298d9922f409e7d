"""From what a round came to, to a model that can leave it."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dflmoe.baselines.alone import Alone
from dflmoe.core.algorithm import Outcome
from dflmoe.core.dials import Dials
from dflmoe.core.served import AsItIs, Served, Standardising, mixing_of, served_by, taught_by
from dflmoe.core.site import Network, SiteData
from dflmoe.data.schema import Schema
from dflmoe.data.source import READ_BY, Source
from dflmoe.data.study import constants, cut_at
from dflmoe.model.blocks import blocks_of
from dflmoe.model.judging import judged, temperature_of
from dflmoe.model.model import Model
from dflmoe.model.told import Told
from dflmoe.types import SiteId


@dataclass(frozen=True)
class About:
    """What a model is for.

    Attributes:
        site: Whose it is.
        federation: Which one, for people.
        task: What is predicted, for people.
        classes: Names of the classes.
        kind: What a row is.
        shape: Of one row.
        columns: What the features of a table are.
        source: Where rows were read from.
        names_patients: Whether rows name their patient.
    """

    site: SiteId
    federation: str
    task: str
    classes: tuple[str, ...]
    kind: Literal["table", "image", "series"]
    shape: tuple[int, ...]
    columns: Schema | None = None
    source: Source | None = None
    names_patients: bool = True


def model_of(
    about: About,
    data: SiteData,
    had: Alone,
    outcome: Outcome,
    *,
    network: Network,
    dials: Dials,
    number: int,
    seed: int,
    own: Network | None = None,
    raw: NDArray[np.float32] | None = None,
    own_scale: NDArray[np.bool_] | None = None,
) -> Model:
    """Return the model that a site uses after a round, in its first split.

    Args:
        about: What it is for.
        data: The site's rows.
        had: What the site has alone.
        outcome: Of the round, by a method that keeps what it fitted.
        network: Whose heads are lent.
        dials: The method's.
        number: Of the round.
        seed: Of the resamples of patients.
        own: The network that the site keeps to itself; the same if not given.
        raw: Its rows before they were standardised, where each site does so by its own rows.
        own_scale: Columns that were.
    """
    trains = (data.crossfit.fold[0] >= 0).numpy()
    scaling: nn.Module = AsItIs()
    columns = about.columns
    if raw is not None and own_scale is not None:
        centre, scale = constants(raw[trains], own_scale)
        if columns is not None:
            columns = columns.scaled(centre.tolist(), scale.tolist())
        else:
            made = (centre, scale, cut_at(own_scale))
            scaling = Standardising(*map(torch.from_numpy, made))
    temperature = temperature_of(outcome, data)
    served = Served(
        about.site,
        scaling,
        had.models[0],
        mixing=mixing_of(network, dials, outcome),
        taught=taught_by(network, outcome),
        serves=served_by(outcome),
        temperature=temperature,
    )
    y, people = data.y.numpy()[trains], data.group.numpy()[trains]
    told = Told(
        site=about.site,
        federation=about.federation,
        task=about.task,
        classes=about.classes,
        kind=about.kind,
        shape=about.shape,
        columns=columns,
        reading={}
        if about.source is None
        else about.source.model_dump(mode="json", include={*READ_BY}, exclude_defaults=True),
        round=number,
        serves=served.serves,
        share={site: float(share[0]) for site, share in outcome.share.items()},
        set_aside=tuple(site for site, aside in outcome.quarantined.items() if bool(aside[0])),
        rows=int(trains.sum()),
        patients=len(np.unique(people)) if about.names_patients else None,
        class_rows={name: int((y == k).sum()) for k, name in enumerate(about.classes)},
        judged=judged(outcome, data, temperature, seed=seed),
        blocks=blocks_of(served, network, own or network),
        software={name: version(name) for name in ("dflmoe", "torch")},
    )
    return Model(told, served.requires_grad_(False).eval())
