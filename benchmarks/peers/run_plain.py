"""FedAvg as a plain loop over sites, in PyTorch alone: what a simulator's own work comes on top of.

``compare.py`` runs this file; its arguments are the time and the number of threads.
"""

import torch
import workload


def main() -> None:
    """Play the workload."""
    torch.set_num_threads(workload.cores())
    clock, net, local = workload.Clock(), workload.network(), workload.network()
    for number in range(workload.SITES):
        workload.site(number)
    for played in range(workload.ROUNDS):
        clock.mark()
        mean = {name: torch.zeros_like(p) for name, p in net.state_dict().items()}
        for number in range(workload.SITES):
            local.load_state_dict(net.state_dict())
            clock.stepping()
            workload.epoch(local, number, played)
            for name, p in local.state_dict().items():
                mean[name] += p / workload.SITES
        net.load_state_dict(mean)
    clock.mark()
    workload.tell(clock, net, "torch")


if __name__ == "__main__":
    main()
