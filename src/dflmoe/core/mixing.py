"""Learning a personal mixture: calibration, gate and transforms, on frozen borrowed heads."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dflmoe.core.calibration import (
    shifted,
    shift_pull,
    fit_shift,
    unshifted,
)
from dflmoe.core.dials import Dials
from dflmoe.core.gate import gate_log_weights, gate_pull, gate_scores, uniform_gate
from dflmoe.core.guard import difference
from dflmoe.core.mixture import mix
from dflmoe.core.site import Network, SiteData
from dflmoe.core.stacking import stacked_call
from dflmoe.core.training import adam, batch_of, leaves, step
from dflmoe.core.transform import identity_maps, transformed
from dflmoe.types import Params, SiteId

OWN = "own"
"""Name of the site's own head among its experts; it always comes first."""


@dataclass(frozen=True)
class Mixed:
    """A fitted mixture and what it predicts for every row.

    Attributes:
        params: Gate and transforms, to go on from in the next round.
        tokens: What each expert says, as it enters the mixture.
        log_probs: Of the mixture.
        weights: Of each expert.
        available: Experts that took part.
    """

    params: Params
    tokens: Float[Tensor, "model row expert class"]
    log_probs: Float[Tensor, "model row class"]
    weights: Float[Tensor, "model row expert"]
    available: Bool[Tensor, "model expert"]


def fit_mixture(
    network: Network,
    dials: Dials,
    features: Float[Tensor, "model row feature ..."],
    own_head: Params,
    heads: Mapping[SiteId, Params],
    widths: Mapping[SiteId, int],
    previous: Params,
    data: SiteData,
    rng: torch.Generator,
) -> Mixed:
    """Fit the mixture of every fit on the rows that it learns from.

    Args:
        network: The site's network.
        dials: The method's dials.
        features: Of all rows.
        own_head: The own head of every fit.
        heads: The invited heads of every fit, frozen.
        widths: Input width of each invited head.
        previous: Gate and transforms of the last round; newcomers start uniform and as identity.
        data: The site's rows.
        rng: Chance.
    """
    folds = data.crossfit
    models = folds.splits * folds.fits
    names = [OWN, *sorted(heads)]
    learnt = data.learnt.flatten(0, 1)
    weight = learnt / learnt.sum(1, keepdim=True)
    with torch.no_grad():
        own = stacked_call(network.head, own_head, features)
        if dials.out_of_fold_gate:
            own = folds.out_of_fold(own).repeat_interleave(folds.fits, dim=0)
    query = features if features.dim() <= 3 else features.flatten(3).mean(-1)  # noqa: PLR2004

    fresh = uniform_gate(dials.gate, names, models, network.width, network.classes)
    if dials.align == "paper":
        fresh |= identity_maps(dict(sorted(widths.items())), models, network.width)
    params = {name: previous.get(name, p) for name, p in fresh.items()}

    def tokens_of(
        params: Params, features: Tensor, own: Tensor
    ) -> Float[Tensor, "model row expert class"]:
        learned = dials.align == "paper"
        invited = [
            stacked_call(
                network.head,
                heads[name],
                transformed(params, name, features) if learned else features,
            )
            for name in names[1:]
        ]
        said = torch.stack([own, *invited], dim=2)
        return said if dials.pool == "logits" else F.log_softmax(said, dim=-1)

    with torch.no_grad():
        tokens = tokens_of(params, features, own)
    available = torch.ones(models, len(names), dtype=torch.bool)
    if dials.guard and heads:
        judged = learnt.unflatten(0, (folds.splits, folds.fits))[:, -1].sum(1)
        enough = (judged >= dials.quarantine_rows).repeat_interleave(folds.fits)
        kept = harmless(tokens, data, weight, confidence=dials.quarantine_confidence)
        available = kept | ~enough[:, None]
    if dials.calibrate:
        params |= unshifted(models, 1, network.classes)

    params = leaves(params)
    optimiser = adam(params, dials.mixture_rate)
    count = learnt.sum(1)
    row = torch.arange(len(data.y)).expand(models, -1)

    def mixed(params: Params, tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        scores = gate_scores(params, names, query, tokens)
        log_weights = gate_log_weights(scores, available, dials.cap)
        log_probs = mix(tokens, log_weights, dials.pool)
        if dials.calibrate:
            log_probs = shifted(params, log_probs[:, :, None])[:, :, 0]
        return log_probs, log_weights

    for _ in range(dials.mixture_steps):
        at, target, share = batch_of(row, data.y.expand(models, -1), weight, dials.batch, rng)
        model = torch.arange(models)[:, None]
        seen = tokens[model, at]
        if dials.align == "paper":
            seen = tokens_of(params, features[model, at], own[model, at])
        log_probs, _ = mixed(params, seen, query[model, at])
        losses = F.nll_loss(log_probs.flatten(0, 1), target.flatten(), reduction="none")
        loss = (losses.view(target.shape) * share).sum()
        loss = loss + (gate_pull(params, dials.gate_sd) / count).sum()
        if dials.calibrate:
            loss = loss + (shift_pull(params) / count).sum()
        step(optimiser, params, loss)
    with torch.no_grad():
        if dials.align == "paper":
            tokens = tokens_of(params, features, own)
        log_probs, log_weights = mixed(params, tokens, query)
    kept = {name: p.detach() for name, p in params.items()}
    weights = log_weights.exp().expand(tokens.shape[:-1])
    return Mixed(kept, tokens, log_probs, weights, available)


def harmless(
    tokens: Float[Tensor, "model row expert class"],
    data: SiteData,
    weight: Float[Tensor, "model row"],
    *,
    confidence: float,
) -> Bool[Tensor, "model expert"]:
    """Return the experts that do not demonstrably harm the own head when mixed with it in halves.

    One poisoned head must cost only itself, so each is looked at alone, out of fold; the guard
    looks at the whole mixture later. An expert found harmful is set aside in all fits of a split.

    Args:
        tokens: Every expert's logits, own head first.
        data: The site's rows.
        weight: Weight of each row in each fit.
        confidence: One-sided confidence of the evidence.
    """
    folds = data.crossfit
    log_probs = F.log_softmax(tokens, dim=-1)
    halves = torch.logaddexp(log_probs[:, :, :1], log_probs)
    halves = F.log_softmax(halves, dim=-1)
    halves = folds.out_of_fold(shifted(fit_shift(halves, data.y, weight), halves))
    right = halves.gather(3, data.y[None, :, None, None].expand(*halves.shape[:3], 1))[..., 0]
    keep = [torch.ones(folds.splits, dtype=torch.bool)]
    for expert in range(1, tokens.shape[2]):
        worse = right[..., 0] - right[..., expert]
        bounds = difference(worse, folds.fold >= 0, data.group, confidence=confidence)
        keep.append(bounds.lower <= 0)
    return torch.stack(keep, dim=1).repeat_interleave(folds.fits, dim=0)
