"""One hospital of the demonstration: a node that also plays the controls, and reports.

It runs in a process of its own, knows its own rows only, and meets its peers over the network.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from types import FrameType

import numpy as np
import torch

from dflmoe.core.algorithm import Outcome, run_round
from dflmoe.core.controls import Control
from dflmoe.core.site import Lent
from dflmoe.data.one_site import agreed
from dflmoe.data.source import SETTINGS
from dflmoe.data.study import Study
from dflmoe.demo.study import demo_options
from dflmoe.node.agreed import method_of
from dflmoe.node.baseline import Baseline, baseline
from dflmoe.node.exchange import Exchange, Synced
from dflmoe.node.home import Home
from dflmoe.node.life import Life, alone_in
from dflmoe.node.node import PURPOSE, Node, learnt
from dflmoe.node.settings import Settings
from dflmoe.node.status import status_of
from dflmoe.pilot.arms import CONTROLS, Repeat, Tested, mean_curve, tested
from dflmoe.pilot.plan import chosen
from dflmoe.pilot.result import report
from dflmoe.report.render import write
from dflmoe.report.schema import Operation
from dflmoe.simulation.federation import Played
from dflmoe.types import SiteId, generator
from dflmoe.wire.payload import ENVELOPE_BYTES, WireDtype, digest

PATIENCE_S = 60.0
"""How long a hospital waits for the others where all are to be at one point."""

HANDED_S = 5.0
"""How long it waits at the end for the others to take its newest head."""

REPORT = "report.html"


@dataclass(frozen=True)
class Part:
    """What a hospital is to play.

    Attributes:
        home: Its folder.
        out: Where its report goes.
        seed: Of all chance.
        dtype: How numbers travel, as the charter says.
        rounds: Of lending.
        lockstep: Whether rounds are played in step.
    """

    home: Path
    out: Path
    seed: int
    dtype: WireDtype
    rounds: int
    lockstep: bool


@dataclass
class Hospital:
    """A node, the barrier that it shares with the others, and what it has measured."""

    life: Life
    part: Part
    barrier: Barrier
    seconds: dict[str, float] = field(default_factory=dict)
    outages: list[str] = field(default_factory=list)

    @property
    def name(self) -> SiteId:
        """The site's name."""
        return self.life.replica.name

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure how long something takes, and say that it is being done."""
        self.life.doing = what
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began

    def together(self) -> bool:
        """Wait for the others; returns whether all came.

        Raises:
            BrokenBarrierError: In step, one did not.
        """
        try:
            self.barrier.wait(PATIENCE_S)
        except BrokenBarrierError:
            if self.part.lockstep:
                raise
            return False
        return True

    def peers(self) -> set[SiteId]:
        """The other hospitals."""
        return set(self.life.replica.roster.members) - {self.name}

    def heard(self, number: int) -> list[Lent]:
        """Wait until every peer's head of a round is there; returns those that are."""

        def there() -> list[Lent]:
            return [lent for lent in self.life.replica.inbox() if lent.round == number]

        self.life.network.wait(lambda: len(there()) == len(self.peers()), PATIENCE_S)
        return there()

    # --- what is played ---

    def federated(self, had: Baseline) -> Outcome:
        """Play the rounds of lending; returns what came of the last."""
        exchange: Exchange = InStep(self) if self.part.lockstep else self.life.exchange()
        method = method_of(self.life.replica.roster.charter, had.network)
        node = Node(self.life.replica, exchange, method, had.data, self.part.seed)
        outcomes = []
        for summary, outcome in node.rounds(self.part.rounds):
            outcomes.append(outcome)
            self.outages += [summary.outage] if summary.outage else []
            if self.part.lockstep:
                self.together()  # all have read the heads of this round
        return outcomes[-1]

    def control(self, control: Control, had: Baseline, inbox: Sequence[Lent]) -> Outcome:
        """Play a control in as many rounds as the federated arm, with heads of the same peers."""
        method = method_of(self.life.replica.roster.charter, had.network, control=control)
        heads, outcomes = list(inbox), []

        def swap(lent: Lent) -> Sequence[Lent]:
            if control == "shuffled" and lent.round == 1:
                heads[:] = self._shuffled(lent, had)
            return heads

        seed = self.part.seed
        state = method.init(self.name, had.data, generator(seed, PURPOSE, self.name, "init"))
        for number in range(self.part.rounds):
            rng = generator(seed, PURPOSE, self.name, number)
            state, outcome = run_round(method, state, swap, had.data, rng)
            outcomes.append(outcome)
        return outcomes[-1]

    def _shuffled(self, lent: Lent, had: Baseline) -> Sequence[Lent]:
        """Lend a head that was trained on permuted labels; returns those of the peers."""
        number = self.part.rounds + 1
        self.life.replica.lend(replace(lent, round=number), learnt(had.data))
        self.life.network.sync()
        return self.heard(number)


class InStep:
    """The network, in step: for comparisons with the simulator only."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital

    def sync(self) -> Synced:
        """Wait until the heads of all peers of this round are there, and everybody has them."""
        hospital = self._hospital
        done = hospital.life.network.sync()
        rounds = hospital.life.replica.store.rounds()
        hospital.heard(len(rounds) + 1)
        hospital.together()
        return done


def live(part: Part, barrier: Barrier) -> None:
    """Be one hospital, from its keys to its report; ends early on SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for who began all this
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(1)
    began = time.monotonic()
    home = Home(part.home)
    try:
        with alone_in(home.folder):
            life = Life(home, Settings.load(home.folder / SETTINGS))
            with life.online():
                _play(Hospital(life, part, barrier), began)
    except KeyboardInterrupt:
        os._exit(0)


def _play(hospital: Hospital, began: float) -> None:
    part, life, name = hospital.part, hospital.life, hospital.name
    charter = life.replica.roster.charter
    where = life.settings.data
    if where is None:
        raise ValueError("a hospital of the demonstration has rows")
    said: dict[str, Outcome] = {}
    with hospital.timed("training alone"):
        had = baseline(charter, where, name, seed=part.seed)
    with hospital.timed("meeting peers"):
        life.network.wait(lambda: set(life.network.reachable()) == hospital.peers(), PATIENCE_S)
        hospital.together()
    with hospital.timed("lending and mixing"):
        cpu = time.thread_time()
        said["federated"] = hospital.federated(had)
        cpu = time.thread_time() - cpu
    inbox = life.replica.inbox()
    states = {
        p.site: p.state for p in status_of(life.replica, life.network, pid=None, doing="").peers
    }
    everybody = hospital.together()
    with hospital.timed("controls"):
        for arm, control in CONTROLS.items():
            if control != "shuffled" or everybody:
                said[arm] = hospital.control(control, had, inbox)
    with hospital.timed("handing over"):
        life.hand_over(HANDED_S)
        hospital.together()
    life.doing = "writing its report"
    options = demo_options(part.seed, part.dtype)
    schema = agreed(charter.columns, where.where)
    study = Study(
        title=schema.title,
        task=schema.task,
        classes=charter.classes,
        sites=(had.rows,),
        kind="table",
    )
    plan = chosen(study, options)
    again = f"Each hospital played {part.rounds} rounds, and lent its head anew in each of them."
    why = plan.why if part.rounds == plan.rounds else (*plan.why, again)
    plan = replace(plan, rounds=part.rounds, why=why)

    def told(outcome: Outcome) -> dict[SiteId, Tested]:
        return {name: tested(outcome.served, had.data, had.splits, options)}

    last, sent = said["federated"], life.replica.store.heads()[name]
    payload = len(life.replica.store.payload(sent.blob))
    messages = 2 * len(hospital.peers()) * part.rounds
    repeat = Repeat(
        split={name: np.zeros(len(had.rows.y), dtype=np.int64)},
        asked={name: had.splits.test.any(0).numpy()},
        tested={
            "alone": {name: tested(had.alone.said, had.data, had.splits, options)},
            **{arm: told(outcome) for arm, outcome in said.items()},
        },
        shares={name: {peer: float(w.mean()) for peer, w in last.share.items()}},
        worth={name: {peer: float(w.mean()) for peer, w in last.worth.items()}},
        used={name: float(last.used.float().mean())},
        quarantined={name: {p: float(q.float().mean()) for p, q in last.quarantined.items()}},
        chosen={name: had.alone.logistic},
        curves={name: mean_curve(had.alone.outcome)},
        federation=Played(
            outcomes={name: [last]},
            payload_bytes={name: payload},
            messages=messages,
            seconds={name: cpu},
            sent_bytes={name: (payload + ENVELOPE_BYTES) * messages // 2},
        ),
    )
    status = status_of(life.replica, life.network, pid=None, doing="")
    newest = life.replica.store.newest_entry()
    operation = Operation(
        site=name,
        rounds=part.rounds,
        sent_bytes=status.sent,
        received_bytes=status.received,
        peers=states,
        missing={
            peer: life.network.failures().get(peer, "no head of it came")
            for peer, state in states.items()
            if state not in {"lending", "used"}
        },
        refused=status.refused,
        outages=hospital.outages,
        seconds=hospital.seconds,
        audit_head=newest.digest if newest else None,
    )
    found = report(
        study,
        options,
        plan,
        [repeat],
        seconds=time.monotonic() - began,
        operation=[operation],
    )
    write(found, part.out / REPORT)
    written = (part.out / REPORT).with_suffix(".json").read_bytes()
    life.replica.store.note("report", {"digest": digest(written)}, life.replica.now())


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal's
    raise KeyboardInterrupt
