"""What a pilot plays, and which dials it turns for which data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dflmoe.core.auto import (
    AVERAGE_ROUNDS,
    DIALS,
    IMAGE_NETWORK,
    LOCAL_STEPS,
    TABLE_NETWORK,
    WHY,
)
from dflmoe.core.dials import Dials
from dflmoe.core.site import Network
from dflmoe.core.streaming import streaming
from dflmoe.core.training import Training
from dflmoe.data.study import Study
from dflmoe.data.weights import read_weights
from dflmoe.errors import OptionError
from dflmoe.networks import build, entire, fits, mlp, plain, small_cnn, splits
from dflmoe.networks.public import public_body, weights_for
from dflmoe.simulation.machine import Machine, machine_named
from dflmoe.types import SiteId
from dflmoe.wire.payload import WireDtype

Mode = Literal["auto", "paper"]

INNER_FOLDS = 5
"""Folds that decisions within a training set are cross-fitted on."""


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        folds: Test folds of each repeat.
        repeats: How often all patients are tested.
        rounds: Rounds of lending; ``None`` for what the method needs.
        seed: Of all chance.
        mode: ``auto`` or the published method.
        train_rows: Labelled rows that each site may learn from.
        sensitivity: Of the operating point, chosen out of fold.
        specificity: Of the other one, likewise.
        resamples: Of the patient bootstrap.
        network: By name or import path, the same at all sites; chosen from the data if not given.
        head_from: First layer of its head; the last block and what follows if not given.
        public_body: Safetensors file that its body begins with.
        body_learns: Layers of that body that go on learning.
        charter: One light network that all sites agreed on, by name or import path: it is averaged
            for some rounds and lent as a whole, beside networks that each site keeps to itself.
        dtype: How numbers travel.
        only_split: The one test fold to play; ``None`` for all.
        peers: Peers that each site hears in a round, by usefulness and chance; ``None`` for all.
        device: Where networks are trained: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        precision: What bodies compute in, ``fp32`` or ``bf16``.
        executor: Who trains them: ``threads`` of this process, or ``ray``.
        workers: How many of them; as many as there are cores if not given.
    """

    folds: int = 5
    repeats: int = 4
    rounds: int | None = None
    seed: int = 0
    mode: Mode = "auto"
    train_rows: int | None = None
    sensitivity: float = 0.9
    specificity: float = 0.9
    resamples: int = 2000
    network: str | None = None
    head_from: str | None = None
    public_body: Path | None = None
    body_learns: tuple[str, ...] = ()
    charter: str | None = None
    dtype: WireDtype = "fp32"
    only_split: int | None = None
    peers: int | None = None
    device: str = "cpu"
    precision: str = "fp32"
    executor: str = "threads"
    workers: int | None = None

    @property
    def machine(self) -> Machine:
        """On what it is played.

        Raises:
            OptionError: There is no such device, precision or executor.
            MissingExtraError: The executor is not installed.
        """
        return machine_named(
            self.device, precision=self.precision, executor=self.executor, workers=self.workers
        )

    def checked(self) -> "Options":
        """Return the options if all make sense.

        Raises:
            OptionError: One does not.
        """
        rules = [
            (self.folds >= 2, f"--folds is {self.folds}; it takes 2 or more"),  # noqa: PLR2004
            (self.repeats >= 1, f"--repeats is {self.repeats}; it takes 1 or more"),
            (
                self.rounds is None or self.rounds >= 1,
                f"--rounds is {self.rounds}; it takes 1 or more",
            ),
            (
                self.train_rows is None or self.train_rows >= 2 * INNER_FOLDS,
                f"--train-rows is {self.train_rows}; it takes {2 * INNER_FOLDS} or more",
            ),
            (
                self.peers is None or self.peers >= 1,
                f"--peers is {self.peers}; it takes 1 or more",
            ),
            (
                0 < self.sensitivity <= 1,
                f"--sensitivity is {self.sensitivity}; it lies above 0 and is at most 1",
            ),
            (
                0 < self.specificity <= 1,
                f"--specificity is {self.specificity}; it lies above 0 and is at most 1",
            ),
            (
                self.network is not None or not (self.head_from or self.public_body),
                "--head-from and --public-body are of a network; name it with --network",
            ),
            (
                self.public_body is not None or not self.body_learns,
                "--body-learns names layers of a public body; give that with --public-body",
            ),
            (
                self.mode == "auto" or not (self.network or self.charter),
                "--network and --charter go with --mode auto; the published method has networks "
                "of its own",
            ),
            (
                self.charter is None or not self.public_body,
                "--public-body is of a network whose head is lent, and --charter lends another; "
                "choose one of them",
            ),
            (
                self.charter is None or not self.head_from,
                "--head-from is of a network whose head is lent, and --charter lends another as a "
                "whole; choose one of them",
            ),
        ]
        for fine, sentence in rules:
            if not fine:
                raise OptionError(sentence)
        _ = self.machine
        return self


@dataclass(frozen=True)
class Plan:
    """The networks of all sites, the method's dials, and how everything is trained.

    Attributes:
        networks: Of each site.
        dials: Of the federated arm and its controls.
        training: Of the networks that are trained to convergence, alone, pooled and averaged.
        lending: Of the federated arm's body and head in each round.
        averaging: Of the local steps of FedAvg.
        rounds: Rounds of lending.
        average_rounds: Rounds that FedAvg gets.
        why: The choices in words, for the report.
        tuning: Of the own head at home, and of what is lent after rounds of averaging; as
            ``lending`` if not given.
        own: Networks that the sites keep to themselves, where those above are what they agreed to
            lend heads of; the same if not given.
    """

    networks: dict[SiteId, Network]
    dials: Dials
    training: Training
    lending: Training
    averaging: Training
    rounds: int
    average_rounds: int
    why: tuple[str, ...] = field(default=())
    tuning: Training | None = None
    own: dict[SiteId, Network] | None = None


def alike(networks: Mapping[SiteId, Network]) -> bool:
    """Return whether all sites have one network, so that weights can be averaged."""
    return len({f"{n.body}{n.head}" for n in networks.values()}) == 1


AVERAGE = Training(weight_decays=(0.3, 0.03, 0.003), learning_rate=0.05, max_steps=10)
PAPER_STEPS = Training(
    weight_decays=(1e-3,),
    learning_rate=3e-3,
    max_steps=32,
    judge_every=32,
    batch=32,
    early_stopping=False,
)


def chosen(study: Study, options: Options) -> Plan:
    """Choose networks, dials and training from what the study and the options say."""
    plan = _chosen(study, options)
    if study.streamed is None:
        return plan
    rows = study.streamed.rows

    def reading(networks: Mapping[SiteId, Network]) -> dict[SiteId, Network]:
        once = {id(network): streaming(network, rows) for network in networks.values()}
        return {name: once[id(network)] for name, network in networks.items()}

    own = None if plan.own is None else reading(plan.own)
    return replace(plan, networks=reading(plan.networks), own=own)


SERIES_NETWORK, LARGE_NETWORK = "cnn1d", "resnet8"
"""What series are given, and images that do not fit into memory, where no network is named."""


def _chosen(study: Study, options: Options) -> Plan:
    table, classes = study.kind == "table", len(study.classes)
    shape = (len(study.sites[0].y), *study.shape)
    if options.mode == "paper":
        network = mlp(shape[1], classes) if table else small_cnn(shape[1], classes)
        return Plan(
            networks={site.name: network for site in study.sites},
            dials=Dials.paper(),
            training=TABLE_NETWORK if table else IMAGE_NETWORK,
            lending=PAPER_STEPS,
            rounds=options.rounds or 15,
            averaging=AVERAGE,
            average_rounds=AVERAGE_ROUNDS,
            why=(
                "Mode paper: private bodies, learned feature space transforms, attention gate over "
                "logits, no guard, as we read the publication.",
                "In our trials this exchange carried no knowledge: compare it with its controls.",
            ),
        )
    if options.charter:
        return _of_charter(study, options, options.charter)
    if options.network:
        return _of_network(study, options, options.network)
    if study.kind == "series" or study.streamed is not None:
        return _trained_apart(
            study, options, SERIES_NETWORK if study.kind == "series" else LARGE_NETWORK
        )
    if table:
        vouched = study.own_scale is None
        return Plan(
            networks={site.name: plain(shape[1], classes) for site in study.sites},
            dials=replace(Dials(), vouched=vouched),
            training=Training(),
            lending=Training(),
            rounds=options.rounds or 1,
            averaging=AVERAGE,
            average_rounds=AVERAGE_ROUNDS,
            why=(
                "A table: the body is the standardised features themselves, the head a "
                "regularised logistic regression, lent once.",
                "All sites standardise by the same constants, so a head means the same everywhere: "
                "it is mixed unless there is evidence of harm."
                if vouched
                else "Each site standardises by its own rows, so nobody vouches that a head means "
                "the same everywhere: the mixture is used only on evidence of benefit.",
            ),
        )
    return Plan(
        networks={site.name: small_cnn(shape[1], classes, common=True) for site in study.sites},
        dials=Dials(),
        training=IMAGE_NETWORK,
        lending=IMAGE_NETWORK,
        averaging=replace(IMAGE_NETWORK, max_steps=10),
        rounds=options.rounds or 1,
        average_rounds=AVERAGE_ROUNDS,
        why=(
            "Images: the first layer is the same at all sites, grown from the federation's seed "
            "and never trained; the head is the rest of a small convolutional network.",
        ),
    )


def _of_network(study: Study, options: Options, name: str) -> Plan:
    """Return the plan for a network that the user named, the same at all sites.

    Raises:
        NetworkError: It does not fit the data, or its public weights do not fit it.
    """
    at = options.head_from or (None if ":" in name else splits(name)[1])
    one = build(name, study.shape, len(study.classes), at=at, common=True)
    why = (
        f"The body of {name} is the same at all sites, grown from the federation's seed and never "
        "trained, so a head means the same everywhere."
    )
    if options.public_body:
        given = read_weights(options.public_body)
        given, _ = weights_for(given, name, study.shape, len(study.classes), at=at)
        one = public_body(one, given, options.body_learns)
        why = (
            f"The body of {name} begins with public weights and stays so: a head means the same "
            "everywhere, and is mixed unless there is evidence of harm."
        )
    if options.body_learns:
        why = (
            f"The body of {name} begins with public weights; what learns on at each site is pulled "
            f"back to them ({', '.join(options.body_learns)}), and the mixture is used only on "
            "evidence of benefit."
        )
    training = TABLE_NETWORK if study.kind == "table" else IMAGE_NETWORK
    return Plan(
        networks={site.name: one for site in study.sites},
        dials=Dials(
            body="public" if options.public_body else "seeded",
            vouched=one.common and study.own_scale is None,
        ),
        training=training,
        lending=training,
        averaging=replace(training, max_steps=10),
        rounds=options.rounds or 1,
        average_rounds=AVERAGE_ROUNDS,
        why=(why,),
    )


def _trained_apart(study: Study, options: Options, name: str) -> Plan:
    """Return the plan for one network that starts alike and is trained at each site."""
    one = build(name, study.shape, len(study.classes))
    return Plan(
        networks={site.name: one for site in study.sites},
        dials=DIALS["seeded"],
        training=IMAGE_NETWORK,
        lending=IMAGE_NETWORK,
        averaging=replace(IMAGE_NETWORK, max_steps=10),
        rounds=options.rounds or 1,
        average_rounds=AVERAGE_ROUNDS,
        why=(f"The network is {name}. {WHY['seeded']}",),
    )


def _of_charter(study: Study, options: Options, name: str) -> Plan:
    """Return the plan for sites that agreed on one light network beside their own.

    Raises:
        NetworkError: It does not fit the data.
    """
    shape, classes = study.shape, len(study.classes)
    training = TABLE_NETWORK if study.kind == "table" else IMAGE_NETWORK
    if options.network:
        own = entire(options.network, shape, classes)
    else:
        own = mlp(shape[0], classes) if study.kind == "table" else small_cnn(shape[0], classes)
    agreed = entire(name, shape, classes)
    fits(agreed, shape, (classes,))
    return Plan(
        networks={site.name: agreed for site in study.sites},
        own={site.name: own for site in study.sites},
        dials=replace(DIALS["averaged"], averaging=AVERAGE_ROUNDS),
        training=training,
        tuning=training,
        lending=LOCAL_STEPS,
        averaging=AVERAGE if study.kind == "table" else replace(IMAGE_NETWORK, max_steps=10),
        rounds=AVERAGE_ROUNDS + (options.rounds or 1),
        average_rounds=AVERAGE_ROUNDS,
        why=(f"{WHY['averaged']} It is {name}, lent as a whole; FedAvg and pooled are of it too.",),
    )
