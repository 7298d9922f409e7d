"""Transforms of MONAI, by the names that settings give them."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.formats.decoding import quiet
from dflmoe.data.source import Source, Transform
from dflmoe.errors import MissingExtraError, SettingsError


class Transforms:
    """All transforms of a source, one after the other."""

    def __init__(self, source: Source) -> None:
        """Make them.

        Raises:
            SettingsError: One is unknown, or draws by chance.
            MissingExtraError: MONAI is not installed.
        """
        self._each = [(one.name, made(one)) for one in source.transforms]
        self._sized = bool(source.size)

    def __call__(self, values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Return what becomes of a row, ``[channel, *place]``.

        Args:
            values: The row.
            name: What it is called, for people.

        Raises:
            SettingsError: One cannot be used on it.
        """
        before = values.shape
        for which, transform in self._each:
            try:
                with quiet:
                    values = np.asarray(transform(values), dtype=np.float32)
            except Exception as error:  # transforms share no errors
                raise SettingsError(
                    f"transform {which} cannot be used on {name}: {_first_line(error)}; mend "
                    f"transforms in [data]"
                ) from error
            if values.ndim != len(before) or not values.size:
                raise SettingsError(
                    f"transform {which} makes {_by(values.shape)} of {name}, which is "
                    f"{_by(before)}; leave it out"
                )
        if values.shape[1:] != before[1:] and not self._sized:
            raise SettingsError(
                f"transforms make {_by(values.shape)} of {name}, which is {_by(before)}; say the "
                f"size of rows with size in [data]"
            )
        return values


def made(transform: Transform) -> Callable[[NDArray[np.float32]], Any]:
    """Return a transform of MONAI.

    Raises:
        SettingsError: There is none of this name, its arguments do not fit, it draws by chance, or
            it reads or writes files.
        MissingExtraError: MONAI is not installed.
    """
    try:
        transforms = import_module("monai.transforms")
    except ImportError as error:
        raise MissingExtraError(
            f"transforms need {error.name}; install it with: pip install 'dflmoe[transforms]'"
        ) from error
    kind: Any = getattr(transforms, transform.name, None)
    array = isinstance(kind, type) and issubclass(kind, transforms.Transform)
    if (
        not array
        or issubclass(kind, transforms.MapTransform | transforms.Randomizable)
        or kind.__module__.startswith("monai.transforms.io")
    ):
        raise SettingsError(
            f"transform {transform.name!r} is no array transform of MONAI without chance; "
            f"choose another or leave it out"
        )
    try:
        with quiet:
            call: Callable[[NDArray[np.float32]], Any] = kind(**(transform.model_extra or {}))
    except Exception as error:  # as above
        raise SettingsError(
            f"transform {transform.name} does not take that: {_first_line(error)}; mend "
            f"transforms in [data]"
        ) from error
    return call


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _by(places: Sequence[int]) -> str:
    return " x ".join(map(str, places)) or "one number"
