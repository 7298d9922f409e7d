"""What the epochs of a recording show, as its annotations say."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

WAKE = "Sleep stage W"

STAGES: Mapping[str, str] = {
    WAKE: "W",
    "Sleep stage 1": "N1",
    "Sleep stage 2": "N2",
    "Sleep stage 3": "N3",
    "Sleep stage 4": "N3",
    "Sleep stage R": "REM",
    "Sleep stage N1": "N1",
    "Sleep stage N2": "N2",
    "Sleep stage N3": "N3",
}
"""Texts of Sleep-EDF, and those that EDF+ has for the stages of today.

Stages 3 and 4 are one since 2007; ``Sleep stage ?`` and ``Movement time`` are none.
"""


class Annotation(Protocol):
    """A text about some seconds of a recording."""

    @property
    def onset(self) -> float:
        """Seconds from the start of the recording."""
        ...

    @property
    def duration(self) -> float | None:
        """Seconds, or none if nobody says."""
        ...

    @property
    def text(self) -> str:
        """What it says."""
        ...


def scored(
    annotations: Iterable[Annotation], stages: Mapping[str, str], *, count: int, epoch_s: float
) -> list[str]:
    """Return the class of each epoch.

    Args:
        annotations: Of the recording. One without a duration is of one epoch.
        stages: From texts to classes; other texts say nothing.
        count: Number of epochs.
        epoch_s: Seconds of each.

    Returns:
        The class of more than half of an epoch; nothing where there is none, or where scorers
        disagree. Empty if no annotation is of a stage, so that nobody has scored the recording.
    """
    covered = {name: np.zeros(count) for name in stages.values()}
    said = False
    for one in annotations:
        name = stages.get(one.text.strip())
        if name is None:
            continue
        said = True
        begin, end = np.clip(
            (one.onset / epoch_s, (one.onset + (one.duration or epoch_s)) / epoch_s), 0, count
        )
        touched = np.arange(int(begin), math.ceil(end))
        covered[name][touched] += np.minimum(touched + 1, end) - np.maximum(touched, begin)
    if not said:
        return []
    most = {name: share > 1 / 2 for name, share in covered.items()}
    clear = sum(mine.astype(int) for mine in most.values()) == 1
    labels = np.full(count, "", dtype=object)
    for name, mine in most.items():
        labels[mine & clear] = name
    return [str(label) for label in labels]


def near_sleep(labels: Sequence[str], wake: str, epochs: int) -> list[str]:
    """Return labels with those that are further from sleep than so many epochs left out."""
    asleep = [k for k, label in enumerate(labels) if label not in {"", wake}]
    if not asleep:
        return [""] * len(labels)
    kept = range(asleep[0] - epochs, asleep[-1] + epochs + 1)
    return [label if k in kept else "" for k, label in enumerate(labels)]
