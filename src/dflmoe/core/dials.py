"""The method's dials, and their setting that is the published method."""

from dataclasses import dataclass
from typing import Literal

from dflmoe.core.align import AlignKind
from dflmoe.core.controls import Control
from dflmoe.core.gate import GateKind
from dflmoe.core.mixture import Pool


@dataclass(frozen=True)
class Dials:
    """The choices that make one method of many.

    Attributes:
        align: How features reach a borrowed head: ``paper`` learns transforms from labelled rows,
            ``anchored`` fits them to what sites lend of their features of public rows, ``shared``
            passes features on as they are.
        body: ``private`` draws each site's initial weights from its own chance, ``seeded`` from
            the federation's seed; ``public`` begins with weights that anybody may have
            (``networks.public``), and draws what is left from the federation's seed.
        gate: How experts are weighed.
        pool: How predictions are pooled.
        restart: ``own`` goes on from the own head; ``consensus`` restarts it from the average of
            all heads held and pulls it there.
        averaging: Rounds that come first, in which the sites train a common start by turns of a few
            steps and an average with what arrived; at home it is tuned and stands for the own head.
            Until then a site serves what it has alone.
        with_alone: What the site has without any peer is an expert of its mixture, beside the head
            that it lends; for sites whose own network is another than the one whose heads are lent.
        distil: How much the peers' opinion of public rows weighs against the own rows when the own
            network is trained once more, as an expert of its mixture; 0 for not at all.
        control: Replaces the peers' knowledge by something without any.
        guard: Set aside heads on evidence of harm, and fall back to the own model likewise.
        hedge: Move only as far as the evidence goes: on evidence of benefit the mixture serves, on
            weaker evidence the mean of it and of the own model, else the own model; and neither
            serves whose score (``Task.score``) is below the own model's out of fold, or that is
            shown to harm a class. Without it the mixture serves or it does not.
        vouched: Whether the federation vouches for a common feature space; without it the mixture
            serves only on evidence of benefit.
        calibrate: Shift and heat every expert to the own rows before mixing.
        out_of_fold_gate: Fit the gate on out-of-fold predictions of the own head; else in sample.
        gate_sd: How far the gate may be expected to move from uniform (prior standard deviation).
        cap: The most that any one peer may weigh.
        experts: Peers that a site mixes at most, those of most use to it, chosen anew as heads
            change; ``None`` for all.
        mixture_steps: Optimiser steps of gate and transforms in each round.
        mixture_rate: Their learning rate.
        batch: Rows of such a step; ``None`` for all.
        move_body: Let a body that learns go on learning while the mixture is fitted; the
            publication leaves this open.
        max_age: Own rounds after which an unheard expert is dropped.
        fading: How much of its weight an expert keeps for each own round in which it was not heard,
            before the gate has its say: above 0, 1 for all of it.
        confidence: One-sided confidence of the guard.
        quarantine_confidence: One-sided confidence at which a single head is set aside.
        quarantine_rows: Training rows below which no single head is judged by what it predicts:
            with so few, chance would set aside more good heads than bad ones.
    """

    align: AlignKind = "shared"
    body: Literal["private", "seeded", "public"] = "seeded"
    gate: GateKind = "static"
    pool: Pool = "linear"
    restart: Literal["own", "consensus"] = "own"
    averaging: int = 0
    with_alone: bool = False
    distil: float = 0.0
    control: Control = "none"
    guard: bool = True
    hedge: bool = False
    vouched: bool = True
    calibrate: bool = True
    out_of_fold_gate: bool = True
    gate_sd: float = 0.5
    cap: float = 0.5
    experts: int | None = None
    mixture_steps: int = 50
    mixture_rate: float = 0.05
    batch: int | None = None
    move_body: bool = False
    max_age: int = 5
    fading: float = 1.0
    confidence: float = 0.8
    quarantine_confidence: float = 0.95
    quarantine_rows: int = 100

    @classmethod
    def paper(cls) -> "Dials":
        """Return the published method: learned transforms, attention, no guard, nothing shrunk."""
        return cls(
            align="paper",
            body="private",
            gate="attention",
            pool="logits",
            guard=False,
            vouched=False,
            calibrate=False,
            out_of_fold_gate=False,
            gate_sd=float("inf"),
            cap=1.0,
            mixture_steps=8,
            mixture_rate=1e-3,
            batch=32,
        )
