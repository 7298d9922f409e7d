"""Differential privacy of a head: noise that hides any one patient, and the account of it.

Gradient descent on all patients at once (DP-SGD without sampling, Abadi et al., CCS 2016): in each
step the gradient of a patient's mean loss is clipped, so that a patient counts once, with however
many rows, and Gaussian noise is added to the sum. The head that is lent is the mean of the later
steps, which costs nothing more. Opacus clips and accounts (Renyi; Mironov, CSF 2017).

The promise holds for a head on a body that no private row has shaped. Nothing is tuned on the rows:
steps, rate and decay are constants below. That a site's number of patients is about what it is, is
taken as known.
"""

import hashlib
import hmac
import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.special import ndtri
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dflmoe.errors import MissingExtraError, PrivacyError
from dflmoe.types import Params

STEPS, RATE, DECAY, CLIP = 60, 0.5, 0.01, 1.0
"""Steps of descent, their length, weight decay, and the most that a patient's gradient measures."""

LATER = 0.5
"""The head is the mean over this last share of the steps."""

KEY_BYTES = 32


@dataclass
class Stream:
    """Normal numbers that nobody can guess who has not the seed, and that are the same for it.

    They are drawn from SHAKE-256: PyTorch's own generator keeps 32 bits of a seed, so that all of
    its streams could be tried out, and the right one taken away from a head.

    Attributes:
        seed: A secret.
        drawn: How often numbers were drawn.
    """

    seed: bytes
    drawn: int = 0

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Return independent normal numbers of mean 0 and variance 1."""
        self.drawn += 1
        count = self.drawn.to_bytes(8, "big")
        raw = hashlib.shake_256(self.seed + count).digest(8 * math.prod(shape))
        whole = torch.frombuffer(bytearray(raw), dtype=torch.int64) >> 12
        uniform = (whole.double() + 2.0**51 + 0.5) / 2.0**52
        return torch.from_numpy(ndtri(uniform.numpy())).view(*shape)


class Noise(NamedTuple):
    """What one head is protected by.

    Attributes:
        sigma: Standard deviation of the noise in units of the clip, in each step.
        steps: How many there are.
    """

    sigma: float
    steps: int


@dataclass(frozen=True)
class Budget:
    """How much a site may tell, over all heads that it ever lends.

    Attributes:
        per_head: Epsilon of one head.
        total: Epsilon of all together.
        delta: The chance that the bound does not hold.
    """

    per_head: float
    total: float
    delta: float

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.per_head), ("the budget", self.total)):
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError(
                    f"{name} is {value:g}; differential privacy takes a number above 0"
                )
        if not 0 < self.delta < 1:
            raise PrivacyError(f"delta is {self.delta:g}; it is a chance between 0 and 1")
        if self.per_head > self.total:
            raise PrivacyError(
                f"one head spends epsilon {self.per_head:g} and the budget is {self.total:g}; "
                f"allow more, or spend less on a head"
            )

    @property
    def noise(self) -> Noise:
        """What a head needs to spend no more than its part."""
        return Noise(_sigma(self.per_head, self.delta), STEPS)


def spent(heads: Sequence[Noise], delta: float) -> float:
    """Return epsilon of all heads together."""
    accountant = _opacus("accountants").RDPAccountant()
    accountant.history = [(one.sigma, 1.0, one.steps) for one in heads]
    return float(_quietly(accountant.get_epsilon, delta=delta)) if heads else 0.0


def heads_for(budget: Budget) -> int:
    """Return how many heads a budget lasts for."""
    count = 1
    while spent([budget.noise] * (count + 1), budget.delta) <= budget.total:
        count += 1
    return count


def private_head(
    head: nn.Module,
    start: Params,
    features: Float[Tensor, "row feature ..."],
    y: Int[Tensor, " row"],
    patient: Int[Tensor, " row"],
    *,
    noise: Noise,
    stream: Stream,
) -> Params:
    """Return a head that tells little of any patient.

    Args:
        head: The architecture.
        start: What it starts from; nothing private went into it.
        features: Of the training rows, under the public body.
        y: Their classes.
        patient: Of each row.
        noise: How much.
        stream: What it is drawn from; who knows the seed can take the noise away.
    """
    params = {name: nn.Parameter(p.detach().clone()) for name, p in start.items()}
    optimiser = _opacus("optimizers").DPOptimizer(
        torch.optim.SGD(params.values(), lr=RATE, weight_decay=DECAY),
        noise_multiplier=0.0,  # it is added below
        max_grad_norm=CLIP,
        expected_batch_size=len(patient.unique()),
    )
    reach = noise.sigma * CLIP / len(patient.unique())
    rows = by_patient(features, y, patient)
    total = {name: torch.zeros_like(p) for name, p in start.items()}
    kept = max(1, round(noise.steps * LATER))
    for step in range(noise.steps):
        here: Params = {name: p.detach() for name, p in params.items()}
        for name, slope in slopes(head, here, rows).items():
            params[name].grad_sample = slope  # type: ignore[attr-defined]  # Opacus reads it there
        _quietly(optimiser.pre_step)
        for p in params.values():
            p.grad = cast("Tensor", p.grad) + reach * stream.normal(p.shape).to(p)
        optimiser.original_optimizer.step()
        optimiser.zero_grad()
        if step >= noise.steps - kept:
            total = {name: p + params[name].detach() / kept for name, p in total.items()}
    return total


class Rows(NamedTuple):
    """Rows of each patient, as many as the one with the most has; what is missing weighs nothing.

    Attributes:
        x: ``[patient, row, feature, ...]``.
        y: ``[patient, row]``.
        weight: ``[patient, row]``; a patient's sum to one.
    """

    x: Tensor
    y: Tensor
    weight: Tensor


def by_patient(
    features: Float[Tensor, "row feature ..."], y: Int[Tensor, " row"], patient: Int[Tensor, " row"]
) -> Rows:
    """Return the rows of each patient side by side."""
    _, whose, count = patient.unique(return_inverse=True, return_counts=True)
    order = whose.argsort(stable=True)
    place = torch.arange(len(order)) - (count.cumsum(0) - count)[whose[order]]
    at = whose[order], place
    shape = (len(count), int(count.max()))
    x = features.new_zeros(*shape, *features.shape[1:]).index_put(at, features[order])
    label = y.new_zeros(shape).index_put(at, y[order])
    return Rows(x, label, features.new_zeros(shape).index_put(at, (1 / count)[whose[order]]))


def slopes(head: nn.Module, params: Params, rows: Rows) -> Params:
    """Return the gradient of each patient's mean loss, ``[patient, ...]``."""

    def loss(at: Params, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return (
            F.cross_entropy(functional_call(head, at, (x,)), y, reduction="none") * weight
        ).sum()

    found: Params = vmap(grad(loss), in_dims=(None, 0, 0, 0))(params, *rows)
    return found


def seed_of(key: bytes, what: str) -> bytes:
    """Return the seed of a head's noise: the same for the same head, unknown without the key."""
    return hmac.digest(key, what.encode(), "sha256")


def entry_of(key: bytes, what: str) -> str:
    """Return how the account names a head: with another key it is another head, and costs again."""
    return hmac.digest(key, f"entry {what}".encode(), "sha256").hex()


def name_of(head: nn.Module, noise: Noise, *tensors: Tensor) -> str:
    """Return what a head is made of and how, in a digest.

    Other rows, another architecture or other constants need other noise, and cost again.
    """
    how = (str(head), noise, RATE, DECAY, CLIP, LATER)
    seen = hashlib.sha256(repr(how).encode())
    for one in tensors:
        seen.update(str((tuple(one.shape), one.dtype)).encode())
        seen.update(one.detach().cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()


@cache
def _sigma(epsilon: float, delta: float) -> float:
    """Return the noise at which all steps together spend no more than epsilon."""
    found = _quietly(
        _opacus("accountants.utils").get_noise_multiplier,
        target_epsilon=epsilon,
        target_delta=delta,
        sample_rate=1.0,
        steps=STEPS,
        epsilon_tolerance=epsilon / 1000,
    )
    return float(found)


def _opacus(module: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of Opacus.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return _quietly(importlib.import_module, f"opacus.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "differential privacy needs Opacus; install it with: pip install 'dflmoe[privacy]'"
        ) from error


def _quietly(call: Callable[..., Any], *args: object, **named: object) -> Any:  # noqa: ANN401
    """Call what warns of matters that are settled here: orders of the account, insecure chance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **named)
