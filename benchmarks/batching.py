"""How to train several sites of one architecture on one machine: ways against a plain loop.

Run it as ``python benchmarks/batching.py --device cuda``. The round is the one that simulators are
compared on: 8 sites with 800 rows of 28 x 28, a CNN of two 5 x 5 convolutions (16, 32) and a head
512-160-10 (96,938 parameters), batch 32, one local epoch of SGD. Needs PyTorch alone.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

SITES, ROWS, BATCH, RATE = 8, 800, 32, 0.05
STEPS = ROWS // BATCH

Round = Callable[[], None]


def network() -> nn.Sequential:
    """Return the network of one site."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 160), nn.ReLU(), nn.Linear(160, 10),
    )  # fmt: skip


class Workload:
    """The sites' rows and networks on a device."""

    def __init__(self, device: torch.device, sites: int) -> None:
        torch.manual_seed(0)
        self.device, self.sites = device, sites
        self.x = torch.randn(sites, STEPS, BATCH, 1, 28, 28, device=device)
        self.y = torch.randint(10, (sites, STEPS, BATCH), device=device)
        self.nets = [network().to(device) for _ in range(sites)]

    def fresh(self, *, channels_last: bool = False) -> list[nn.Sequential]:
        """Return copies of the networks."""
        nets = [copy.deepcopy(net) for net in self.nets]
        if channels_last:
            for net in nets:
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return nets


def stepped(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Take a step."""
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(net(x), y).backward()
    optimiser.step()


def epoch(net: nn.Module, x: Tensor | list[Tensor], y: Tensor) -> None:
    """Let a site learn for an epoch."""
    optimiser = torch.optim.SGD(net.parameters(), RATE)
    for k in range(STEPS):
        stepped(net, optimiser, x[k], y[k])


def plain(work: Workload) -> Round:
    """Site after site."""
    nets = work.fresh()

    def play() -> None:
        for site, net in enumerate(nets):
            epoch(net, work.x[site], work.y[site])

    return play


def channels_last(work: Workload) -> Round:
    """Site after site, with channels as the innermost axis."""
    nets = work.fresh(channels_last=True)
    x = [[one.contiguous(memory_format=torch.channels_last) for one in site] for site in work.x]

    def play() -> None:
        for site, net in enumerate(nets):
            epoch(net, x[site], work.y[site])

    return play


def threads(work: Workload) -> Round:
    """Two threads, each with some sites."""
    nets, pool = work.fresh(channels_last=work.device.type == "cpu"), ThreadPoolExecutor(2)

    def play() -> None:
        list(pool.map(epoch, nets, work.x, work.y))

    return play


def vmapped(work: Workload) -> Round:
    """All sites at once, by ``torch.func.vmap``."""
    params, _ = stack_module_state(work.fresh())
    params = {name: p.detach() for name, p in params.items()}
    base = copy.deepcopy(work.nets[0]).to("meta")

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(base, params, (x,)), y)

    down = vmap(grad(loss))

    def play() -> None:
        for k in range(STEPS):
            gradients = down(params, work.x[:, k], work.y[:, k])
            torch._foreach_add_(
                list(params.values()), [gradients[name] for name in params], alpha=-RATE
            )

    return play


class Grouped(nn.Module):
    """All sites as one network: grouped convolutions, and a batched product for the head."""

    def __init__(self, nets: list[nn.Sequential]) -> None:
        super().__init__()
        self.sites = len(nets)

        def stacked(layer: int, what: str) -> nn.Parameter:
            return nn.Parameter(torch.stack([getattr(n[layer], what).detach() for n in nets]))

        self.weights = nn.ParameterList([stacked(layer, "weight") for layer in (0, 3, 7, 9)])
        self.biases = nn.ParameterList([stacked(layer, "bias") for layer in (0, 3, 7, 9)])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[site, row, class]`` of inputs ``[site, row, 1, 28, 28]``."""
        x = x.transpose(0, 1).flatten(1, 2)
        for k in (0, 1):
            weight, bias = self.weights[k].flatten(0, 1), self.biases[k].flatten()
            x = F.max_pool2d(F.conv2d(x, weight, bias, groups=self.sites).relu(), 2)
        x = x.unflatten(1, (self.sites, -1)).transpose(0, 1).flatten(2)
        x = torch.baddbmm(self.biases[2][:, None], x, self.weights[2].transpose(1, 2)).relu()
        return torch.baddbmm(self.biases[3][:, None], x, self.weights[3].transpose(1, 2))


def grouped_step(net: Grouped, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Take a step of all sites: losses are means over a site's rows, summed over sites."""
    optimiser.zero_grad(set_to_none=True)
    (F.cross_entropy(net(x).flatten(0, 1), y.flatten()) * net.sites).backward()
    optimiser.step()


def grouped_epoch(net: Grouped, work: Workload) -> None:
    """Let all sites learn for an epoch."""
    optimiser = torch.optim.SGD(net.parameters(), RATE)
    for k in range(STEPS):
        grouped_step(net, optimiser, work.x[:, k], work.y[:, k])


def grouped(work: Workload) -> Round:
    """All sites at once, as one network of groups."""
    return partial(grouped_epoch, Grouped(work.fresh()).to(work.device), work)


def bodies_plain_heads_stacked(work: Workload) -> Round:
    """Bodies site after site, heads all at once."""
    nets = work.fresh(channels_last=work.device.type == "cpu")
    bodies = [net[:7] for net in nets]
    whole = Grouped(nets).to(work.device)
    head = [whole.weights[2], whole.biases[2], whole.weights[3], whole.biases[3]]
    params = [p for body in bodies for p in body.parameters()] + head
    optimiser = torch.optim.SGD(params, RATE)

    def play() -> None:
        for k in range(STEPS):
            optimiser.zero_grad(set_to_none=True)
            x = torch.stack([body(work.x[s, k]) for s, body in enumerate(bodies)])
            x = torch.baddbmm(head[1][:, None], x, head[0].transpose(1, 2)).relu()
            out = torch.baddbmm(head[3][:, None], x, head[2].transpose(1, 2))
            (F.cross_entropy(out.flatten(0, 1), work.y[:, k].flatten()) * work.sites).backward()
            optimiser.step()

    return play


def graphed(step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> Round:
    """Return a step that a CUDA graph replays on whatever is in ``x`` and ``y``."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x, y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(x, y)
    return graph.replay


def plain_graph(work: Workload) -> Round:
    """Site after site, each step a CUDA graph."""
    steps = []
    for net in work.fresh():
        optimiser = torch.optim.SGD(net.parameters(), RATE)
        x, y = work.x[0, 0].clone(), work.y[0, 0].clone()
        steps.append((graphed(partial(stepped, net, optimiser), x, y), x, y))

    def play() -> None:
        for site, (step, x, y) in enumerate(steps):
            for k in range(STEPS):
                x.copy_(work.x[site, k])
                y.copy_(work.y[site, k])
                step()

    return play


def grouped_graph(work: Workload) -> Round:
    """All sites at once, each step a CUDA graph."""
    net = Grouped(work.fresh()).to(work.device)
    optimiser = torch.optim.SGD(net.parameters(), RATE)
    x, y = work.x[:, 0].clone(), work.y[:, 0].clone()
    step = graphed(partial(grouped_step, net, optimiser), x, y)

    def play() -> None:
        for k in range(STEPS):
            x.copy_(work.x[:, k])
            y.copy_(work.y[:, k])
            step()

    return play


WAYS: dict[str, Callable[[Workload], Round]] = {
    "plain loop": plain,
    "channels last": channels_last,
    "two threads": threads,
    "heads stacked": bodies_plain_heads_stacked,
    "vmap": vmapped,
    "grouped": grouped,
}
GRAPHS = {"plain loop, graph": plain_graph, "grouped, graph": grouped_graph}


def gap(work: Workload) -> float:
    """Return the largest difference of a weight after an epoch, site after site or all at once."""
    nets, whole = work.fresh(), Grouped(work.fresh()).to(work.device)
    grouped_epoch(whole, work)
    for site, net in enumerate(nets):
        epoch(net, work.x[site], work.y[site])
    return max(
        float((net[layer].get_parameter("weight") - whole.weights[k][site]).detach().abs().max())
        for site, net in enumerate(nets)
        for k, layer in enumerate((0, 3, 7, 9))
    )


def timed(play: Round, device: torch.device) -> float:
    """Return the seconds of one round."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    play()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure every way, in turns, and print ratios to the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    torch.backends.cudnn.allow_tf32 = False  # all digits, as the product computes
    if device.type == "cpu":
        torch.set_num_threads(1)
    work = Workload(device, chosen.sites)
    ways = {**WAYS, **(GRAPHS if device.type == "cuda" else {})}
    rounds = {name: way(work) for name, way in ways.items()}
    took: dict[str, list[float]] = {name: [] for name in rounds}
    for turn in range(chosen.rounds + 1):
        for name, play in rounds.items():
            seconds = timed(play, device)
            if turn:  # the first warms up
                took[name].append(seconds)
    base = took["plain loop"]
    found = {
        name: {
            "seconds": statistics.median(all_),
            "ratio": statistics.median(a / b for a, b in zip(all_, base, strict=True)),
        }
        for name, all_ in took.items()
    }
    if chosen.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    name = torch.cuda.get_device_name() if device.type == "cuda" else "one core each"
    sys.stdout.write(f"{chosen.sites} sites, {device.type} ({name}), torch {torch.__version__}\n")
    sys.stdout.write(f"largest difference of a weight after an epoch: {gap(work):.1e}\n")
    for way, one in found.items():
        sys.stdout.write(f"{way:<20} {one['seconds']:8.4f} s  {one['ratio']:6.2f} x\n")


if __name__ == "__main__":
    main()
