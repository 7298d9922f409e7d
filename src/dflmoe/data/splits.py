"""Splits by patient: test folds, and the folds that decisions are cross-fitted on."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from dflmoe.core.site import CrossFit
from dflmoe.errors import SiteError


@dataclass(frozen=True)
class Splits:
    """The splits of one repeat: every row is tested in exactly one of them.

    Attributes:
        crossfit: Training rows and their folds.
        test: Rows that are tested.
    """

    crossfit: CrossFit
    test: Bool[Tensor, "split row"]


def repeated_splits(
    y: NDArray[np.int64],
    patient: NDArray[np.int64],
    *,
    folds: int,
    inner_folds: int,
    train_rows: int | None,
    seed: int,
) -> Splits:
    """Divide a site's rows into test folds, and each fold's training rows into inner folds.

    Both are stratified by class and never divide a patient. With ``train_rows`` the training rows
    are a stratified draw with at least two of each class that is there; it is made once.

    Args:
        y: Classes.
        patient: Patient of each row.
        folds: Test folds.
        inner_folds: Folds for decisions. A class with fewer training rows is missing from some,
            but from no fit, as long as it has two.
        train_rows: Labelled rows that the site may learn from; ``None`` for all.
        seed: Of this site and repeat.
    """
    rng = np.random.default_rng(seed)
    outer = fold_of(y, patient, folds, rng)
    drawn = []
    for k in range(folds):
        rows = np.flatnonzero(outer != k)
        drawn.append(rows if train_rows is None else draw_rows(y, rows, train_rows, rng))
    fold = np.full((folds, len(y)), -1)
    for k, rows in enumerate(drawn):
        fold[k, rows] = fold_of(y[rows], patient[rows], inner_folds, rng)
    test = outer[None, :] == np.arange(folds)[:, None]
    return Splits(CrossFit(torch.from_numpy(fold)), torch.from_numpy(test))


def fold_of(
    y: NDArray[np.int64], patient: NDArray[np.int64], folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the fold of each row, stratified by class, patients undivided.

    Raises:
        SiteError: There are fewer patients than folds, or fewer rows of every class.
    """
    people, most = len(np.unique(patient)), int(np.bincount(y).max(initial=0))
    if min(people, most) < folds:
        raise SiteError(
            f"rows of {people} patients, at most {most} of one class, cannot be divided into "
            f"{folds} parts; add patients, or ask for fewer parts"
        )
    state = int(rng.integers(2**31))
    grouped = len(np.unique(patient)) < len(patient)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    fold = np.zeros(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds is fine
        parts = kind(folds, shuffle=True, random_state=state).split(y, y, patient)
        for k, (_, held) in enumerate(parts):
            fold[held] = k
    return fold


def draw_rows(
    y: NDArray[np.int64], rows: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ``count`` of ``rows``, as the classes are mixed there, at least two of each."""
    if count >= len(rows):
        return rows
    classes, there = np.unique(y[rows], return_counts=True)
    share = there * count / len(rows)
    take = np.minimum(np.maximum(np.floor(share).astype(int), 2), there)
    while take.sum() < count:
        open_ = np.where(take < there, share - take, -np.inf)
        take[int(open_.argmax())] += 1
    while take.sum() > count and (take > 2).any():  # noqa: PLR2004 - two of each stay
        take[int(np.where(take > 2, take - share, -np.inf).argmax())] -= 1  # noqa: PLR2004
    drawn = [
        rng.choice(rows[y[rows] == label], n, replace=False)
        for label, n in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(drawn))
