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

from dflmoe.core.algorithm import Outcome, alone_outcome, out_of_fold_loss, out_of_fold_losses
from dflmoe.core.controls import bootstrap, permuted, random_like
from dflmoe.core.dials import Dials
from dflmoe.core.guard import difference, mixture_is_used
from dflmoe.core.mixing import ALONE, OWN, Invited, Mixed, fit_mixture
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
        training: How body and head are trained in each round.
        tuning: How the own head is trained at home, from the average of all heads; like any round
            if not given.
        body_seed: The federation's seed for ``body="seeded"``.
    """

    network: Network
    dials: Dials = field(default_factory=Dials)
    training: Training = field(default_factory=Training)
    tuning: Training | None = None
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
        """Train body and head on the site's own rows; lend the head, of the final fit or of all."""
        start = {part: state.params[part] for part in ("body", "head")}
        start |= {"head": state.params.get("average", start["head"])}
        trained = self._trained(start, data, rng)
        lends = trained["head"]
        if self.dials.control == "shuffled":
            lends = self._trained(start, permuted(data, rng), rng)["head"]
        state = replace(state, round=state.round + 1, params={**state.params, **trained})
        folds = data.crossfit
        lent = folds.by_fit(lends) if self.dials.by_fit else folds.final(lends)
        return state, Lent(state.site, state.round, "head", self.network.width, lent)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Take in the heads that arrived, fit gate and transforms, and let the guard decide."""
        experts = self._newest(state, inbox)
        ages = {site: state.round - expert.heard for site, expert in experts.items()}
        heads = self._borrowed(state, experts, data, rng)
        state = replace(state, experts=experts)
        if self.dials.by_fit:
            average = self._average(state.params["head"], heads, ages)
            state = replace(state, params={**state.params, "average": average})
        if state.round < self.dials.rounds:
            own = self.own_log_probs(state, data) if data.alone is None else data.alone
            return state, alone_outcome(own, state, data)
        own_head = self._at_home(state, heads, ages, data, rng)
        widths = {site: experts[site].width for site in heads}
        if self.dials.control == "self":
            widths = dict.fromkeys(heads, self.network.width)
        alone = None
        if self.dials.with_alone and data.alone is not None:
            alone = data.crossfit.spread({"alone": data.alone})["alone"]
        mixed = fit_mixture(
            self.network,
            self.dials,
            Invited(own_head, heads, widths, ages, alone),
            self._features(state.params["body"], data),
            body=state.params["body"],
            previous=state.params["mixture"],
            data=data,
            rng=rng,
        )
        params = {**state.params, "body": mixed.body, "mixture": mixed.params}
        state = replace(state, params=params)
        return state, self._judged(state, mixed, data)

    def _borrowed(
        self,
        state: SiteState,
        experts: Mapping[SiteId, Expert],
        data: SiteData,
        rng: torch.Generator,
    ) -> dict[SiteId, Params]:
        """Return the peers' heads for every fit, or what a control puts in their place."""
        folds, dials = data.crossfit, self.dials
        heads = {
            site: {n: p.flatten(0, 1) for n, p in expert.head.items()}
            if dials.by_fit
            else folds.spread(expert.head)
            for site, expert in sorted(experts.items())
        }
        if dials.control == "random":
            return {site: random_like(head, rng) for site, head in heads.items()}
        if dials.control == "self":
            start = dict(self.init(state.site, data, rng).params)
            start |= {"head": state.params.get("average", start["head"])}
            drawn = [
                self._trained(start, bootstrap(data, rng), rng)["head"]
                for _ in range(min(len(heads), OWN_SAMPLES))
            ]
            return {site: drawn[k % OWN_SAMPLES] for k, site in enumerate(heads)}
        return heads

    def _average(
        self, own: Params, heads: Mapping[SiteId, Params], ages: Mapping[SiteId, int]
    ) -> Params:
        """Return the average of all heads, each weighing less the longer it was unheard.

        The control ``random`` takes no part: an average with noise would be a straw man.
        """
        if self.dials.control == "random":
            return own
        share = torch.tensor([1.0, *(self.dials.fading ** ages[site] for site in heads)])
        share = share / share.sum()
        return {
            name: torch.einsum(
                "e,e...->...", share, torch.stack([p, *(h[name] for h in heads.values())])
            )
            for name, p in own.items()
        }

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
        *,
        plan: Training | None = None,
        towards: Params | None = None,
    ) -> Fitted:
        """Train the head alone, on features of a body that stays as it is."""
        features = self._features(body, data)[:: data.crossfit.fits]
        solved = isinstance(self.network.head, nn.Linear) and data.y.dim() == 1
        return cross_fit(
            lambda params, x: stacked_call(self.network.head, params, x),
            head,
            replace(data, x=features),
            plan or self.training,
            rng,
            towards=towards,
            linear=solved and (towards is not None or not self.dials.by_fit),
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
        ages: Mapping[SiteId, int],
        data: SiteData,
        rng: torch.Generator,
    ) -> Params:
        """Return the head that stands for the site in its own mixture.

        With ``restart="consensus"`` that is the own head restarted from the average of all heads,
        and pulled back there as strongly as out-of-fold predictions advise. It is used at home and
        never lent. Where rounds of averaging come before, heads are lent and averaged fit by fit,
        so out-of-fold predictions stay what they say (``Dials.by_fit``).
        """
        own = state.params["head"]
        if self.dials.restart == "own" or not heads:
            return own
        average = self._average(own, heads, ages)
        plan = self.tuning or self.training
        return self._head_trained(
            state.params["body"], average, data, rng, plan=plan, towards=average
        ).params

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
        home = {OWN: state.site, ALONE: f"{state.site} (own network)"}
        names = [home.get(name, name) for name in mixed.names]
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
            worth={
                name: out_of_fold_loss(folds.out_of_fold(said), data)
                - out_of_fold_loss(mixture, data)
                for name, said in mixed.without.items()
            },
            own_loss=out_of_fold_loss(own, data),
            mixture_loss=out_of_fold_loss(mixture, data),
            curve=state.params["training"]["curve"],
        )
