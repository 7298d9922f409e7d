"""Small sites that are made up, for tests."""

import numpy as np
import torch

from dflmoe.core.site import CrossFit, SiteData
from dflmoe.data.splits import repeated_splits
from dflmoe.data.study import SiteRows, Study


def made_rows(
    name: str, rows: int, seed: int, features: int = 4, classes: int = 2, signal: float = 1.5
) -> SiteRows:
    """Return rows whose class shows in the first feature."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    x = rng.normal(size=(rows, features))
    x[:, 0] += signal * y
    return SiteRows(name, x.astype(np.float32), y.astype(np.int64), np.arange(rows))


def made_study(rows: int = 60, sites: int = 3, features: int = 4, classes: int = 2) -> Study:
    """Return a study of sites that have one and the same task."""
    made = [made_rows(f"site{k}", rows, k, features, classes) for k in range(sites)]
    return Study(
        title="made up",
        task="which half",
        classes=tuple(f"class {k}" for k in range(classes)),
        sites=tuple(made),
        kind="table",
    )


def made_data(site: SiteRows, folds: int = 2, inner_folds: int = 3, seed: int = 0) -> SiteData:
    """Return a site's rows with their splits."""
    splits = repeated_splits(
        site.y, site.patient, folds=folds, inner_folds=inner_folds, train_rows=None, seed=seed
    )
    x = torch.from_numpy(site.x).expand(folds, *site.x.shape)
    return SiteData(x, torch.from_numpy(site.y), splits.crossfit, torch.from_numpy(site.patient))


def one_split(rows: int, folds: int = 3) -> CrossFit:
    """Return a single split that trains on everything."""
    return CrossFit((torch.arange(rows) % folds)[None])
