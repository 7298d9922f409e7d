"""From a site's rows to what the method learns from: splits, folds and scaled inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dflmoe.core.site import CrossFit, SiteData
from dflmoe.core.task import Labels
from dflmoe.data.splits import Splits, repeated_splits
from dflmoe.data.study import SiteRows, standardised
from dflmoe.types import generator


def splits_of(
    site: SiteRows,
    *,
    folds: int,
    inner_folds: int,
    seed: int,
    number: int = 0,
    train_rows: int | None = None,
    only: Sequence[int] | None = None,
) -> Splits:
    """Return the splits of one repeat, as the seed draws them for this site.

    Args:
        site: The rows.
        folds: Test folds.
        inner_folds: Folds for decisions.
        seed: Of all chance.
        number: Of the repeat.
        train_rows: Labelled rows that the site may learn from; ``None`` for all.
        only: The test folds to play; ``None`` for all.
    """
    draw = torch.randint(2**31, (), generator=generator(seed, "splits", site.name, number))
    every = repeated_splits(
        site.y,
        site.patient,
        folds=folds,
        inner_folds=inner_folds,
        train_rows=train_rows,
        seed=int(draw),
    )
    if only is None:
        return every
    chosen = list(only)
    return Splits(CrossFit(every.crossfit.fold[chosen]), every.test[chosen])


def data_of(
    site: SiteRows,
    splits: Splits,
    *,
    own_scale: NDArray[np.bool_] | None = None,
    anchors: NDArray[np.float32] | None = None,
) -> SiteData:
    """Return the rows of a site in some splits, ready to be learnt from.

    Args:
        site: The rows.
        splits: Which are learnt from, and in which folds.
        own_scale: Columns that the site standardises by its own training rows; ``None`` for none.
        anchors: Public rows that all sites hold.
    """
    x = standardised(site.x, own_scale, (splits.crossfit.fold >= 0).numpy())
    return SiteData(
        x=torch.from_numpy(np.array(x)),
        y=torch.from_numpy(site.y),
        crossfit=splits.crossfit,
        group=torch.from_numpy(site.patient),
        task=Labels(ranks=True),  # the report's score is the AUC
        anchors=None if anchors is None else torch.from_numpy(anchors),
        small=None if site.streamed is None else torch.from_numpy(site.seen),
    )
