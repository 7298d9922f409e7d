"""Where sites compute: the one place that knows of devices.

What a function of ``core`` makes is made on the default device of its thread, and all chance is
drawn on the CPU, so that a seed draws the same wherever a site computes.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dflmoe.core.stacking import compute_bodies_in
from dflmoe.errors import OptionError

CPU = torch.device("cpu")
AUTO = "auto"

T = TypeVar("T")


def device_named(name: str) -> torch.device:
    """Return a device that is there, and computes with all digits of fp32.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; or ``auto`` for the first GPU, if there is
            one.

    Raises:
        OptionError: There is none of that name.
    """
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.backends.cudnn.allow_tf32 = False
        torch.linalg.inv(torch.eye(1, device=device))  # loaded once, which two threads may not
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"device {name!r} is not there for this build of PyTorch; choose auto or cpu"
        ) from error
    return device


PrecisionName = Literal["fp32", "bf16"]


def compute_on(device: torch.device, precision: PrecisionName) -> None:
    """Let this thread make its tensors on a device, and compute bodies in a precision.

    On a CPU they are made there anyway, and asking for it would slow down every call of PyTorch.
    """
    compute_bodies_in(torch.bfloat16 if precision == "bf16" else None)
    if device != CPU:
        torch.set_default_device(device)


def moved(thing: T, device: torch.device) -> T:
    """Return the same with all of its tensors and modules on a device.

    What is there already is the very same. A module is moved itself, as what shares it must go on
    sharing it.

    Args:
        thing: A tensor, a module, or a mapping, list or data class of such.
        device: Where to.
    """
    return _changed(thing, lambda leaf: leaf.to(device))


def with_own_modules(thing: T) -> T:
    """Return the same with copies of its modules; what shared one shares its copy.

    Args:
        thing: A module, or a mapping, list or data class of such.
    """
    copies: dict[int, object] = {}
    return _changed(
        thing, lambda leaf: leaf if isinstance(leaf, Tensor) else copy.deepcopy(leaf, copies)
    )


def _changed(thing: T, change: Callable[[Any], object]) -> T:
    """Return the same with its tensors and modules changed, and all the rest as it is."""
    found: Any = thing
    if isinstance(thing, Tensor | nn.Module):
        found = change(thing)
    elif isinstance(thing, list):
        ones = [_changed(one, change) for one in thing]
        found = ones if any(a is not b for a, b in zip(ones, thing, strict=True)) else thing
    elif isinstance(thing, Mapping):
        there = {key: _changed(value, change) for key, value in thing.items()}
        found = there if _differ(there, thing) else thing
    elif is_dataclass(thing) and not isinstance(thing, type):
        held = {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
        there = {name: _changed(value, change) for name, value in held.items()}
        found = replace(thing, **there) if _differ(there, held) else thing
    return found  # type: ignore[no-any-return]


def _differ(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return any(value is not other[key] for key, value in one.items())
