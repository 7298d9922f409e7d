"""dFLMoE: lend the head, borrow the others', learn a personal mixture.

Xie et al., dFLMoE: Decentralized Federated Learning via Mixture of Experts for Medical Data
Analysis, CVPR 2025. ``Dials.paper()`` is our reading of the published method; the other dials are
what made borrowed heads mean something in our trials (docs/method.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.core.algorithm import Outcome, out_of_fold_loss, out_of_fold_losses
from dflmoe.core.controls import bootstrap, permuted, random_like
from dflmoe.core.dials import Dials
from dflmoe.core.guard import difference, mixture_is_used
from dflmoe.core.mixing import Invited, Mixed, fit_mixture
from dflmoe.core.site import Expert, Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import initial, part_of, stacked_call
from dflmoe.core.task import over_places
from dflmoe.core.training import Fitted, Training, cross_fit
from dflmoe.types import Params, SiteId, generator

OWN_SAMPLES = 3
"""Bootstrap samples of the control ``self``; with more peers, several stand behind one head."""


@dataclass(frozen=True)
class DFLMoE:
    """The algorithm of one site (``core.algorithm.Algorithm``).

    Attributes:
        network: The site's body and head.
        dials: The method's dials.
        training: How body and head are trained.
        body_seed: The federation's seed for ``body="seeded"``.
    """

    network: Network
    dials: Dials = field(default_factory=Dials)
    training: Training = field(default_factory=Training)
    body_seed: int = 0

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        if self.dials.body == "seeded":
            rng = generator(self.body_seed, "body")
        models = data.crossfit.splits * data.crossfit.fits
        body = initial(self.network.body, models, rng)
        head = initial(self.network.head, models, rng)
        return SiteState(site, 0, {"body": body, "head": head, "mixture": {}})

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train body and head on the site's own rows; lend the head of the final fit."""
        start = {part: state.params[part] for part in ("body", "head")}
        trained = self._trained(start, data, rng)
        lends = trained["head"]
        if self.dials.control == "shuffled":
            lends = self._trained(start, permuted(data, rng), rng)["head"]
        state = replace(state, round=state.round + 1, params={**state.params, **trained})
        head = data.crossfit.final(lends)
        return state, Lent(state.site, state.round, "head", self.network.width, head)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Take in the heads that arrived, fit gate and transforms, and let the guard decide."""
        folds = data.crossfit
        experts = self._newest(state, inbox)
        heads = {site: folds.spread(e.head) for site, e in sorted(experts.items())}
        widths = {site: e.width for site, e in experts.items()}
        if self.dials.control == "random":
            heads = {site: random_like(head, rng) for site, head in heads.items()}
        elif self.dials.control == "self":
            start = self.init(state.site, data, rng).params
            drawn = [
                self._trained(start, bootstrap(data, rng), rng)["head"]
                for _ in range(min(len(heads), OWN_SAMPLES))
            ]
            heads = {site: drawn[k % OWN_SAMPLES] for k, site in enumerate(heads)}
            widths = dict.fromkeys(heads, self.network.width)
        own = self._at_home(state, heads, data, rng)
        mixed = fit_mixture(
            self.network,
            self.dials,
            Invited(own, heads, widths),
            self._features(state.params["body"], data),
            body=state.params["body"],
            previous=state.params["mixture"],
            data=data,
            rng=rng,
        )
        params = {**state.params, "body": mixed.body, "mixture": mixed.params}
        state = replace(state, params=params, experts=experts)
        return state, self._judged(state, mixed, data)

    def _trained(
        self, start: Mapping[str, Params], data: SiteData, rng: torch.Generator
    ) -> dict[str, Params]:
        """Train the head, and the body unless it is common to all sites."""
        if self.network.common:
            fitted = self._head_trained(start["body"], start["head"], data, rng)
            body, head = start["body"], fitted.params
        else:
            whole = {f"{part}/{n}": p for part in ("body", "head") for n, p in start[part].items()}
            fitted = cross_fit(self._whole, whole, data, self.training, rng)
            body, head = part_of(fitted.params, "body"), part_of(fitted.params, "head")
        record = {"weight_decay": fitted.weight_decay, "curve": fitted.curve}
        return {"body": body, "head": head, "training": record}

    def _head_trained(
        self,
        body: Params,
        head: Params,
        data: SiteData,
        rng: torch.Generator,
        towards: Params | None = None,
    ) -> Fitted:
        """Train the head alone, on features of a body that stays as it is."""
        features = self._features(body, data)[:: data.crossfit.fits]
        return cross_fit(
            lambda params, x: stacked_call(self.network.head, params, x),
            head,
            replace(data, x=features),
            self.training,
            rng,
            towards=towards,
            linear=isinstance(self.network.head, nn.Linear) and data.y.dim() == 1,
        )

    def _whole(
        self, params: Params, x: Float[Tensor, "model row ..."]
    ) -> Float[Tensor, "model row class ..."]:
        """Return the logits of body and head, whose parameters carry their part in their name."""
        features = stacked_call(self.network.body, part_of(params, "body"), x)
        return stacked_call(self.network.head, part_of(params, "head"), features)

    def _features(self, body: Params, data: SiteData) -> Float[Tensor, "model row feature ..."]:
        """Return the features of all rows for every fit; computed once if all fits agree."""
        with torch.no_grad():
            if self.network.common:
                first = {name: p[:: data.crossfit.fits] for name, p in body.items()}
                features = stacked_call(self.network.body, first, data.x)
                return features.repeat_interleave(data.crossfit.fits, dim=0)
            x = data.x.repeat_interleave(data.crossfit.fits, dim=0)
            return stacked_call(self.network.body, body, x)

    def _at_home(
        self,
        state: SiteState,
        heads: Mapping[SiteId, Params],
        data: SiteData,
        rng: torch.Generator,
    ) -> Params:
        """Return the head that stands for the site in its own mixture.

        With ``restart="consensus"`` that is the own head restarted from the average of all heads,
        and pulled back there as strongly as out-of-fold predictions advise. It is used at home and
        never lent: what a site lends was learnt from its own rows only, so no row comes back to its
        site in a peer's head, and out-of-fold predictions stay what they say.
        """
        own = state.params["head"]
        if self.dials.restart == "own" or not heads:
            return own
        mean = {
            n: torch.stack([p, *(h[n] for h in heads.values())]).mean(0) for n, p in own.items()
        }
        return self._head_trained(state.params["body"], mean, data, rng, towards=mean).params

    def _newest(self, state: SiteState, inbox: Sequence[Lent]) -> dict[SiteId, Expert]:
        """Return the newest head of each peer; heads unheard for too long are dropped."""
        heard = {m.site: Expert(m.tensors, m.width, state.round) for m in inbox}
        held = {**state.experts, **heard}
        return {s: e for s, e in held.items() if state.round - e.heard <= self.dials.max_age}

    def own_log_probs(
        self, state: SiteState, data: SiteData
    ) -> Float[Tensor, "split row class ..."]:
        """Return what the site's own network says: out of fold on training rows."""
        features = self._features(state.params["body"], data)
        with torch.no_grad():
            logits = stacked_call(self.network.head, state.params["head"], features)
        return data.crossfit.out_of_fold(data.task.said(logits, 2))

    def _judged(self, state: SiteState, mixed: Mixed, data: SiteData) -> Outcome:
        """Compare the mixture with the site's own model out of fold and decide which serves."""
        folds = data.crossfit
        trains = folds.fold >= 0
        own = self.own_log_probs(state, data) if data.alone is None else data.alone
        mixture = folds.out_of_fold(mixed.log_probs)
        own_loss, mixture_loss = (out_of_fold_losses(p, data) for p in (own, mixture))
        bounds = difference(
            mixture_loss - own_loss, trains, data.group, confidence=self.dials.confidence
        )
        used = mixture_is_used(bounds, vouched=self.dials.vouched)
        if not self.dials.guard:
            used = torch.ones_like(used)
        names = [state.site, *sorted(state.experts)]
        shown = torch.where(trains.all(1, keepdim=True), trains, ~trains).float()
        share = (folds.out_of_fold(over_places(mixed.weights)) * shown[..., None]).sum(1)
        share = share / shown.sum(1, keepdim=True)
        aside = ~mixed.available.unflatten(0, (folds.splits, folds.fits))[:, -1]
        return Outcome(
            served=torch.where(used.view(-1, *[1] * (own.dim() - 1)), mixture, own),
            own=own,
            mixture=mixture,
            used=used,
            share={name: share[:, e] for e, name in enumerate(names)},
            quarantined={name: aside[:, e] for e, name in enumerate(names)},
            own_loss=out_of_fold_loss(own, data),
            mixture_loss=out_of_fold_loss(mixture, data),
            curve=state.params["training"]["curve"],
        )
