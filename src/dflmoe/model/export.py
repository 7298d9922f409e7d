"""A model for other people's pipelines: ONNX, or a program of PyTorch's own."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dflmoe.errors import MissingExtraError, OptionError, OutputError
from dflmoe.model.model import Model

OUTPUTS = ("probabilities", "opinions")
OPSET = 18


class Finite(nn.Module):
    """A model that is given rows as its file says, for a runtime that knows one input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return calibrated probabilities, and what each expert says."""
        probs, opinions = self.model(rows)
        return probs, opinions


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
    shapes = {"rows": {0: torch.export.Dim("row", min=1)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Finite(model.served).eval()
    try:
        with _quietly():
            if path.suffix == ".onnx":
                _onnx(whole, rows, shapes, path, said)
            elif path.suffix == ".pt2":
                program = torch.export.export(whole, (rows,), dynamic_shapes=shapes, strict=False)
                torch.export.save(program, path, extra_files={"dflmoe.json": said})
            else:
                raise OptionError(
                    f"{path.name} ends in neither .onnx nor .pt2; name the file by what it shall be"
                )
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _onnx(
    whole: nn.Module, rows: Tensor, shapes: dict[str, dict[int, Any]], path: Path, said: str
) -> None:
    try:
        import onnx  # noqa: PLC0415 - extra
        import onnxscript  # noqa: F401, PLC0415 - extra, of which torch.onnx is made
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX needs {error.name}; install it with: pip install 'dflmoe[onnx]'"
        ) from error
    torch.onnx.export(
        whole,
        (rows,),
        str(path),
        input_names=["rows"],
        output_names=list(OUTPUTS),
        dynamic_shapes=shapes,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {"dflmoe": said})
    onnx.save(made, path)


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
