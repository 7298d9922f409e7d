"""From where a site's rows are to a body that has learnt from them without labels."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from dflmoe.core.pretraining import Pretrained, Pretraining, pretrained
from dflmoe.data.source import Source
from dflmoe.data.without_labels import Unlabelled, without_labels
from dflmoe.errors import DataFileError, TrainingError
from dflmoe.networks import build
from dflmoe.types import generator

MIN_ROWS = 20
"""From which a body learns what tells rows apart, at least."""

PATIENTS = (
    "This body was trained on patients and carries what it learnt from them; "
    "whether to lend it to others is the founder's decision."
)
"""What a file says of itself that was made from a site's rows."""

Told = Callable[[str], Callable[[int, int], None]]
"""Returns what is told how far a part of the work is, given the part's name."""


@dataclass(frozen=True)
class PretrainedBody:
    """A body and where it comes from.

    Attributes:
        learnt: The body.
        rows: What it has learnt from.
        origin: What its file says of itself.
    """

    learnt: Pretrained
    rows: Unlabelled
    origin: Mapping[str, str | int | float]


def pretrained_body(
    source: Source,
    network: str,
    plan: Pretraining,
    *,
    at: str | None = None,
    seed: int = 0,
    told: Told = lambda _: lambda *_: None,
) -> PretrainedBody:
    """Let the body of a network learn from the rows of a source.

    Args:
        source: Where they are.
        network: Of the catalogue, or ``package.module:factory``.
        plan: How it learns.
        at: First layer of the head.
        seed: Of all chance.
        told: Told how far it is.

    Raises:
        DataError: The rows cannot be read, are too few, or are none of images or series.
        SettingsError: A transform cannot be used.
        NetworkError: There is no such network, or it takes no such rows.
        MissingExtraError: A library is not installed.
        TrainingError: A loss is not finite, or the body says the same of every row.
    """
    rows = without_labels(source, step=told("rows"))
    if rows.rows < MIN_ROWS:
        raise DataFileError(
            f"{source.path} holds {rows.rows} rows, and a body needs {MIN_ROWS} to learn what "
            f"tells rows apart; add rows"
        )
    body = build(network, rows.shape, 2, at=at).body
    rng, step = generator(seed, "pretraining"), told("steps")
    try:
        learnt = pretrained(body, rows.read, rows.rows, plan, rng, step=step)
    except FloatingPointError as error:
        raise TrainingError(f"{error}; look for extreme values in {source.path}") from error
    if learnt.collapsed:
        raise TrainingError(
            f"the body says the same of every row of {source.path} (spread {learnt.spread:.4f}); "
            f"give rows that differ, or other --steps or --seed"
        )
    split = {} if at is None else {"head_from": at}
    origin = {"made_by": "dflmoe body pretrain", "network": network, "shape": str(rows.shape)}
    how = {"method": "SimCLR, without labels", "seed": seed, **asdict(plan), "note": PATIENTS}
    return PretrainedBody(learnt, rows, {**origin, **split, **how})
