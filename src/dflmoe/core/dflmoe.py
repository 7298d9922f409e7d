"""dFLMoE: lend the head, borrow the others', learn a personal mixture.

Xie et al., dFLMoE: Decentralized Federated Learning via Mixture of Experts for Medical Data
Analysis, CVPR 2025. ``Dials.paper()`` is our reading of the published method; the other dials are
what made borrowed heads mean something in our trials (docs/explanation/method.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.core.algorithm import (
    Lender,
    Outcome,
    Release,
    alone_outcome,
    out_of_fold_loss,
)
from dflmoe.core.align import aligned, anchor_features, anchored_map
from dflmoe.core.controls import bootstrap, permuted, random_like
from dflmoe.core.dials import Dials
from dflmoe.core.distil import is_distribution, with_opinion
from dflmoe.core.guard import what_serves
from dflmoe.core.mixing import ALONE, OWN, TAUGHT, Invited, Mixed, fit_mixture
from dflmoe.core.remembered import remembered
from dflmoe.core.site import Expert, Lent, Network, SiteData, SiteState
from dflmoe.core.stacking import (
    BodyAndHead,
    Stack,
    bodies_in,
    features_of,
    initial,
    mean_of,
    part_of,
    stacked_call,
)
from dflmoe.core.task import over_places
from dflmoe.core.training import Fitted, Training, cross_fit
from dflmoe.core.transform import transformed
from dflmoe.types import Params, SiteId, generator

WIDE_GRID = Training().weight_decays
"""Penalties of heads that are solved, where each costs next to nothing."""

ANCHORS, OPINION = "anchor features", "anchor opinion"
"""What travels beside a head: features of public rows, and what the site says of them."""

OWN_SAMPLES = 3
"""Bootstrap samples of the control ``self``; with more peers, several stand behind one head."""


def head_of(tensors: Params) -> Params:
    """Return a lent head without what travelled beside it."""
    return {name: p for name, p in tensors.items() if name not in {ANCHORS, OPINION}}


@dataclass(frozen=True)
class DFLMoE:
    """The algorithm of one site (``core.algorithm.Algorithm``).

    Attributes:
        network: The site's body and head.
        dials: The method's dials.
        training: How body and head are trained in each round.
        tuning: How the own head is trained at home, from the average of all heads; like any round
            if not given.
        body_seed: The federation's seed.
        keeps: Whether outcomes tell what the mixture is made of, so that it can serve elsewhere.
        min_class_patients: A class of fewer patients teaches nothing that is lent; the head that
            stays at home learns it.
        lender: Decides about each head before it is lent; every one is lent as it is without it.
    """

    network: Network
    dials: Dials = field(default_factory=Dials)
    training: Training = field(default_factory=Training)
    tuning: Training | None = None
    body_seed: int = 0
    keeps: bool = False
    min_class_patients: int = 0
    lender: Lender | None = None

    def init(self, site: SiteId, data: SiteData, rng: torch.Generator) -> SiteState:
        """See ``Algorithm.init``."""
        if self.dials.body != "private":
            rng = generator(self.body_seed, "body")
        models = data.crossfit.splits * data.crossfit.fits
        body = initial(self.network.body, models, rng)
        head = initial(self.network.head, models, rng)
        return SiteState(site, 0, {"body": body, "head": head, "mixture": {}})

    def prepare(
        self, state: SiteState, data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Lent]:
        """Train body and head on the site's own rows and lend the head.

        In the rounds of averaging that may come first, the common start is trained for some steps
        instead, and every fit of it is lent: averaged with its peers' fits of the same fold, none
        ever meets the fold that it is judged on. What is lent as an expert knows its own site only.
        """
        averages = state.round < self.dials.averaging
        start = {part: state.params[part] for part in ("body", "head")}
        if averages:
            start["head"] = state.params.get("average", start["head"])
        plan = self._plan(averages=averages)
        trained = lender = self._trained(start, data, rng, plan)
        common = data.without_rare(self.min_class_patients)
        if self.dials.control == "shuffled":
            lender = self._trained(start, permuted(data, rng), rng, plan)
        elif common is not data and common.of_two_classes:
            lender = self._trained(start, common, rng, plan)
        folds, width = data.crossfit, self.network.width
        state = replace(state, round=state.round + 1)
        if averages:
            kept = {"began": start["head"], "average": trained["head"]}
            state = replace(state, params={**state.params, **kept})
            lent = Lent(state.site, state.round, "fits", width, folds.by_fit(lender["head"]))
            return state, self._lent(lent, lender, state, common)
        state = replace(state, params={**state.params, **trained})
        tensors = folds.final(lender["head"])
        if self.dials.align == "anchored" or self.dials.distil:
            tensors = {**tensors, **self._beside(lender, data)}
        lent = Lent(state.site, state.round, "head", width, tensors)
        return state, self._lent(lent, lender, state, common)

    def absorb(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> tuple[SiteState, Outcome]:
        """Take in the heads that arrived, fit gate and transforms, and let the guard decide."""
        if state.round <= self.dials.averaging:
            average = self._averaged(state, inbox, data, rng)
            state = replace(state, params={**state.params, "average": average})
            own = self.own_log_probs(state, data) if data.alone is None else data.alone
            return state, alone_outcome(own, state, data)
        experts = self._newest(state, inbox)
        ages = {site: state.round - expert.heard for site, expert in experts.items()}
        spread = {site: data.crossfit.spread(e.head) for site, e in sorted(experts.items())}
        heads = self._borrowed(state, spread, data, rng)
        state = replace(state, experts=experts)
        own_head = self._at_home(state, heads, data, rng)
        widths = {site: experts[site].width for site in heads}
        maps = self._maps(state, experts, data)
        if self.dials.control == "self":
            widths, maps = dict.fromkeys(heads, self.network.width), {}
        said = {}
        if self.dials.with_alone and data.alone is not None:
            said[ALONE] = data.alone
        opinions = self._opinions(experts, data, rng)
        taught: dict[str, Params] = {}
        if self.dials.distil and opinions:
            said[TAUGHT], taught = self._taught(state, opinions, data, rng)
        body = state.params["body"]
        features = self._features(body, data)
        mixed = fit_mixture(
            self.network,
            self.dials,
            Invited(own_head, heads, widths, ages, maps, data.crossfit.spread(said)),
            features,
            body=body,
            previous=state.params["mixture"],
            data=data,
            rng=rng,
        )
        params = {**state.params, "body": mixed.body, "mixture": mixed.params}
        state = replace(state, params=params)
        if mixed.body is not body:
            features = self._features(mixed.body, data)
        own = self._said(state, features, data) if data.alone is None else data.alone
        outcome = self._judged(state, own, mixed, data)
        if self.keeps:
            parts = {"body": mixed.body, "own": own_head, "mixture": mixed.params}
            parts |= {f"head/{site}": head for site, head in heads.items()}
            parts |= {f"map/{site}": to for site, to in maps.items()}
            parts["weighing"] = {"available": mixed.available, "prior": mixed.prior}
            fitted = {part: data.crossfit.final(params) for part, params in parts.items()}
            outcome = replace(outcome, fitted=fitted | taught)
        return state, outcome

    def _lent(
        self, lent: Lent, trained: Mapping[str, Params], state: SiteState, data: SiteData
    ) -> Lent:
        """Return what the lender makes of a head.

        Args:
            lent: What is ready.
            trained: The fits that it comes from.
            state: Of the site.
            data: The rows that taught them.
        """
        if self.min_class_patients and not data.of_two_classes:
            why = (
                f"fewer than two classes have {self.min_class_patients} patients here, so nothing "
                f"is left that a head could learn from; more patients of a class would help"
            )
            return replace(lent, tensors={}, withheld=why)
        if self.lender is None:
            return lent
        beside = self.dials.align == "anchored" or bool(self.dials.distil)
        held = state.experts if self.network.common else {}
        return self.lender(
            Release(
                lent,
                self.network,
                trained["head"],
                self._features(trained["body"], data),
                self._of_anchors(trained["body"], data, -1) if beside else None,
                data,
                {site: expert.head for site, expert in sorted(held.items())},
            )
        )

    def _of_anchors(
        self, body: Params, data: SiteData, fit: int | None = None
    ) -> Float[Tensor, "model anchor feature ..."]:
        """Return the features of the anchors under the bodies of all fits, or of one."""
        folds = data.crossfit
        if data.anchors is None:
            raise ValueError("anchors are needed to align by them or to distil, and there are none")
        if fit is not None:
            body = {name: p[:, fit] for name, p in folds.by_fit(body).items()}
        models = folds.splits * (folds.fits if fit is None else 1)
        with torch.no_grad():
            return features_of(
                self.network.body, body, data.anchors.expand(models, *data.anchors.shape)
            )

    def _beside(self, lender: Mapping[str, Params], data: SiteData) -> Params:
        """Return what travels beside the head: features of the anchors, or what it says of them."""
        features, beside = self._of_anchors(lender["body"], data, -1), {}
        if self.dials.align == "anchored":
            beside[ANCHORS] = anchor_features(features)
        if self.dials.distil:
            with torch.no_grad():
                raw = stacked_call(self.network.head, data.crossfit.final(lender["head"]), features)
            said = data.task.said(raw, 2)
            beside[OPINION] = said if data.y.is_floating_point() else said.exp()
        return beside

    def _taught(
        self,
        state: SiteState,
        opinions: Sequence[Float[Tensor, "split anchor class ..."]],
        data: SiteData,
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, "split row class ..."], dict[str, Params]]:
        """Return what the own network says when it also learns the peers' mean opinion of anchors.

        It returns the last fit of that network, too.

        Hinton et al., Distilling the Knowledge in a Neural Network, 2015. The peers never saw the
        site's rows, so out-of-fold predictions stay what they say; what comes of it stays at home.
        """
        soft = torch.stack(list(opinions)).mean(0)
        plan = self.tuning or self.training
        if plan.batch is not None:  # the own rows are to be seen as often as without opinions
            plan = replace(plan, batch=round((1 + self.dials.distil) * plan.batch))
        said, last = [], []
        for split in range(data.crossfit.splits):  # of anchors, each has an opinion of its own
            one = data.only(split)
            start = self.init(state.site, one, rng).params
            told = with_opinion(one, soft[split], self.network.classes, self.dials.distil)
            taught = self._trained(start, told, rng, plan)
            said.append(self.own_log_probs(replace(state, params=taught), one))
            last.append({part: one.crossfit.final(taught[part]) for part in ("body", "head")})
        parts = {part: [params[part] for params in last] for part in ("body", "head")}
        return torch.cat(said), {
            f"taught/{part}": {name: torch.cat([p[name] for p in each]) for name in each[0]}
            for part, each in parts.items()
        }

    def _maps(
        self, state: SiteState, experts: Mapping[SiteId, Expert], data: SiteData
    ) -> dict[SiteId, Params]:
        """Return the map from own features to those of each peer that lent its own of anchors."""
        lent = {site: e.anchors for site, e in experts.items() if e.anchors is not None}
        if self.dials.align != "anchored" or not lent:
            return {}
        own = anchor_features(self._of_anchors(state.params["body"], data))
        fits = data.crossfit.fits
        return {
            site: anchored_map(own, theirs.repeat_interleave(fits, dim=0))
            for site, theirs in sorted(lent.items())
        }

    def _plan(self, *, averages: bool) -> Training:
        """Return how a round trains: after rounds of averaging, a head is trained to the end."""
        if averages or not self.dials.averaging:
            return self.training
        return self.tuning or self.training

    def _borrowed(
        self,
        state: SiteState,
        heads: Mapping[SiteId, Params],
        data: SiteData,
        rng: torch.Generator,
    ) -> Mapping[SiteId, Params]:
        """Return the peers' heads for every fit, or what a control puts in their place."""
        if self.dials.control == "random":
            return {site: random_like(head, rng) for site, head in heads.items()}
        if self.dials.control != "self":
            return heads
        start = self.init(state.site, data, rng).params
        averages = state.round <= self.dials.averaging
        if averages:
            start = {**start, "head": state.params["began"]}
        drawn = [
            self._trained(start, bootstrap(data, rng), rng, self._plan(averages=averages))["head"]
            for _ in range(min(len(heads), OWN_SAMPLES))
        ]
        return {site: drawn[k % OWN_SAMPLES] for k, site in enumerate(heads)}

    def _opinions(
        self, experts: Mapping[SiteId, Expert], data: SiteData, rng: torch.Generator
    ) -> list[Float[Tensor, "split anchor class ..."]]:
        """Return what peers say of the anchors, or what a control puts in its place.

        Under ``random`` that is chance, and under ``self`` the same of all anchors; both leave the
        network that is trained once more. What is no distribution is not listened to.
        """
        lent = [e.opinion for _, e in sorted(experts.items()) if e.opinion is not None]
        if self.dials.control == "random":
            lent = [torch.rand(o.shape, generator=rng, device="cpu").to(o.device) for o in lent]
        if self.dials.control == "self":
            lent = [torch.ones_like(opinion) for opinion in lent]
        if data.y.is_floating_point():
            return lent
        if self.dials.control in {"random", "self"}:
            return [opinion / opinion.sum(2, keepdim=True) for opinion in lent]
        return [opinion for opinion in lent if is_distribution(opinion)]

    def _averaged(
        self, state: SiteState, inbox: Sequence[Lent], data: SiteData, rng: torch.Generator
    ) -> Params:
        """Return the average of the common start as it was trained here and at the peers.

        Under the control ``random`` it is trained here only: an average with noise would be a
        straw man.
        """
        own = state.params["average"]
        if self.dials.control == "random":
            return own
        heard = {m.site: {n: p.flatten(0, 1) for n, p in m.tensors.items()} for m in inbox}
        return mean_of([own, *self._borrowed(state, heard, data, rng).values()])

    def _trained(
        self,
        start: Mapping[str, Params],
        data: SiteData,
        rng: torch.Generator,
        plan: Training,
    ) -> dict[str, Params]:
        """Train the head, and the body unless it is common to all sites."""
        if self.network.common:
            fitted = self._head_trained(start["body"], start["head"], data, rng, plan)
            body, head = start["body"], fitted.params
        else:
            whole = {f"{part}/{n}": p for part in ("body", "head") for n, p in start[part].items()}
            network = BodyAndHead(self.network.body, self.network.head)
            fitted = cross_fit(network, whole, data, plan, rng)
            body, head = part_of(fitted.params, "body"), part_of(fitted.params, "head")
        record = {"weight_decay": fitted.weight_decay, "curve": fitted.curve}
        return {"body": body, "head": head, "training": record}

    def _head_trained(
        self,
        body: Params,
        head: Params,
        data: SiteData,
        rng: torch.Generator,
        plan: Training,
        *,
        towards: Params | None = None,
    ) -> Fitted:
        """Train the head alone, on features of a body that stays as it is."""
        features = self._features(body, data)[:: data.crossfit.fits]
        linear = isinstance(self.network.head, nn.Linear) and data.y.dim() == 1
        solved = linear and plan.early_stopping  # a few steps of a round lead to no optimum
        return cross_fit(
            Stack(self.network.head),
            head,
            replace(data, x=features),
            replace(plan, weight_decays=WIDE_GRID) if solved else plan,
            rng,
            towards=towards,
            linear=solved,
        )

    def _features(self, body: Params, data: SiteData) -> Float[Tensor, "model row feature ..."]:
        """Return the features of all rows for every fit; computed once if all fits agree."""
        with torch.no_grad():
            if self.network.common:
                first = {name: p[:: data.crossfit.fits] for name, p in body.items()}
                features = remembered(
                    data.x,
                    [*self.network.body.parameters(), *body.values()],
                    partial(features_of, self.network.body, first, data.x),
                    bodies_in(),
                )
                return features.repeat_interleave(data.crossfit.fits, dim=0)
            x = data.x.repeat_interleave(data.crossfit.fits, dim=0)
            return features_of(self.network.body, body, x)

    def _at_home(
        self,
        state: SiteState,
        heads: Mapping[SiteId, Params],
        data: SiteData,
        rng: torch.Generator,
    ) -> Params:
        """Return the head that stands for the site in its own mixture.

        After rounds of averaging that is the average, and with ``restart="consensus"`` the mean of
        all heads, trained at home and pulled back as strongly as out-of-fold predictions advise. It
        is never lent: what a site lends as an expert was learnt from its own rows only, so no row
        comes back to its site in a peer's head.
        """
        own = state.params["head"]
        if "average" in state.params:
            begin = state.params["average"]
        elif self.dials.restart == "consensus" and heads:
            begin = mean_of([own, *heads.values()])
        else:
            return own
        return self._head_trained(
            state.params["body"], begin, data, rng, self.tuning or self.training, towards=begin
        ).params

    def _newest(self, state: SiteState, inbox: Sequence[Lent]) -> dict[SiteId, Expert]:
        """Return the newest head of each peer; heads unheard for too long are dropped."""
        heard = {}
        for m in inbox:
            anchors, opinion = (m.tensors.get(name) for name in (ANCHORS, OPINION))
            heard[m.site] = Expert(head_of(m.tensors), m.width, state.round, anchors, opinion)
        held = {**state.experts, **heard}
        return {s: e for s, e in held.items() if state.round - e.heard <= self.dials.max_age}

    def opinions(
        self, state: SiteState, data: SiteData
    ) -> dict[SiteId, Float[Tensor, "split row class ..."]]:
        """Return what each expert says by itself, the own head under the site's own name."""
        folds = data.crossfit
        features = self._features(state.params["body"], data)
        maps = self._maps(state, state.experts, data)
        said = {state.site: self.own_log_probs(state, data)}
        for site, expert in sorted(state.experts.items()):
            seen = features
            if self.dials.align == "paper":
                (seen,) = transformed(state.params["mixture"], [site], features)
            elif site in maps:
                seen = aligned(maps[site], features)
            logits = stacked_call(self.network.head, folds.spread(expert.head), seen)
            said[site] = folds.out_of_fold(data.task.said(logits, 2))
        return said

    def own_log_probs(
        self, state: SiteState, data: SiteData
    ) -> Float[Tensor, "split row class ..."]:
        """Return what the site's own network says: out of fold on training rows."""
        return self._said(state, self._features(state.params["body"], data), data)

    def _said(
        self, state: SiteState, features: Float[Tensor, "model row feature ..."], data: SiteData
    ) -> Float[Tensor, "split row class ..."]:
        """Return what the site's own head says of features."""
        with torch.no_grad():
            logits = stacked_call(self.network.head, state.params["head"], features)
        return data.crossfit.out_of_fold(data.task.said(logits, 2))

    def _judged(
        self,
        state: SiteState,
        own: Float[Tensor, "split row class ..."],
        mixed: Mixed,
        data: SiteData,
    ) -> Outcome:
        """Compare the mixture with the site's own model out of fold and decide which serves."""
        folds = data.crossfit
        trains = folds.fold >= 0
        mixture = mixed.log_probs
        mixture_loss = out_of_fold_loss(mixture, data)
        serving = what_serves(own, mixture, data, self.dials)
        home = {
            OWN: state.site,
            ALONE: f"{state.site} (own network)",
            TAUGHT: f"{state.site} (taught by peers)",
        }
        names = [home.get(name, name) for name in mixed.names]
        shown = torch.where(trains.all(1, keepdim=True), trains, ~trains).float()
        share = (over_places(mixed.weights) * shown[..., None]).sum(1)
        share = share / shown.sum(1, keepdim=True)
        aside = ~mixed.available.unflatten(0, (folds.splits, folds.fits))[:, -1]
        return Outcome(
            served=serving.said,
            own=own,
            mixture=mixture,
            used=serving.used,
            whole=serving.whole,
            share={name: share[:, e] for e, name in enumerate(names)},
            quarantined={name: aside[:, e] for e, name in enumerate(names)},
            worth={
                name: out_of_fold_loss(said, data) - mixture_loss
                for name, said in mixed.without.items()
            },
            own_loss=out_of_fold_loss(own, data),
            mixture_loss=mixture_loss,
            curve=state.params["training"]["curve"],
        )
