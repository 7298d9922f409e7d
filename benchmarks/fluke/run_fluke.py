"""Train with FedAvg and FedRep of fluke-fl, on a split and from initial weights that we made.

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
from fluke.algorithms.fedavg import FedAVG
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
    algorithm: Literal["fedavg", "fedrep"]
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


class SparingAdam(torch.optim.Adam):
    """Adam whose weight decay spares biases and other vectors, as dflmoe's does."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        every = list(params)
        groups: list[dict[str, Any]] = [  # an optimiser's own type
            {"params": [p for p in every if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr)


class NewOptimisers(ClientObserver):  # type: ignore[misc]  # fluke has no types here
    """Takes a client's optimisers away before it trains; it makes new ones, as dflmoe does."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients

    def start_fit(self, client_id: int, **_: Any) -> None:  # noqa: ANN401 - fluke's signature
        """See ``ClientObserver``."""
        client = self.clients[client_id]
        client.optimizer = None
        if hasattr(client, "pers_optimizer"):
            client.pers_optimizer = None


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
    optimiser = {
        "name": SparingAdam,
        "lr": run.learning_rate,
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
    if run.algorithm == "fedavg":
        clients = [Client(**s, local_epochs=run.epochs) for s in settings]
        server = Server(nn.Sequential(body, head), None, clients, weighted=True)
        return FedAVG(len(sites), None, {}, clients=clients, server=server)
    stand_in_for_torchvision()
    from fluke.algorithms.fedrep import FedRep, FedRepClient, FedRepServer  # noqa: PLC0415
    from fluke.nets import EncoderHeadNet  # noqa: PLC0415

    half = {"local_epochs": run.epochs // 2, "tau": run.epochs // 2}
    whole = EncoderHeadNet(body, head)
    clients = [FedRepClient(model=deepcopy(whole), **s, **half) for s in settings]
    server = FedRepServer(deepcopy(body), None, clients, weighted=True)
    return FedRep(len(sites), None, {}, clients=clients, server=server)


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
    algorithm.set_callbacks(NewOptimisers(algorithm.clients))
    algorithm.run(n_rounds=run.rounds, eligible_perc=1.0)
    return [
        said(client.model, site.test_x)
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
