"""What an experiment is: a TOML file that names tasks, methods and conditions.

Tasks are described once, in ``experiments/tasks.toml``; an experiment refers to them by name, and
may describe its own. Everything that decides a result stands in the *settings* of a run, and their
digest in its record, so results of different settings are never mixed.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from dflmoe.bench.methods import ALONE
from dflmoe.core.training import Training
from dflmoe.data.sets import NAMES, is_at_hand, why_not
from dflmoe.errors import ExperimentError
from dflmoe.simulation.faults import Lie
from dflmoe.toml import toml_of

SHIPPED = files("dflmoe.bench") / "experiments"
Ratio = Annotated[float, Field(gt=0, lt=1)]

NOISE = "noise"
"""Anchors that nobody ever measured."""


class Section(BaseModel, frozen=True, extra="forbid"):
    """A table of the file: immutable, and a misspelt key is an error."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that came later; unused they are left out, so that older results keep their digest."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in unused}


class Partition(Section):
    """How the rows of a set are dealt to sites; a patient is never divided."""

    later = frozenset({"largest"})

    kind: Literal[
        "natural", "dirichlet", "shards", "quantity", "even", "resolution", "eight_hospitals"
    ]
    sites: PositiveInt = 8
    alpha: PositiveFloat = 0.5  # of dirichlet
    shards: PositiveInt = 2  # of each site
    exponent: PositiveFloat = 1.0  # of quantity
    factors: tuple[PositiveInt, ...] = ()  # of resolution: site k is coarser by factors[k]
    largest: PositiveInt | None = None  # of natural: only as many, those with most rows


class Learning(Section):
    """How much any method may learn; rounds times local steps is about ``steps``."""

    steps: PositiveInt = 300  # to convergence, with early stopping
    judge_every: PositiveInt = 20
    patience: PositiveInt = 4
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 0.005
    weight_decays: tuple[PositiveFloat, ...] = (0.01,)
    round_decays: tuple[PositiveFloat, ...] = (0.01,)  # of methods that go by rounds
    rounds: PositiveInt = 20

    @property
    def local_steps(self) -> int:
        """Steps of one round."""
        return max(1, self.steps // self.rounds)

    @property
    def training(self) -> Training:
        """To convergence."""
        return Training(
            weight_decays=self.weight_decays,
            learning_rate=self.learning_rate,
            max_steps=self.steps,
            judge_every=self.judge_every,
            patience=self.patience,
            batch=self.batch,
        )

    @property
    def one_round(self) -> Training:
        """Of one round."""
        return Training(
            weight_decays=self.round_decays,
            learning_rate=self.learning_rate,
            max_steps=self.local_steps,
            judge_every=self.local_steps,
            batch=self.batch,
            early_stopping=False,
        )


class TaskSetting(Section):
    """A data set, how it is dealt, and the networks that learn it."""

    later = frozenset({"charter", "charter_split", "metric", "stand_in", "stands_for"})

    set: str
    title: str
    partition: Partition
    networks: Annotated[tuple[str, ...], Field(min_length=1)]  # dealt to the sites in turn
    charter: str | None = None  # the network whose heads are lent where the sites' own differ
    charter_split: str = "model"  # the layer where that head begins; "model" for all of it
    metric: Literal["auroc"] | None = None  # instead of the metric of the set's kind
    split: str | None = None  # the layer where the head begins; the network's own if not given
    lend_from: str | None = None  # the same for our best mode in one feature space
    side: PositiveInt | None = None  # pixels
    per_group: PositiveInt | None = None  # rows of a patient or recording at most
    max_rows: PositiveInt | None = None  # rows of a site at most
    train_rows: PositiveInt | None = None  # labelled rows that a site may learn from
    test_ratio: Ratio = 0.4
    inner_folds: Annotated[int, Field(ge=2)] = 3
    anchors: PositiveInt = 64  # public rows without labels
    anchors_from: str | None = (
        None  # the set that they are; set apart from the task's own if not given
    )
    learning: Learning = Learning()
    stand_in: dict[str, Any] | None = None  # what is changed where the set is not at hand
    stands_for: str | None = None  # the set that was not

    @model_validator(mode="after")
    def _known(self) -> Self:
        if why := why_not(self.set):
            raise ValueError(f"set {self.set!r} {why}")
        if self.anchors_from is not None and self.anchors_from not in NAMES:
            raise ValueError(f"anchors_from names no set; there are {', '.join(NAMES)}")
        if self.partition.kind == "resolution" and not self.partition.factors:
            raise ValueError("a partition by resolution needs factors")
        if self.stand_in is not None:
            self._stood_in(self.stand_in)
        return self

    def at_hand(self, root: Path | None) -> Self:
        """Return the task on its set, or on the nearest one where that is not at hand.

        Args:
            root: The folder of data sets.
        """
        if self.stand_in is None:
            return self
        if is_at_hand(self.set, root):
            return self.model_copy(update={"stand_in": None})
        return self._stood_in(self.stand_in)

    def _stood_in(self, changed: dict[str, Any]) -> Self:
        own = self.model_dump(exclude_unset=True) | {"stand_in": None, "stands_for": self.set}
        return type(self).model_validate(own | changed)


class Condition(Section):
    """Something that is changed for all methods alike."""

    later = frozenset(
        {
            "hostile",
            "anchors",
            "anchors_from",
            "tasks",
            "public_body",
            "epsilon",
            "churn",
            "rejoin",
            "as_published",
        }
    )

    name: str = ""
    lost: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of messages that never arrive
    gone: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of sites that leave half-way
    churn: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # away in each round, back in the next
    rejoin: Annotated[float, Field(ge=0, lt=1)] = 0.0  # away in the middle third of the rounds
    train_rows: PositiveInt | None = None
    sites: PositiveInt | None = None
    lends: Literal["head", "block", "model"] | None = None  # how much of the network travels
    hostile: Lie | None = None  # what the first site lends; the others' scores count
    anchors: PositiveInt | None = None  # as many of the public rows; sites have the same rows
    anchors_from: str | None = None  # another set in their place, or "noise"
    public_body: str | None = None  # the set that the body of every network learnt before
    epsilon: PositiveFloat | None = None  # what a lent head may tell; no noise if not given
    tasks: tuple[str, ...] = ()  # where it is played; everywhere if empty
    as_published: bool = False  # rows are divided, and every site of a resolution has all of them

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.public_body not in {None, *NAMES}:
            raise ValueError(
                f"public_body {self.public_body!r} is no set; there are {', '.join(NAMES)}"
            )
        if self.anchors_from not in {None, NOISE, *NAMES}:
            raise ValueError(
                f"anchors_from {self.anchors_from!r} is no set; there are {NOISE}, "
                f"{', '.join(NAMES)}"
            )
        return self


class Experiment(Section):
    """One question, and what is played to answer it."""

    name: str
    title: str
    question: str
    networks: Literal["same", "different"] = "same"
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    reference: str = "best"  # the method that others are compared with
    seeds: PositiveInt = 5
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1)] = (Condition(),)
    quick_tasks: tuple[str, ...] = ()
    quick_methods: tuple[str, ...] = ("local", "fedmd", "paper", "best")
    left_out: dict[str, tuple[str, ...]] = {}  # of a task, methods that are not played there
    own_tasks: dict[str, TaskSetting] = {}

    def task(self, name: str) -> TaskSetting:
        """Return a task by name, with the networks that the experiment asks for.

        Raises:
            ExperimentError: There is no such task.
        """
        known = {**shipped_tasks(self.networks), **self.own_tasks}
        if name not in known:
            raise ExperimentError(
                f"experiment {self.name!r} names task {name!r}; there are {', '.join(known)}"
            )
        return known[name]


class RunSetting(Section):
    """Everything that decides the result of one run."""

    later = frozenset({"revision"})

    experiment: str
    task_name: str
    task: TaskSetting
    method: str
    condition: Condition
    seed: int
    quick: bool
    version: str
    revision: int = 0  # of the method, within a version

    @cached_property
    def digest(self) -> str:
        """Address of these settings: two runs of one digest have one result."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cell(self) -> "RunSetting":
        """The same without a method: what methods that are compared have in common."""
        return self.model_copy(update={"method": "", "revision": 0})

    @property
    def substance(self) -> "RunSetting":
        """What decides the result: runs of one substance have one, in whatever experiment."""
        unheard: dict[str, Any] = {}
        if self.method in ALONE:  # hears nobody, so nothing can be lost
            unheard = {"lost": 0.0, "churn": 0.0, "rejoin": 0.0}
        condition = self.condition.model_copy(update={"name": "", **unheard})
        return self.model_copy(update={"experiment": "", "condition": condition})

    @property
    def label(self) -> str:
        """Name for people."""
        parts = (self.task_name, self.condition.name, self.method, f"seed {self.seed}")
        return " · ".join(part for part in parts if part)


def shipped() -> list[str]:
    """Return the names of the experiments that come with the package."""
    names = (entry.name.removesuffix(".toml") for entry in SHIPPED.iterdir())
    return sorted(name for name in names if name not in {"tasks", "__pycache__"})


def shipped_tasks(networks: Literal["same", "different"]) -> dict[str, TaskSetting]:
    """Return the tasks that come with the package."""
    table = toml_of((SHIPPED / "tasks.toml").read_text(encoding="utf-8"))
    different = table.pop("different")
    if networks == "different":
        for name, changed in different.items():
            table[name] = _merged({**table[name], "split": None}, changed)
            table[name] = {key: value for key, value in table[name].items() if value is not None}
    return {name: TaskSetting.model_validate(task) for name, task in table.items()}


def _merged(table: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task with some keys changed, and some of its stand-in."""
    stand_in = {**table.get("stand_in", {}), **changed.get("stand_in", {})}
    return {**table, **changed, **({"stand_in": stand_in} if stand_in else {})}


def load(name: str) -> Experiment:
    """Read an experiment, by the name of a shipped one or the path of a file.

    Raises:
        ExperimentError: It is unknown, is not TOML, or breaks a rule above.
    """
    known = shipped()
    path = Path(name)
    try:
        if name in known:
            text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
        elif path.suffix == ".toml":
            text = path.read_text(encoding="utf-8")
        else:
            raise ExperimentError(
                f"experiment {name!r} is unknown; there are {', '.join(known)}, "
                f"or name a .toml file of your own"
            )
        table = toml_of(text)
        experiment = Experiment.model_validate({"name": path.stem, **table})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ExperimentError(f"experiment {name}: {'; '.join(faults)}") from error
    except (OSError, ValueError) as error:
        raise ExperimentError(f"experiment {name} cannot be read: {error}") from error
    named = (task for condition in experiment.conditions for task in condition.tasks)
    for task in (*experiment.tasks, *experiment.quick_tasks, *named):
        experiment.task(task)
    return experiment
