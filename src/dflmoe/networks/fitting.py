"""Whether weights by name are those of a body: what is missing, left over, or of another shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from dflmoe.networks.affine import MEAN, VARIANCE

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fitting:
    """How weights fit a body.

    Attributes:
        missing: Weights that the body needs.
        reshaped: Weights of another shape, with theirs and the body's.
        foreign: Weights of layers that the body has, and which these layers have not.
        beside: Weights of other layers, such as a head's; they do no harm.
    """

    missing: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    foreign: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def faults(self) -> str:
        """What does not fit, as the middle of a sentence; empty if all does."""
        found = [f"they have no {some(self.missing)}"] if self.missing else []
        for name, (given, wanted) in [*self.reshaped.items()][:3]:
            found.append(f"{name!r} has shape {given} and the body's {wanted}")
        if len(self.reshaped) > 3:  # noqa: PLR2004 - as above
            found.append(f"{len(self.reshaped) - 3} more have another shape")
        statistics = [n for n in self.foreign if n.endswith((MEAN, VARIANCE))]
        others = [n for n in self.foreign if n not in statistics]
        if others:
            found.append(f"they have {some(others)}, which the body's layers have not")
        if statistics:
            found.append(
                f"they have statistics of BatchNorm ({some(statistics)}), for which the network "
                f"needs dflmoe.networks.without_statistics"
            )
        return "; ".join(found)


def fitting(body: nn.Module, shapes: Shapes) -> Fitting:
    """Return how weights of these names and shapes fit a body."""
    wanted = {name: tuple(p.shape) for name, p in body.named_parameters()}
    layers = {name for name, part in body.named_modules() if [*part.parameters(recurse=False)]}
    over = [name for name in shapes if name not in wanted]
    foreign = [name for name in over if name.rpartition(".")[0] in layers]
    return Fitting(
        missing=tuple(name for name in wanted if name not in shapes),
        reshaped={n: (shapes[n], w) for n, w in wanted.items() if n in shapes and shapes[n] != w},
        foreign=tuple(foreign),
        beside=tuple(name for name in over if name not in foreign),
    )


def prefix_of(names: Sequence[str], given: Sequence[str]) -> str | None:
    """Return what stands before all of these names among those that are given, if anything does."""
    starts = [
        {one.removesuffix(name) for one in given if one.endswith(f".{name}")} for name in names
    ]
    found = set.intersection(*starts) if starts else set()
    return found.pop() if len(found) == 1 else None


def some(names: Sequence[str], most: int = 5) -> str:
    """Return some names as people say them: ``'a', 'b' and 3 more``."""
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
