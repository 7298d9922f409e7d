"""What a model's file says of it, beside its weights: enough to make it anew and to judge it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from dflmoe.core.mixture import Pool
from dflmoe.core.served import Serves
from dflmoe.data.schema import Schema

FORMAT: Literal["dflmoe-model-1"] = "dflmoe-model-1"


class Part(BaseModel, frozen=True, extra="forbid"):
    """A part of what is told."""


class Measured(Part):
    """A number with its 95 % interval over patients; null where it cannot be had."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Operating(Part):
    """A threshold on the probability of the class looked for, and what it does.

    It was chosen on rows out of fold; where rows were set aside, it was measured on those.
    """

    name: str
    threshold: float
    sensitivity: Measured
    specificity: Measured


class Judged(Part):
    """How good a model is, on rows that it did not learn from.

    Attributes:
        on: Which rows those are, for people.
        rows: How many.
        patients: Of how many patients.
        metric: What is measured.
        alone: Of the best model without any peer.
        served: Of this model.
        brier: Mean squared distance of its probabilities from what came true, 0 to 2.
        calibration_error: Gap between said and seen frequency, of two classes.
        uncalibrated_error: The same without the temperature.
        points: Operating points, of two classes.
        gain: Served minus alone, of the same patients.
        fewest: How many rows of the rarest class there are among them.
    """

    on: str
    rows: int
    patients: int
    metric: str
    alone: Measured
    served: Measured
    brier: float
    calibration_error: float | None = None
    uncalibrated_error: float | None = None
    points: tuple[Operating, ...] = ()
    gain: Measured | None = None
    fewest: int | None = None


class Blocks(Part):
    """What the modules of a model are made from.

    Attributes:
        network: Recipe of the network whose heads are lent.
        own: Recipe of the network that is the best model alone; none if that is logistic
            regression.
        taught: Whether there is a network that peers taught.
        home: The experts that are the site's own; none where nothing was borrowed.
        peers: Those that were borrowed.
        pool: How predictions are pooled.
        cap: The most that one peer may weigh.
        shapes: Of the tensors that only a file can tell: ``scaling``, ``map/PEER`` where a head is
            reached by a map, and ``fitted/NAME`` of gate and shift.
    """

    network: str
    own: str | None
    taught: bool = False
    home: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    pool: Pool = "linear"
    cap: float = 1.0
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)


class Told(Part):
    """All that a model's file says.

    Attributes:
        format: Of the file.
        site: Whose model it is.
        federation: Which one, for people.
        task: What is predicted, for people.
        classes: Their names, in the order of the probabilities.
        kind: What a row is.
        shape: Of one row.
        columns: What the features of a table are.
        reading: Settings by which files are read, as in ``[data]``.
        round: In which it was made.
        serves: What the guard lets serve.
        share: Mean weight of each expert.
        set_aside: Peers whose head does harm here.
        rows: How many rows it learnt from.
        patients: Of how many patients; null if nobody named them.
        class_rows: Rows of each class among them.
        judged: How good it is.
        blocks: What it is made from.
        software: Versions that made it.
    """

    format: Literal["dflmoe-model-1"] = FORMAT
    site: str
    federation: str
    task: str
    classes: tuple[str, ...]
    kind: Literal["table", "image", "series"]
    shape: tuple[int, ...]
    columns: Schema | None = None
    reading: dict[str, Any] = Field(default_factory=dict)
    round: int
    serves: Serves
    share: dict[str, float]
    set_aside: tuple[str, ...]
    rows: int
    patients: int | None
    class_rows: dict[str, int]
    judged: Judged
    blocks: Blocks
    software: dict[str, str]
