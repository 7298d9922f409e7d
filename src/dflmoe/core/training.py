"""Training with weight decay and early stopping, for many fits at once.

A site's fits (core.site) and the candidates of its weight-decay grid are trained side by side. The
number of steps and the weight decay are chosen where the out-of-fold loss is lowest, one choice for
all fits of a split; the last fit, which saw every training row, is taken at that same point. So the
validation rows come out of the training rows, all rows end up in the lent head, and every arm of a
comparison gets the same care by being trained by this one function.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.optim.adam import adam

from dflmoe.core.convex import newton
from dflmoe.core.site import SiteData, packed
from dflmoe.core.stacking import Stacked, part_of
from dflmoe.core.task import Task
from dflmoe.core.together import Parts, together
from dflmoe.types import Params

MATTERS = 1e-4
"""An improvement of out-of-fold log-loss below this does not keep training going."""


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        weight_decays: Candidates of the L2 penalty on weights (biases go free), chosen out of fold.
        learning_rate: Of Adam.
        max_steps: Optimiser steps at most.
        judge_every: Steps between two looks at the out-of-fold loss.
        patience: Looks without improvement after which training stops.
        batch: Rows of one step; ``None`` for all.
        early_stopping: Keep the best look, rather than the last step.
        memory: Elements that one batch of inputs may have; more is trained in turns.
    """

    weight_decays: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    learning_rate: float = 0.05
    max_steps: int = 400
    judge_every: int = 10
    patience: int = 4
    batch: int | None = None
    early_stopping: bool = True
    memory: int = 2**21


@dataclass(frozen=True)
class Fitted:
    """Trained fits and how they came about.

    Attributes:
        params: Stacked parameters, ``[model, ...]``.
        weight_decay: The penalty chosen for the final fit.
        curve: Out-of-fold log-loss at each look, of that penalty; NaN after it stopped.
    """

    params: Params
    weight_decay: Float[Tensor, " split"]
    curve: Float[Tensor, "split look"]


class Adam:
    """The optimiser that everything here is trained with: PyTorch's, by its functional form.

    ``torch.optim.Adam`` takes the same steps, but loads PyTorch's compiler first. On a CPU a step
    is one pass over memory (``fused``), which takes parameters and gradients for alike in layout.

    Args:
        params: What is trained: ``leaves``.
        learning_rate: Of every step.
    """

    def __init__(self, params: Params, learning_rate: float) -> None:
        self.params = list(params.values())
        self._rate = learning_rate
        self._mean = [torch.zeros_like(p) for p in self.params]
        self._square = [torch.zeros_like(p) for p in self.params]
        self._steps = [torch.tensor(0.0, device="cpu") for _ in self.params]

    def step(self, loss: Float[Tensor, ""]) -> list[Tensor]:
        """Take one step down ``loss`` and return its gradients.

        Raises:
            FloatingPointError: The loss is not finite; training must not go on from there.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError("the training loss is not a finite number")
        gradients = [g.contiguous() for g in torch.autograd.grad(loss, self.params)]
        on_cpu = loss.device.type == "cpu"
        with torch.no_grad():
            adam(
                self.params,
                gradients,
                self._mean,
                self._square,
                [],
                self._steps,
                fused=on_cpu,
                foreach=not on_cpu,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
        return gradients


def leaves(params: Params) -> Params:
    """Return a trainable copy of ``params``, each tensor in one piece."""
    kept = {
        name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in params.items()
    }
    return {name: p.requires_grad_() for name, p in kept.items()}


def decay(
    params: Params, towards: Params | None, strength: Float[Tensor, " model"]
) -> Float[Tensor, ""]:
    """Return half the squared distance of all weights from ``towards`` (zero without it).

    Biases and other vectors are not penalised.

    Args:
        params: Stacked parameters.
        towards: Where they are pulled to.
        strength: Penalty of each model.
    """
    total = torch.zeros(())
    for name, p in params.items():
        if p.dim() > 2:  # noqa: PLR2004 - a matrix and its model axis
            moved = p if towards is None else p - towards[name]
            total = total + strength @ moved.flatten(1).square().sum(1)
    return total / 2


def cross_fit(
    network: Stacked,
    start: Params,
    data: SiteData,
    plan: Training,
    rng: torch.Generator,
    *,
    towards: Params | None = None,
    linear: bool = False,
) -> Fitted:
    """Train every fit of every split and choose weight decay and steps out of fold.

    Args:
        network: The stacked network.
        start: Initial parameters, ``[model, ...]``.
        data: The site's rows.
        plan: How to train.
        rng: Chance (the draw of batches).
        towards: Parameters that the penalty pulls to, instead of zero.
        linear: The network is one linear layer, whose optimum is found exactly.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    folds = data.crossfit
    per_model = int(folds.learns.sum(2).max()) * data.x[0, 0].numel()
    at_once = max(1, plan.memory // (per_model * folds.fits))
    if data.x.dim() == 2:  # noqa: PLR2004 - no more than the numbers of rows: those are large
        at_once = 1
    jobs = [(s, d) for s in range(folds.splits) for d in range(len(plan.weight_decays))]
    done = [
        _fit_jobs(
            network,
            start,
            data,
            plan,
            rng,
            jobs=jobs[i : i + at_once],
            towards=towards,
            linear=linear,
        )
        for i in range(0, len(jobs), at_once)
    ]
    grid = (folds.splits, len(plan.weight_decays))
    score = torch.cat([d[SCORE] for d in done]).unflatten(0, grid)
    chosen = score.argmin(1)
    split, fit = torch.arange(folds.splits)[:, None], torch.arange(folds.fits)[None, :]
    params = {
        name: torch.cat([d[name] for d in done])
        .unflatten(0, grid)[split, chosen, fit]
        .flatten(0, 1)
        for name in start
    }
    looks = max(int((~d[CURVE].isnan()).any(0).sum()) for d in done)
    curves = [F.pad(d[CURVE], (0, looks - d[CURVE].shape[1]), value=torch.nan) for d in done]
    final = chosen[:, -1]
    curve = torch.cat(curves).unflatten(0, grid)[split[:, 0], final]
    return Fitted(params, torch.tensor(plan.weight_decays)[final], curve)


@dataclass(frozen=True)
class _Descent:
    """Train all fits of some (split, weight decay) pairs, its jobs, side by side.

    Of each job it is given what its fits start from (``start/``), what they are pulled to
    (``towards/``, or nothing) and how strongly, the rows that each fit learns from and those that
    each but the last is judged on (``held``), and their weights. It returns the fits at their best
    look, how good that was, and the out-of-fold loss of every look.
    """

    network: Stacked
    task: Task
    plan: Training
    linear: bool

    def __call__(self, given: Params, parts: Parts) -> Params:
        """See ``Stackable``."""
        plan, strength, held_share = self.plan, given["strength"], given["held_share"]
        fits, models = given["weight"].shape[1], given["weight"].shape[:2].numel()
        flat = {name: p.flatten(0, 1) for name, p in given.items() if name != "strength"}
        params, pulled = leaves(part_of(flat, "start")), part_of(flat, "towards")
        strength = strength.repeat_interleave(fits)
        held_fit = torch.arange(models).unflatten(0, (-1, fits))[:, :-1].flatten()

        def look() -> tuple[Float[Tensor, "job fit"], Float[Tensor, " job"]]:
            """Return what each fit is chosen by, and the out-of-fold loss."""
            with torch.no_grad():
                logits = self.network({n: p[held_fit] for n, p in params.items()}, flat["held_x"])
                losses = self.task.losses(logits, flat["held_y"]) * flat["held_weight"]
                losses = losses.sum(1).unflatten(0, held_share.shape) * held_share
                total = losses.sum(1)
                return total[:, None] - F.pad(losses, (0, 1)), total

        def jobs(stacked: Params) -> Params:
            return {n: p.detach().unflatten(0, (-1, fits)) for n, p in stacked.items()}

        x, y, weight = flat["x"], flat["y"], flat["weight"]
        if self.linear:
            origin = pulled.get("weight", torch.zeros_like(params["weight"]))
            params["weight"], params["bias"] = newton(x, y, weight, strength, origin)
            score, total = look()
            return {**jobs(params), SCORE: score, CURVE: total[:, None]}

        optimiser = Adam(params, plan.learning_rate)
        best = {n: p.detach().clone() for n, p in params.items()}
        best_score, total = look()
        curve, ended = [total], []
        stale = torch.zeros_like(best_score)
        for steps in range(1, plan.max_steps + 1):
            batch = batch_of(x, y, weight, plan.batch, parts)
            loss = (self.task.losses(self.network(params, batch[0]), batch[1]) * batch[2]).sum()
            optimiser.step(loss + decay(params, pulled or None, strength))
            if steps % plan.judge_every and steps < plan.max_steps:
                continue
            score, total = look()
            curve.append(total)
            goes_on = stale < plan.patience
            taken = goes_on & (score < best_score)
            stale = torch.where(goes_on & (score < best_score - MATTERS), 0, stale + 1)
            if not plan.early_stopping:
                taken = torch.ones_like(taken)
            best_score = torch.where(taken, score, best_score)
            for name, p in params.items():
                keep = taken.view(-1, *[1] * (p.dim() - 1))
                best[name] = torch.where(keep, p.detach(), best[name])
            ended.append((stale >= plan.patience).all(1) & plan.early_stopping)
            if ended[-1].all():
                break
        looks = _while_it_goes_on(torch.stack(curve, 1), torch.stack(ended, 1), parts)
        return {**jobs(best), SCORE: best_score, CURVE: looks}


SCORE, CURVE = "/score", "/curve"
"""What stands beside the parameters of trained fits; no parameter has such a name."""


def _while_it_goes_on(
    curve: Float[Tensor, "job look"], ended: Bool[Tensor, "job later"], parts: Parts
) -> Float[Tensor, "job look"]:
    """Return the looks of each site until all of its jobs had ended, and NaN from there on."""
    kept = []
    for looks, over in zip(curve.split(parts.sizes), ended.split(parts.sizes), strict=True):
        went_on = F.pad(~over.all(0)[:-1], (2, 0), value=True)
        kept.append(torch.where(went_on, looks, torch.nan))
    return torch.cat(kept)


def _fit_jobs(
    network: Stacked,
    start: Params,
    data: SiteData,
    plan: Training,
    rng: torch.Generator,
    *,
    jobs: list[tuple[int, int]],
    towards: Params | None,
    linear: bool,
) -> Params:
    """Train all fits of some (split, weight decay) pairs of a site."""
    folds = data.crossfit
    split = torch.tensor([s for s, _ in jobs])

    def pick(part: str, stacked: Params) -> Params:
        return {f"{part}/{name}": p[split] for name, p in folds.by_fit(stacked).items()}

    judged = data.judged[split][:, :-1]
    row, weight = packed(data.learnt[split].flatten(0, 1))
    held_row, held_weight = packed(judged.flatten(0, 1))
    given = {
        "x": data.x[split.repeat_interleave(folds.fits)[:, None], row],
        "y": data.y[row],
        "weight": weight,
        "held_x": data.x[split.repeat_interleave(folds.folds)[:, None], held_row],
        "held_y": data.y[held_row],
        "held_weight": held_weight,
    }
    given = {name: p.unflatten(0, (len(jobs), -1)) for name, p in given.items()}
    given["held_share"] = judged.sum(2) / judged.sum((1, 2))[:, None]
    given["strength"] = torch.tensor([plan.weight_decays[d] for _, d in jobs])
    given |= pick("start", start) | ({} if towards is None else pick("towards", towards))
    # How long a split trains must not move the chance of what comes after it.
    draws = torch.Generator().manual_seed(
        int(torch.randint(2**62, (), generator=rng, device="cpu"))
    )
    plan = replace(plan, batch=batch_or_all(plan.batch, row.shape[1]))
    return together(_Descent(network, data.task, plan, linear), given, draws)


def outputs_out_of_fold(
    network: Stacked, params: Params, data: SiteData
) -> Float[Tensor, "split row ..."]:
    """Return what a network puts out: of the fit that did not see a row, of the last for a test.

    Each fit runs on the rows that are its to predict only.

    Args:
        network: The stacked network.
        params: Of every fit, ``[model, ...]``.
        data: The site's rows.
    """
    folds = data.crossfit
    row, _ = folds.asked
    split = torch.arange(folds.splits).repeat_interleave(folds.fits)[:, None]
    return folds.gathered(network(params, data.x[split, row]))


def batch_or_all(size: int | None, rows: int) -> int | None:
    """Return the size of a batch, or ``None`` where it is no less than all rows."""
    return None if size is None or size >= rows else size


def batch_of(
    x: Shaped[Tensor, "model pick ..."],
    y: Shaped[Tensor, "model pick ..."],
    weight: Float[Tensor, "model pick"],
    size: int | None,
    parts: Parts,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return all rows, or ``size`` rows of each model drawn with replacement.

    Args:
        x: Inputs, or whatever else goes with a row.
        y: What is to be predicted.
        weight: How likely a row is drawn; sums to one.
        size: Rows to draw; ``None`` for all.
        parts: Whose the models are, and chance.
    """
    size = batch_or_all(size, x.shape[1])
    if size is None:
        return x, y, weight
    draw = parts.drawn(weight, size)
    model = torch.arange(len(x))[:, None]
    return x[model, draw], y[model, draw], torch.full(draw.shape, 1 / size)
