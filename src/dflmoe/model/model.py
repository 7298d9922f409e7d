"""A site's model as one file, from which nothing is ever unpickled."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from dflmoe.core.served import Served
from dflmoe.errors import DataFileError, ModelError, NetworkError, OptionError
from dflmoe.files import replace_file
from dflmoe.model.blocks import served_of
from dflmoe.model.told import Told
from dflmoe.types import SiteId
from dflmoe.wire.manifest import faults_of

Floats = NDArray[np.float64]

TOLD = "dflmoe"
"""Under what name the file says what it is."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows.

    Attributes:
        classes: Names of the classes.
        probs: Calibrated, ``[row, class]``.
        opinions: What each expert says by itself, the own head under the site's name.
    """

    classes: tuple[str, ...]
    probs: Floats
    opinions: dict[SiteId, Floats]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.probs)

    @property
    def likely(self) -> NDArray[np.int64]:
        """The likeliest class of each row."""
        found: NDArray[np.int64] = self.probs.argmax(1)
        return found

    @property
    def agreement(self) -> Floats:
        """Lowest and highest probability that an expert gives a row's likeliest class."""
        rows = np.arange(len(self.probs))
        said = np.stack([one[rows, self.likely] for one in self.opinions.values()])
        return np.stack([said.min(0), said.max(0)], axis=1)

    def answered(self, confidence: float) -> NDArray[np.bool_]:
        """Return whether the likeliest class of a row is likely enough to be told.

        Args:
            confidence: The least probability, 0 to 1.
        """
        found: NDArray[np.bool_] = self.probs.max(1) >= confidence
        return found


@dataclass(frozen=True)
class Model:
    """A model and what is told of it."""

    told: Told
    served: Served

    def predict(self, rows: NDArray[np.float32] | torch.Tensor | Sequence[object]) -> Predictions:
        """Return what the model says of rows as it was trained on.

        Args:
            rows: ``[row, *shape]``, scaled as the model's ``told`` says; NaN where a number of a
                table is missing.

        Raises:
            OptionError: They are of another shape.
        """
        x = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
        if tuple(x.shape[1:]) != self.told.shape:
            raise OptionError(
                f"rows are of shape {tuple(x.shape[1:])} and the model takes {self.told.shape}; "
                f"give it [row, {', '.join(map(str, self.told.shape))}]"
            )
        if not len(x):
            raise OptionError("there are no rows to predict; give one or more")
        probs, opinions = self.served.predict(x)
        return Predictions(
            self.told.classes,
            probs.double().numpy(),
            {name: opinions[:, k].double().numpy() for k, name in enumerate(self.served.names)},
        )

    def to_bytes(self) -> bytes:
        """Return the model as a safetensors file."""
        tensors = {name: p.contiguous().clone() for name, p in self.served.state_dict().items()}
        return save(tensors, metadata={TOLD: self.told.model_dump_json()})

    def save(self, path: Path) -> None:
        """Write the model to a file.

        Raises:
            OutputError: The folder cannot be written.
        """
        replace_file(path, self.to_bytes())


def load_model(path: str | Path) -> Model:
    """Return the model in a file; nothing in it is ever executed.

    Raises:
        ModelError: It is no model of this package, or of another version.
        DataFileError: It cannot be read.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            raw = (file.metadata() or {}).get(TOLD)
        tensors = load(path.read_bytes())
    except OSError as error:
        raise DataFileError(f"model {path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is no model file of dflmoe: {error}; name another") from error
    if raw is None:
        raise ModelError(
            f"{path} holds weights, and does not say of what model; name a model.safetensors that "
            f"a pilot or a node has written"
        )
    try:
        told = Told.model_validate(json.loads(raw))
        return Model(told, served_of(told, tensors))
    except ValidationError as error:
        raise ModelError(f"model {path} cannot be understood: {faults_of(error)}") from error
    except (ValueError, KeyError, RuntimeError, NetworkError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"model {path} cannot be made anew: {reason}") from error
