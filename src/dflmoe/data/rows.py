"""All rows of one data set before they are dealt to sites, and the files they are read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.arrays import read_npz
from dflmoe.errors import DataFileError, OptionError

Kind = Literal["table", "image", "series", "segmentation", "super_resolution"]

FACTORS = (2, 4, 8)
"""How many times coarser the inputs of super-resolution are."""

AXES: Mapping[str, tuple[int, int]] = {
    "table": (2, 1),
    "image": (4, 1),
    "series": (3, 1),
    "segmentation": (4, 3),
    "super_resolution": (4, 4),
}
"""Axes of ``x`` and of ``y`` for each kind."""


@dataclass(frozen=True)
class Rows:
    """Rows of one data set, the groups that are never divided, and the sites they come from.

    Attributes:
        name: The data set.
        kind: What a row is.
        x: Inputs: ``[row, feature]``; ``[row, channel, height, width]`` in -1..1;
            ``[row, channel, time]``; for super-resolution the finest of ``coarse``, in 0..1.
        y: Classes, int64 ``[row]``; masks, int64 ``[row, height, width]``; or for super-resolution
            the target in 0..1, float32 ``[row, channel, height, width]``.
        group: What is never divided: patient, subject, recording, slide or image; 0 to G-1.
        grouped_by: What ``group`` is, for people; it says so where patients are unknown.
        classes: Names of the classes; empty for super-resolution.
        site: Natural site of each row; ``None`` if the set has none.
        site_names: Names of the natural sites.
        coarse: Inputs of super-resolution in 0..1 by scale factor; empty otherwise.
    """

    name: str
    kind: Kind
    x: NDArray[np.float32]
    y: NDArray[Any]  # int64 classes and masks, or a float32 target
    group: NDArray[np.int64]
    grouped_by: str
    classes: tuple[str, ...]
    site: NDArray[np.int64] | None = None
    site_names: tuple[str, ...] = ()
    coarse: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.group)

    @property
    def labels(self) -> NDArray[np.int64]:
        """What to stratify by: the class of each row, or 0 where a row has many or none."""
        return self.y if self.y.ndim == 1 else np.zeros(len(self.y), dtype=np.int64)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return some rows, in the order given; groups keep their numbers."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            group=self.group[rows],
            site=None if self.site is None else self.site[rows],
            coarse={factor: inputs[rows] for factor, inputs in self.coarse.items()},
        )

    def like(self, shape: tuple[int, ...]) -> Self:
        """Return the rows with inputs of a shape; longer series are cut at their end.

        Raises:
            OptionError: They are of another shape, or images to be enlarged.
        """
        cut = self.x[..., : shape[-1]] if self.kind == "series" else self.x
        if cut.shape[1:] != shape or self.kind == "super_resolution":
            raise OptionError(
                f"rows of set {self.name!r} cannot stand for those of another set: they are "
                f"{self.x.shape[1:]} and the others {shape}; name a set of the same shape"
            )
        return replace(self, x=np.ascontiguousarray(cut))

    def checked(self) -> Self:
        """Return the rows if their parts fit each other.

        Raises:
            DataFileError: Lengths or shapes differ, a number is not finite, or a class or site has
                no name.
        """
        parts = {"x": self.x, "y": self.y, "group": self.group}
        parts |= {} if self.site is None else {"site": self.site}
        parts |= {f"coarse[{factor}]": inputs for factor, inputs in self.coarse.items()}
        for part, values in parts.items():
            if len(values) != len(self) or len(self) == 0:
                raise DataFileError(
                    f"data set {self.name!r}: {part} has {len(values)} rows and group has "
                    f"{len(self)}; every row needs both"
                )
            if not np.isfinite(values).all():
                raise DataFileError(f"data set {self.name!r}: {part} holds NaN or infinite numbers")
        if (self.x.ndim, self.y.ndim) != AXES[self.kind]:
            raise DataFileError(
                f"data set {self.name!r}: x {list(self.x.shape)} and y {list(self.y.shape)} do not "
                f"have the axes of {self.kind} rows"
            )
        if self.kind == "segmentation" and self.x.shape[2:] != self.y.shape[1:]:
            raise DataFileError(
                f"data set {self.name!r}: masks {list(self.y.shape[1:])} do not match images "
                f"{list(self.x.shape[2:])}"
            )
        self._named("y", self.y if self.classes else None, self.classes)
        self._named("site", self.site, self.site_names)
        return self

    def _named(self, part: str, codes: NDArray[Any] | None, names: tuple[str, ...]) -> None:
        if codes is not None and not (codes.min() >= 0 and codes.max() < len(names)):
            raise DataFileError(
                f"data set {self.name!r}: {part} holds codes {codes.min()} to {codes.max()}, and "
                f"{len(names)} have a name"
            )


def block_mean(x: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Return images ``[..., height, width]`` reduced by exact box means.

    The caller has checked that the factor divides both sides.
    """
    if factor == 1:
        return x.astype(np.float32)
    *lead, height, width = x.shape
    blocks = x.reshape(*lead, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean((-3, -1), dtype=np.float64), dtype=np.float32)


def block_majority(mask: NDArray[np.int64], factor: int, classes: int) -> NDArray[np.int64]:
    """Return masks ``[row, height, width]`` reduced to the commonest class of each block.

    Ties go to the lower class, which is the background.
    """
    share = [block_mean(mask == label, factor) for label in range(classes)]
    return np.asarray(np.argmax(share, axis=0), dtype=np.int64)


def reduction(path: Path, shape: tuple[int, ...], side: int | None) -> int:
    """Return the factor by which images ``[row, height, width, ...]`` are reduced to ``side``."""
    height, width = shape[1:3]
    side = height if side is None else side
    if height != width or height % side:
        raise OptionError(f"side {side} does not divide the {height} x {width} images of {path}")
    return height // side


def tiles(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Cut ``[row, height, width, ...]`` into ``[row, tile, side, side, ...]``."""
    rows, height, width, *rest = values.shape
    down, along = height // side, width // side
    top, left = (height - down * side) // 2, (width - along * side) // 2
    cut = values[:, top : top + down * side, left : left + along * side]
    parts = cut.reshape(rows, down, side, along, side, *rest).swapaxes(2, 3)
    return parts.reshape(rows, down * along, side, side, *rest)


@dataclass(frozen=True)
class Arrays:
    """The arrays of one file; what is asked for is there and has the axes that are asked for."""

    path: Path
    arrays: Mapping[str, NDArray[Any]]  # numbers or text, as the file has them

    @property
    def rows(self) -> int:
        """Rows of the inputs, which all that is given per row must have."""
        inputs = [self.arrays[name] for name in ("x", "image") if name in self.arrays]
        return len(inputs[0]) if inputs and inputs[0].ndim else 0

    def get(self, name: str, axes: str, kinds: str = "uif") -> NDArray[Any]:
        """Return an array that has these axes and one of these kinds of number or text.

        Raises:
            DataFileError: It is missing, of another shape or kind, or not finite.
        """
        if name not in self.arrays:
            raise DataFileError(f"data file {self.path} has no array {name!r}; fetch the set again")
        values = self.arrays[name]
        if values.ndim != len(axes.split()) or values.dtype.kind not in kinds or not len(values):
            raise DataFileError(
                f"data file {self.path}: {name} must be [{axes}], not "
                f"{values.dtype} {list(values.shape)}"
            )
        if axes.startswith("row") and len(values) != self.rows:
            raise DataFileError(
                f"data file {self.path}: {name} has {len(values)} rows and the inputs {self.rows}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataFileError(f"data file {self.path}: {name} holds NaN or infinite numbers")
        return values

    def images(self, name: str, axes: str = "row height width channel") -> NDArray[np.uint8]:
        """Return images or masks of bytes."""
        values = self.get(name, axes, "u")
        if values.dtype != np.uint8:
            raise DataFileError(
                f"data file {self.path}: {name} must hold bytes, not {values.dtype}"
            )
        return values

    def codes(self, name: str, names: tuple[str, ...]) -> NDArray[np.int64]:
        """Return one code a row, each of which has a name."""
        values = self.get(name, "row", "iu").astype(np.int64)
        if values.min() < 0 or values.max() >= len(names):
            raise DataFileError(
                f"data file {self.path}: {name} holds {values.min()} to {values.max()}, and "
                f"{len(names)} have a name"
            )
        return values

    def names(self, name: str) -> tuple[str, ...]:
        """Return names, one for each code."""
        return tuple(map(str, self.get(name, "name", "U")))

    def groups(self, name: str) -> NDArray[np.int64]:
        """Return groups, numbered 0 to G-1."""
        return coded(self.get(name, "row", "iuU"))


def open_arrays(name: str, root: Path | None) -> Arrays:
    """Read ``root/name/name.npz``.

    Raises:
        DataFileError: The folder or file is missing, or the file is not a readable ``.npz``.
        PickleError: An array holds pickled objects.
    """
    where = f"set DFLMOE_DATA to the folder that holds {name}/{name}.npz"
    if root is None:
        raise DataFileError(f"data set {name!r} is read from a folder and none is given; {where}")
    path = root / name / f"{name}.npz"
    if not path.is_file():
        raise DataFileError(f"data file {path} is not there; {where}")
    return Arrays(path, read_npz(path))


def coded(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return values as numbers 0 to G-1."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return rows that nobody measured, of spread one: white noise in tables, else pink.

    The spectrum of pink noise falls with frequency, as that of pictures and recordings does (Field,
    Relations between the Statistics of Natural Images and Cortical Cells, JOSA A 1987).

    Args:
        shape: ``[row, feature]``, or ``[row, channel, place, ...]``.
        rng: Chance.
    """
    white = rng.standard_normal(shape)
    axes = tuple(range(2, len(shape)))
    if axes:
        grid = np.meshgrid(*(np.fft.fftfreq(shape[axis]) for axis in axes), indexing="ij")
        radius = np.sqrt(np.square(grid).sum(0))
        radius[(0,) * len(axes)] = 1 / max(shape[2:])
        white = np.fft.ifftn(np.fft.fftn(white, axes=axes) / radius, axes=axes).real
        white /= white.std(axes, keepdims=True)
    return white.astype(np.float32)
