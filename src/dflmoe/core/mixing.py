"""Learning a personal mixture: gate, transforms and shift, on frozen borrowed heads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dflmoe.core.align import aligned
from dflmoe.core.calibration import shift_pull, shifted, unshifted
from dflmoe.core.dials import Dials
from dflmoe.core.gate import gate_log_weights, gate_pull, gate_scores, uniform_gate
from dflmoe.core.quarantine import admitted
from dflmoe.core.selection import selected
from dflmoe.core.site import Network, SiteData
from dflmoe.core.stacking import call_each, features_of, part_of, stacked_call
from dflmoe.core.task import Task
from dflmoe.core.together import Parts, together
from dflmoe.core.training import Adam, batch_of, batch_or_all, leaves
from dflmoe.core.transform import identity_maps, transformed
from dflmoe.types import Params, SiteId

OWN = "own"
"""Name of the site's own head among its experts; it always comes first."""

ALONE, TAUGHT = "alone", "taught"
"""Names of what the site has without any peer, and of its network taught by peers, as experts."""

UNSELECTED = 1e-9
"""Weight of an expert that was not selected: none, but its logarithm is finite."""


@dataclass(frozen=True)
class Invited:
    """The heads that a site mixes with its own, frozen.

    Attributes:
        own: The own head of every fit.
        heads: The borrowed heads of every fit.
        widths: Input width of each borrowed head.
        ages: Own rounds since each was last heard.
        maps: From own features to those that each expects, where that is not left as it is or
            learnt here.
        said: What other models of the site's own say of every row, by name.
    """

    own: Params
    heads: Mapping[SiteId, Params]
    widths: Mapping[SiteId, int]
    ages: Mapping[SiteId, int] = field(default_factory=dict)
    maps: Mapping[SiteId, Params] = field(default_factory=dict)
    said: Mapping[str, Float[Tensor, "model row class ..."]] = field(default_factory=dict)

    @property
    def home(self) -> list[str]:
        """The experts that are the site's own."""
        return [OWN, *self.said]

    @property
    def names(self) -> list[str]:
        """The experts in the order of their tokens, whatever order they arrived in."""
        return [*self.home, *sorted(self.heads)]


@dataclass(frozen=True)
class Mixed:
    """A fitted mixture and what it predicts: out of fold, and of the last fit for test rows.

    Attributes:
        names: Of the experts, in the order of their weights.
        params: Gate, transforms and shift, to go on from in the next round.
        body: The body, moved if the dials say so.
        log_probs: Of the mixture.
        weights: Of each expert.
        available: Experts that took part.
        prior: Log weights that the gate started from.
        without: What the mixture would say without each peer, its weight shared out.
    """

    names: Sequence[str]
    params: Params
    body: Params
    log_probs: Float[Tensor, "split row class ..."]
    weights: Float[Tensor, "split row expert ..."]
    available: Bool[Tensor, "model expert"]
    prior: Float[Tensor, "model expert"]
    without: Mapping[SiteId, Float[Tensor, "split row class ..."]]


@dataclass(frozen=True)
class _View:
    """Some rows as a mixture sees them."""

    features: Float[Tensor, "model row feature ..."]
    own: Float[Tensor, "model row class ..."]
    tokens: Float[Tensor, "model row expert class ..."] | None
    said: Sequence[Float[Tensor, "model row class ..."]]
    x: Float[Tensor, "model row ..."] | None = None

    def at(self, pick: Int[Tensor, "model pick"]) -> "_View":
        """Return some of the rows."""
        model = torch.arange(len(pick))[:, None]
        return _View(
            self.features[model, pick],
            self.own[model, pick],
            None if self.tokens is None else self.tokens[model, pick],
            [one[model, pick] for one in self.said],
            None if self.x is None else self.x[model, pick],
        )


@dataclass(frozen=True)
class _Mixer:
    """The forward pass of the mixture of all fits."""

    network: Network
    dials: Dials
    task: Task
    invited: Invited
    available: Bool[Tensor, "model expert"]
    prior: Float[Tensor, "model expert"]

    def start(self, previous: Params, body: Params) -> Params:
        """Return parameters to go on from; newcomers start uniform and as identity."""
        models, network = len(self.available), self.network
        fresh = uniform_gate(
            self.dials.gate, self.invited.names, models, network.width, network.classes
        )
        if self.dials.align == "paper" and self.invited.heads:
            widths = dict(sorted(self.invited.widths.items()))
            fresh |= identity_maps(widths, models, network.width)
        if self.calibrates:
            fresh |= unshifted(models, 1, network.classes)
        started = {name: previous.get(name, p) for name, p in fresh.items()}
        return started | ({f"body/{n}": p for n, p in body.items()} if self.moves else {})

    @property
    def calibrates(self) -> bool:
        """Whether the mixture is shifted to the own prevalence."""
        return self.dials.calibrate and self.task.calibrates

    @property
    def moves(self) -> bool:
        """Whether the body moves while the mixture is fitted."""
        return self.dials.move_body and not self.network.common

    @property
    def listens(self) -> bool:
        """Whether what the experts say changes while the mixture is fitted."""
        return self.moves or self.dials.align == "paper"

    @property
    def slots(self) -> dict[SiteId, str]:
        """A name for each peer that it has with all sites: its place among the sorted."""
        return {name: f"{k:06}" for k, name in enumerate(sorted(self.invited.heads))}

    @property
    def fitting(self) -> "_Fitting":
        """What fits it."""
        slots = self.slots
        widths = tuple((slots[n], width) for n, width in sorted(self.invited.widths.items()))
        return _Fitting(self.network, self.dials, self.task, tuple(self.invited.said), widths)

    def given(self, params: Params, view: _View) -> Params:
        """Return the tensors that ``fitting`` starts from."""
        slots, found = self.slots, {"available": self.available, "prior": self.prior}
        found |= {f"params/{_renamed(name, slots)}": p for name, p in params.items()}
        found |= {"features": view.features, "own": view.own}
        if view.tokens is not None:
            return found | {"tokens": view.tokens}
        found |= {f"own_head/{name}": p for name, p in self.invited.own.items()}
        for part, named in (("heads", self.invited.heads), ("maps", self.invited.maps)):
            for peer, of in named.items():
                found |= {f"{part}/{slots[peer]}/{name}": p for name, p in of.items()}
        found |= {f"said/{k}": said for k, said in enumerate(view.said)}
        return found | ({} if view.x is None else {"x": view.x})

    def tokens(
        self, params: Params, features: Tensor, own: Tensor, others: Sequence[Tensor]
    ) -> Float[Tensor, "model row expert class ..."]:
        """Return what every expert says, the site's own first."""
        peers, maps = sorted(self.invited.heads), self.invited.maps
        seen = [aligned(maps[name], features) if name in maps else features for name in peers]
        if self.dials.align == "paper" and peers:
            seen = transformed(params, peers, features)
        heads = [self.invited.heads[name] for name in peers]
        said = [own, *others, *call_each(self.network.head, heads, seen)]
        tokens = torch.stack(said, dim=2)
        return tokens if self.dials.pool == "logits" else self.task.said(tokens, 3)

    def __call__(self, params: Params, view: _View) -> tuple[Tensor, Tensor]:
        """Return log probabilities and log weights for the rows of a view."""
        features, own, tokens = view.features, view.own, view.tokens
        if view.x is not None:
            features = features_of(self.network.body, part_of(params, "body"), view.x)
            own = stacked_call(self.network.head, self.invited.own, features)
        if tokens is None:
            tokens = self.tokens(params, features, own, view.said)
        scores = gate_scores(params, self.invited.names, self.task.query(features), tokens)
        log_weights = self.weighed(scores, self.available)
        log_probs = self.task.pooled(tokens, log_weights, self.dials.pool)
        if self.calibrates:
            log_probs = shifted(params, log_probs[:, :, None])[:, :, 0]
        return log_probs, log_weights

    def weighed(
        self, scores: Float[Tensor, "model row expert ..."], available: Bool[Tensor, "model expert"]
    ) -> Float[Tensor, "model row expert ..."]:
        """Return log weights of the experts that are available."""
        prior = self.prior.view(len(scores), 1, -1, *[1] * (scores.dim() - 3))
        own = len(self.invited.home)
        return gate_log_weights(scores + prior, available, self.dials.cap, own)

    def without(
        self, params: Params, view: _View
    ) -> dict[SiteId, Float[Tensor, "model row class ..."]]:
        """Return what the mixture would say without each peer, one after the other."""
        said = {}
        for expert, name in enumerate(self.invited.names):
            if name in self.invited.heads:
                available = self.available.clone()
                available[:, expert] = False
                said[name], _ = replace(self, available=available)(params, view)
        return said

    def pull(self, params: Params, count: Float[Tensor, " model"]) -> Float[Tensor, ""]:
        """Return the prior's share of the loss: the fewer rows, the closer to uniform."""
        pull = gate_pull(params, self.dials.gate_sd)
        if self.calibrates:
            pull = pull + shift_pull(params)
        return (pull / count).sum()


@dataclass(frozen=True)
class _Fitting:
    """Fit mixtures (``Stackable``): gate, transforms, shift and perhaps the body.

    Peers go by their slots, so that sites with different peers may be stacked.
    """

    network: Network
    dials: Dials
    task: Task
    said: tuple[str, ...]
    widths: tuple[tuple[str, int], ...]

    def __call__(self, given: Params, parts: Parts) -> Params:
        """See ``Stackable``: parameters, and what is said of the rows that each fit is asked about.

        That is said by all and without each peer.
        """
        mixer = self._mixer(given)
        params = leaves(part_of(given, "params"))
        said = [given[f"said/{k}"] for k in range(len(self.said))] if mixer.listens else []
        everything = _View(
            given["features"], given["own"], given.get("tokens"), said, given.get("x")
        )
        y, weight, count = given["y"], given["weight"], given["count"]
        row = torch.arange(y.shape[1]).expand(len(y), -1)
        optimiser = Adam(params, self.dials.mixture_rate) if params else None
        for _ in range(self.dials.mixture_steps):
            if optimiser is None:
                break
            at, target, share = batch_of(row, y, weight, self.dials.batch, parts)
            view = everything if at.shape == row.shape else everything.at(at)
            log_probs, _ = mixer(params, view)
            loss = (self.task.losses(log_probs, target) * share).sum()
            optimiser.step(loss + mixer.pull(params, count))
        with torch.no_grad():
            view = everything.at(given["asked"])
            log_probs, log_weights = mixer(params, view)
            without = mixer.without(params, view) if self.dials.guard else {}
        return {
            **{f"params/{name}": p.detach() for name, p in params.items()},
            **{f"without/{slot}": said for slot, said in without.items()},
            "log_probs": log_probs,
            "log_weights": log_weights,
        }

    def _mixer(self, given: Params) -> _Mixer:
        """Return the mixer of all that was stacked."""
        said = dict.fromkeys(self.said, given["own"])  # their number counts, not what they say
        invited = Invited(
            part_of(given, "own_head"),
            {slot: part_of(given, f"heads/{slot}") for slot, _ in self.widths},
            dict(self.widths),
            maps={
                slot: part for slot, _ in self.widths if (part := part_of(given, f"maps/{slot}"))
            },
            said=said,
        )
        return _Mixer(
            self.network, self.dials, self.task, invited, given["available"], given["prior"]
        )


def _renamed(name: str, slots: Mapping[str, str]) -> str:
    """Return the name of a parameter with its peer by another name."""
    part, _, peer = name.partition("/")
    return f"{part}/{slots[peer]}" if part in OF_PEERS and peer in slots else name


OF_PEERS = frozenset({"bias", "slope", "to"})
"""Parameters of the mixture that are of one peer each, named after it."""


def fit_mixture(
    network: Network,
    dials: Dials,
    invited: Invited,
    features: Float[Tensor, "model row feature ..."],
    *,
    body: Params,
    previous: Params,
    data: SiteData,
    rng: torch.Generator,
) -> Mixed:
    """Fit the mixture of every fit on the rows that it learns from.

    Args:
        network: The site's network.
        dials: The method's dials.
        invited: The heads to mix.
        features: Of all rows.
        body: What made them.
        previous: Gate, transforms and shift of the last round.
        data: The site's rows.
        rng: Chance.
    """
    folds = data.crossfit
    models = folds.splits * folds.fits
    learnt = data.learnt.flatten(0, 1)
    count = learnt.sum(1)
    weight = learnt / count[:, None]
    every = torch.ones(models, len(invited.names), dtype=torch.bool)
    dials = replace(dials, batch=batch_or_all(dials.batch, len(data.y)))
    mixer = _Mixer(network, dials, data.task, invited, every, _prior(invited, dials, models))
    params = mixer.start(previous, body)
    others = list(invited.said.values())
    with torch.no_grad():
        own = stacked_call(network.head, invited.own, features)
        if dials.out_of_fold_gate:
            own = folds.out_of_fold(own).repeat_interleave(folds.fits, dim=0)
        tokens = None
        judges = dials.guard or dials.experts is not None or dials.gate == "selected"
        if judges or not mixer.listens:
            tokens = mixer.tokens(params, features, own, others)
    if invited.heads and tokens is not None:
        fit = admitted(tokens, data, weight, len(invited.home), dials)
        mixer = replace(mixer, available=fit)
    if dials.gate == "selected" and tokens is not None:
        chosen = selected(tokens, data.y, weight, mixer.available, task=data.task, pool=dials.pool)
        mixer = replace(mixer, prior=_log_weights_of(chosen))

    y, (asked, _) = data.y.expand(models, *data.y.shape), folds.asked
    x = data.x.repeat_interleave(folds.fits, dim=0) if mixer.moves else None
    view = _View(features, own, None if mixer.listens else tokens, others, x)
    known = {"y": y, "weight": weight, "count": count, "asked": asked}
    fitted = together(mixer.fitting, mixer.given(params, view) | known, rng)
    slots = mixer.slots
    kept = {
        _renamed(name, {slot: n for n, slot in slots.items()}): p
        for name, p in part_of(fitted, "params").items()
    }

    def said(name: str) -> Tensor:
        return folds.gathered(fitted[name][:, : asked.shape[1]])

    weights = fitted["log_weights"].exp()[:, : asked.shape[1]]
    fitted["weights"] = weights.expand(-1, asked.shape[1], *weights.shape[2:])
    return Mixed(
        names=invited.names,
        params={name: p for name, p in kept.items() if not name.startswith("body/")},
        body=part_of(kept, "body") if mixer.moves else body,
        log_probs=said("log_probs"),
        weights=said("weights"),
        available=mixer.available,
        prior=mixer.prior,
        without={name: said(f"without/{slot}") for name, slot in slots.items() if dials.guard},
    )


def _prior(invited: Invited, dials: Dials, models: int) -> Float[Tensor, "model expert"]:
    """Return log weights that the gate starts from: the longer unheard, the less."""
    ages = [0] * len(invited.home) + [invited.ages.get(n, 0) for n in sorted(invited.heads)]
    return (torch.tensor(ages) * math.log(dials.fading)).expand(models, -1)


def _log_weights_of(
    chosen: Float[Tensor, "model expert"],
) -> Float[Tensor, "model expert"]:
    """Return finite logarithms; if all that was selected goes, the own head is what is left."""
    smallest = torch.full_like(chosen, UNSELECTED)
    smallest[:, 0] = UNSELECTED**0.5
    return torch.maximum(chosen, smallest).log()
