"""FedAvg, played by Flower's simulation: ray actors, each on a core, for all sites in turn.

``compare.py`` runs this file; its arguments are the time and the number of actors.
"""

import time

import torch
import workload
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

clock, net = workload.Clock(), workload.network()


def train(message: Message, context: Context) -> Message:
    """Let a site learn for an epoch."""
    torch.set_num_threads(1)
    local = workload.network()
    local.load_state_dict(message.content["arrays"].to_torch_state_dict())
    played = message.content["config"]["server-round"] - 1
    began = time.time()
    workload.epoch(local, int(context.node_config["partition-id"]), played)
    told = MetricRecord({"num-examples": workload.ROWS, "began": began})
    answer = RecordDict({"arrays": ArrayRecord(local.state_dict()), "metrics": told})
    return Message(content=answer, reply_to=message)


def noted(answers: list[RecordDict], _: str) -> MetricRecord:
    """Note when the first site began."""
    clock.stepping(min(answer["metrics"]["began"] for answer in answers))
    return MetricRecord()


def between_rounds(_round: int, _arrays: ArrayRecord) -> None:
    """Note that a round begins; Flower would let a server evaluate here."""
    clock.mark()


def serve(grid: Grid, _: Context) -> None:
    """Play all rounds."""
    strategy = FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=noted)
    played = strategy.start(
        grid,
        ArrayRecord(net.state_dict()),
        num_rounds=workload.ROUNDS,
        train_config=ConfigRecord(),
        evaluate_fn=between_rounds,
    )
    net.load_state_dict(played.arrays.to_torch_state_dict())


def main() -> None:
    """Play the workload."""
    client, server = ClientApp(), ServerApp()
    client.train()(train)
    server.main()(serve)
    run_simulation(
        server,
        client,
        num_supernodes=workload.SITES,
        backend_config={
            "init_args": {"num_cpus": workload.cores()},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    workload.tell(clock, net, "flwr")


if __name__ == "__main__":
    main()
