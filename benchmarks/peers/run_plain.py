"""FedAvg as a plain loop over sites, in PyTorch alone: what a simulator's own work comes on top of.

``compare.py`` runs this file; its arguments are the time and the number of threads.
"""

import torch
import workload


def main() -> None:
    """Play the workload."""
    torch.set_num_threads(workload.cores())
    clock, net = workload.Clock(), workload.network()
    for number in range(workload.SITES):
        workload.site(number)
    for played in range(workload.ROUNDS):
        clock.mark()
        clock.stepping()
        workload.plain_round(net, played)
    clock.mark()
    workload.tell(clock, net, "torch")


if __name__ == "__main__":
    main()
