"""A model for other people's pipelines: ONNX, or a program of PyTorch's own."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dflmoe.errors import MissingExtraError, OptionError
from dflmoe.files import replace_file
from dflmoe.model.model import Model

OUTPUTS = ("probabilities", "opinions")
OPSET = 18


def export(model: Model, path: Path) -> None:
    """Write a model, mixture inside, as ``.onnx`` or as ``.pt2`` (``torch.export``).

    The input is ``rows``, ``[row, *shape]``; the outputs are ``probabilities``, ``[row, class]``,
    and ``opinions``, ``[row, expert, class]``. What rows, classes and experts are is told in the
    file (metadata ``dflmoe`` of ONNX, ``dflmoe.json`` of a program).

    Raises:
        OptionError: The ending is another.
        MissingExtraError: ONNX is not installed.
        OutputError: The file cannot be written.
    """
    said = json.dumps(
        {
            "site": model.told.site,
            "classes": model.told.classes,
            "experts": model.served.names,
            "round": model.told.round,
            "shape": model.told.shape,
            "columns": None if model.told.columns is None else model.told.columns.model_dump(),
            "reading": model.told.reading,
        }
    )
    rows = torch.zeros(2, *model.told.shape)
    shapes = ({0: torch.export.Dim("row", min=1)},)
    if path.suffix == ".onnx":
        with _quietly():
            raw = _onnx(model.served, rows, shapes, said)
    elif path.suffix == ".pt2":
        with _quietly(), io.BytesIO() as file:
            program = torch.export.export(
                model.served, (rows,), dynamic_shapes=shapes, strict=False
            )
            torch.export.save(program, file, extra_files={"dflmoe.json": said})
            raw = file.getvalue()
    else:
        raise OptionError(
            f"{path.name} ends in neither .onnx nor .pt2; name the file by what it shall be"
        )
    replace_file(path, raw)


def _onnx(served: nn.Module, rows: Tensor, shapes: tuple[dict[int, Any], ...], said: str) -> bytes:
    try:
        import onnx  # noqa: PLC0415 - extra
        import onnxscript  # noqa: F401, PLC0415 - extra, of which torch.onnx is made
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX needs {error.name}; install it with: pip install 'dflmoe[onnx]'"
        ) from error
    program = torch.onnx.export(
        served,
        (rows,),
        input_names=["rows"],
        output_names=list(OUTPUTS),
        dynamic_shapes=shapes,
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise ValueError("PyTorch made no ONNX program, which it does only for scripts")
    made = program.model_proto
    onnx.helper.set_model_props(made, {"dflmoe": said})
    raw: bytes = made.SerializeToString()
    return raw


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what exporters say to their developers from users."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
