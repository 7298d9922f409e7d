"""Train with federated algorithms of fluke-fl, on a split and from initial weights that we made.

``check.py`` runs this file, in an environment of its own that has fluke-fl (LGPL-2.1-or-later,
called and never copied) and not dflmoe. A line of JSON on standard input is one federation to
train: the fields of ``Run``. The answer is a line of JSON on standard output: the class that each
test row of each site is given after the last average. The first line of all says the versions.
"""

import contextlib
import json
import sys
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from fluke import FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.algorithms.ditto import Ditto, DittoClient
from fluke.algorithms.fedavg import FedAVG
from fluke.algorithms.fedprox import FedProx, FedProxClient
from fluke.algorithms.scaffold import SCAFFOLD, SCAFFOLDClient, SCAFFOLDServer
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server
from fluke.utils import ClientObserver
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@dataclass(frozen=True)
class Run:
    """One federation to train.

    Attributes:
        rows: An ``.npz`` with ``x``, ``y``, ``site`` (0 to S-1), ``test`` (whether a row is one)
            and ``weights`` (all initial weights in one vector, the body's first).
        algorithm: FedAvg of one site is training alone.
        dial: The algorithm's own number: FedProx's mu, Ditto's lambda, the rate of SCAFFOLD's
            steps, which are plain ones. 0 where there is none.
        network: As it is called in dflmoe's catalogue.
        classes: Number of classes.
        rounds: Averages taken.
        epochs: Passes over a site's rows between two averages; in FedRep half of them are the
            head's and the other half the body's.
        batch: Rows of a step; 0 for all.
        learning_rate: Of Adam.
        weight_decay: Of Adam; biases and norms go free.
        seed: Of the order of rows.
    """

    rows: str
    algorithm: Literal[
        "fedavg", "fedrep", "fedper", "lg_fedavg", "fedprox", "ditto", "scaffold", "fedproto"
    ]
    dial: float
    network: Literal["mlp", "small_cnn"]
    classes: int
    rounds: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Site:
    """Training rows and the inputs of test rows."""

    x: Tensor
    y: Tensor
    test_x: Tensor


def sparing(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters in groups: biases and other vectors have no weight decay, as in dflmoe."""
    every = list(params)
    return [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]


class SparingAdam(torch.optim.Adam):
    """Adam whose weight decay spares biases."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(sparing(params, weight_decay), lr=lr)


class SparingSteps(torch.optim.SGD):
    """Plain steps whose weight decay spares biases."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(sparing(params, weight_decay), lr=lr)


class PulledAdam(SparingAdam):
    """Adam for Ditto's own model, which fluke moves by plain steps without weight decay."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, strength: float
    ) -> None:
        self.every, self.strength = list(params), strength
        super().__init__(self.every, lr, weight_decay)

    def step(self, towards: Iterable[Tensor]) -> None:  # type: ignore[override]  # as fluke calls it
        """Take a step down the gradients and the pull."""
        for p, target in zip(self.every, towards, strict=True):
            if p.grad is not None:
                p.grad += self.strength * (p.detach() - target.detach())
        super().step()


class NewOptimisers(ClientObserver):  # type: ignore[misc]  # fluke has no types here
    """Takes a client's optimisers away before it trains; it makes new ones, as dflmoe does."""

    def __init__(self, clients: list[Client], run: Run, sites: list[Site]) -> None:
        self.clients, self.run = clients, run
        rows = [len(site.y) for site in sites]
        self.share = [n * len(rows) / sum(rows) for n in rows]

    def start_fit(self, client_id: int, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """See ``ClientObserver``."""
        client = self.clients[client_id]
        client.optimizer = None
        if self.run.algorithm == "ditto":
            settings = {"weight_decay": self.run.weight_decay, "strength": self.run.dial}
            make = OptimizerConfigurator(
                {"name": PulledAdam, "lr": self.run.learning_rate, **settings}
            )
            client.pers_optimizer, client.pers_scheduler = make(client.personalized_model)
        elif hasattr(client, "pers_optimizer"):
            client.pers_optimizer = None

    def end_fit(self, client_id: int, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """Weigh a control variate by rows, as the model is weighed and dflmoe weighs both."""
        delta = getattr(self.clients[client_id], "delta_control", None) or {}
        for name in delta:
            delta[name] = delta[name] * self.share[client_id]


def network(run: Run, shape: torch.Size, weights: Tensor) -> tuple[nn.Module, nn.Module]:
    """Return body and head, with their initial weights.

    Raises:
        ValueError: There are more or fewer weights than the network has.
    """
    if run.network == "mlp":
        body = nn.Sequential(nn.Linear(shape[0], 32), nn.GELU(), nn.Linear(32, 32), nn.GELU())
        head = nn.Linear(32, run.classes)
    else:
        first = [nn.Conv2d(shape[0], 16, 3, padding=1), nn.GroupNorm(4, 16), nn.GELU()]
        second = [nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.GELU()]
        pools = nn.AdaptiveAvgPool2d(8), nn.AdaptiveAvgPool2d(2)
        body = nn.Sequential(*first, pools[0], *second, pools[1], nn.Flatten())
        head = nn.Linear(128, run.classes)
    parameters = [*body.parameters(), *head.parameters()]
    if len(parameters_to_vector(parameters)) != len(weights):
        raise ValueError(f"{run.network} here has other weights than dflmoe's")
    vector_to_parameters(weights, parameters)
    return body, head


def federation(run: Run, sites: list[Site], body: nn.Module, head: nn.Module) -> CentralizedFL:
    """Return fluke's algorithm, its sites weighted by rows."""
    plain = run.algorithm == "scaffold"
    optimiser = {
        "name": SparingSteps if plain else SparingAdam,
        "lr": run.dial if plain else run.learning_rate,
        "weight_decay": run.weight_decay,
    }
    settings = [
        {
            "index": index,
            "train_set": FastDataLoader(
                site.x,
                site.y,
                num_labels=run.classes,
                batch_size=run.batch,
                shuffle=True,
                skip_singleton=False,
            ),
            "test_set": None,
            "optimizer_cfg": OptimizerConfigurator(dict(optimiser)),
            "loss_fn": nn.CrossEntropyLoss(),
        }
        for index, site in enumerate(sites)
    ]
    if run.algorithm == "fedproto":
        return sharing_prototypes(run, settings, body, head)
    if run.algorithm in ("fedrep", "fedper", "lg_fedavg"):
        return sharing_a_part(run, settings, body, head)
    whole, epochs = nn.Sequential(body, head), {"local_epochs": run.epochs}
    kind, client, server, more = whole_models(run)
    clients = [client(**s, **epochs, **more(whole)) for s in settings]
    central = server(deepcopy(whole), None, clients, weighted=True)
    return kind(len(sites), None, {}, clients=clients, server=central)


def whole_models(run: Run) -> tuple[Any, Any, Any, Any]:  # fluke has no types here
    """Return algorithm, client, server and the client's own arguments, given a model."""
    dial: dict[str, Any] = {"mu": run.dial}
    if run.algorithm == "fedprox":
        return FedProx, FedProxClient, Server, lambda _: dial
    if run.algorithm == "scaffold":
        return SCAFFOLD, SCAFFOLDClient, SCAFFOLDServer, lambda _: {}
    if run.algorithm == "ditto":
        dial = {"lam": run.dial, "tau": run.epochs}
        return Ditto, DittoClient, Server, lambda whole: {"model": deepcopy(whole), **dial}
    return FedAVG, Client, Server, lambda _: {}


def sharing_a_part(
    run: Run, settings: list[dict[str, Any]], body: nn.Module, head: nn.Module
) -> CentralizedFL:
    """Return FedRep, FedPer or LG-FedAvg."""
    stand_in_for_torchvision()
    from fluke.algorithms import fedper, fedrep, lg_fedavg  # noqa: PLC0415
    from fluke.nets import EncoderHeadNet  # noqa: PLC0415

    kind, client, server = fedper.FedPer, fedper.FedPerClient, fedper.FedPerServer
    epochs = {"local_epochs": run.epochs}
    if run.algorithm == "fedrep":
        kind, client, server = fedrep.FedRep, fedrep.FedRepClient, fedrep.FedRepServer
        epochs = {"local_epochs": run.epochs // 2, "tau": run.epochs // 2}
    if run.algorithm == "lg_fedavg":
        kind, client = lg_fedavg.LGFedAVG, lg_fedavg.LGFedAVGClient
        server = lg_fedavg.LGFedAVGServer
    common = head if run.algorithm == "lg_fedavg" else body
    whole = EncoderHeadNet(body, head)
    clients = [client(model=deepcopy(whole), **s, **epochs) for s in settings]
    central = server(deepcopy(common), None, clients, weighted=True)
    return kind(len(settings), None, {}, clients=clients, server=central)


def sharing_prototypes(
    run: Run, settings: list[dict[str, Any]], body: nn.Module, head: nn.Module
) -> CentralizedFL:
    """Return FedProto with a pull of 1; it serves the head here, as in dflmoe."""
    stand_in_for_torchvision()
    from fluke.algorithms.fedproto import (  # noqa: PLC0415
        FedProto,
        FedProtoClient,
        FedProtoServer,
    )
    from fluke.nets import EncoderHeadNet  # noqa: PLC0415

    whole = EncoderHeadNet(body, head)
    more = {"local_epochs": run.epochs, "n_protos": run.classes, "lam": 1.0}
    clients = [FedProtoClient(model=deepcopy(whole), **s, **more) for s in settings]
    central = FedProtoServer(None, None, clients, weighted=True, n_protos=run.classes)
    return FedProto(len(settings), None, {}, clients=clients, server=central)


def stand_in_for_torchvision() -> None:
    """Let ``fluke.nets`` load without torchvision: it names three networks that we do not use."""
    for name in ("torchvision", "torchvision.models"):
        sys.modules.setdefault(name, ModuleType(name)).__spec__ = ModuleSpec(name, None)
    unused = ("resnet18", "resnet34", "resnet50")
    vars(sys.modules["torchvision.models"]).update(dict.fromkeys(unused))


def trained(run: Run) -> list[list[int]]:
    """Return the class that each test row of each site is given after the last average."""
    with np.load(run.rows, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    x, y, test = arrays["x"], arrays["y"], arrays["test"]
    own = [arrays["site"] == site for site in arrays["site"].unique()]
    sites = [Site(x[o & ~test], y[o & ~test], x[o & test]) for o in own]
    body, head = network(run, x.shape[1:], arrays["weights"])
    env = FlukeENV()
    env.set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    env.set_seed(run.seed)
    algorithm = federation(run, sites, body, head)
    algorithm.set_callbacks(NewOptimisers(algorithm.clients, run, sites))
    algorithm.run(n_rounds=run.rounds, eligible_perc=1.0)
    return [
        said(client.personalized_model if run.algorithm == "ditto" else client.model, site.test_x)
        for client, site in zip(algorithm.clients, sites, strict=True)
    ]


def said(model: nn.Module, x: Tensor) -> list[int]:
    """Return the class that the model gives to each row."""
    with torch.no_grad():
        classes: list[int] = model.eval()(x).argmax(1).tolist()
    return classes


def main() -> None:
    """Answer line by line."""
    torch.set_num_threads(1)
    print(json.dumps({name: version(name) for name in ("fluke-fl", "torch")}), flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):  # fluke's progress bars
            answer = trained(Run(**json.loads(line)))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
