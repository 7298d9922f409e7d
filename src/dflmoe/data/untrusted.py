"""Read one PyTorch file in a process that has no keys, no home, no network and little memory.

A state dict comes as a pickle, which may hold code. PyTorch refuses all but tensors
(``weights_only``); in case it is outwitted, there is nothing to be had here. The process is given
the file as its standard input and leaves ``said.json`` and ``weights.safetensors`` in its folder.
``data.checkpoints`` starts it, by its path, and believes nothing of what it leaves; no other module
of this package is imported.
"""

import ctypes
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SAID, WEIGHTS = "said.json", "weights.safetensors"

MEMORY_MB = 256
"""What reading takes beside the tensors."""

GROWTH = 4
"""Times the size of its file that tensors may have, where several share their numbers."""

COPIES = 3
"""Of these, that memory must hold while they are read and written."""

SECONDS, BYTES_A_SECOND = 60, 2**22
"""Of computing that any file may take, and how much more a large one may."""

TOLD = 1000
"""Entries that were left out and are told, at most."""

KEYS = ("state_dict", "model_state_dict", "model")
"""Under which a checkpoint keeps the state dict among other things."""

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
"""Of Linux: a user of one's own, who may have a network of their own, connected to nothing."""

Said = tuple[str, str, list[str]]
"""An outcome, what it is about, and entries that were left out."""


def leave_the_network() -> None:
    """Leave the network for good, where the system lets an ordinary user do so."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None) if os.name == "posix" else None
    if unshare is not None:
        unshare(NEW_USER | NEW_NETWORK)


def take_no_more(size: int) -> None:
    """Let this process take no more memory, time and disk than a file of a size needs."""
    if os.name != "posix":
        return
    import resource  # noqa: PLC0415 - of POSIX only

    limits = {
        resource.RLIMIT_CPU: SECONDS + size // BYTES_A_SECOND,
        resource.RLIMIT_FSIZE: GROWTH * size + 2**20,
        resource.RLIMIT_CORE: 0,
    }
    used = Path("/proc/self/statm")
    if used.exists():
        pages = int(used.read_text(encoding="ascii").split()[0])
        taken = pages * resource.getpagesize()
        limits[resource.RLIMIT_AS] = taken + COPIES * GROWTH * size + MEMORY_MB * 2**20
        limits[resource.RLIMIT_NPROC] = 0
    for what, limit in limits.items():
        resource.setrlimit(what, (limit, limit))


def tensors_of(stream: IO[bytes], size: int) -> tuple[Said, dict[str, Any]]:
    """Return the tensors of a file, or why there are none."""
    import torch  # noqa: PLC0415 - once there is no network

    try:
        if _is_script(stream):
            return ("script", "", []), {}
        loaded = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251 - here
    except Exception as error:
        return (*_why(error), []), {}
    state, left_out = _state(loaded, torch.Tensor)
    if not state:
        return ("nothing", ", ".join(left_out) or type(loaded).__name__, []), {}
    allowed = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    for name, p in state.items():
        if p.layout != torch.strided or p.device.type != "cpu" or p.dtype not in allowed:
            return ("tensor", f"{name} ({p.dtype})", []), {}
    if sum(p.numel() * p.element_size() for p in state.values()) > GROWTH * size:
        return ("large", "", []), {}
    return ("read", "", left_out), {n: p.detach().clone().contiguous() for n, p in state.items()}


def answer(said: Said) -> None:
    """Leave word of what has come of it, so far."""
    outcome, named, left_out = said
    told = {"outcome": outcome, "named": named[:TOLD], "left_out": left_out[:TOLD]}
    Path(SAID).write_text(json.dumps(told), encoding="utf-8")


def _is_script(stream: IO[bytes]) -> bool:
    """Return whether a file is a TorchScript archive, as PyTorch tells one."""
    found = False
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            found = any(name.endswith("/constants.pkl") for name in archive.namelist())
    stream.seek(0)
    return found


def _state(loaded: object, tensor: type[Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the weights among what was read, and names of what is none.

    A checkpoint may have other things beside its state dict, and that whole numbers, such as how
    many batches a norm has seen.
    """
    if not isinstance(loaded, Mapping):
        return {}, []
    left_out = []
    for key in KEYS:
        if isinstance(inner := loaded.get(key), Mapping):
            left_out = [str(name) for name in loaded if name != key]
            loaded = inner
            break
    kept = {}
    for name, value in loaded.items():
        if isinstance(value, tensor) and (value.is_floating_point() or value.is_complex()):
            kept[str(name)] = value
        else:
            left_out.append(str(name))
    return kept, left_out


def _why(error: Exception) -> tuple[str, str]:
    """Return the outcome that an error of PyTorch's is, and what it is about."""
    text = str(error)
    if type(error).__name__ == "UnpicklingError":
        named = re.search(r"GLOBAL ([\w.]+)", text)
        if named is not None:
            return "objects", named[1]
        return ("objects", "") if "nsupported" in text else ("damaged", "")
    if isinstance(error, MemoryError) or "allocat" in text:
        return "large", ""
    return "damaged", ""


def main() -> None:
    """Read standard input, and leave what it holds in this folder."""
    leave_the_network()
    sys.path[:] = sys.argv[1].split(os.pathsep)
    import torch  # noqa: PLC0415 - once there is no network

    torch.set_num_threads(1)
    answer(("begun", "", []))
    size = os.fstat(0).st_size
    take_no_more(size)
    said, tensors = tensors_of(sys.stdin.buffer, size)
    if tensors:
        from safetensors.torch import save_file  # noqa: PLC0415 - once there is no network

        save_file(tensors, WEIGHTS)
    answer(said)


if __name__ == "__main__":
    main()
