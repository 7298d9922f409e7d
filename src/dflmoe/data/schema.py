"""What a federation agrees on before it begins: columns, their units and levels.

A schema is the part of a charter that describes a table. With it every site computes the same
features from the same row, from published constants and never from pooled rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from dflmoe.errors import SchemaError
from dflmoe.toml import toml_of


class Column(BaseModel, frozen=True, extra="forbid"):
    """A number with its centre and scale, or a category with its levels."""

    centre: float | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    levels: tuple[str | int | float, ...] | None = None
    names: tuple[str, ...] | None = None
    missing: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.levels is None) == (self.centre is None or self.scale is None):
            raise ValueError("give either centre and scale, or levels")
        if self.names is not None and len(self.names) != len(self.levels or ()):
            raise ValueError("give as many names as levels")
        return self

    @property
    def features(self) -> int:
        """How many numbers are made of it."""
        of_levels = 1 if len(self.levels or ()) <= 2 else len(self.levels or ())  # noqa: PLR2004
        return (1 if self.levels is None else of_levels) + self.missing


class Schema(BaseModel, frozen=True, extra="forbid"):
    """The columns of a table and what they are for."""

    title: str
    task: str
    site: str
    label: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    columns: dict[str, Column]
    patient: str | None = None
    sex: str | None = None
    age: str | None = None

    def scaled(self, centre: Sequence[float], scale: Sequence[float]) -> Self:
        """Return the same with numbers standardised by these constants, one of each feature."""
        columns, at = {}, 0
        for name, column in self.columns.items():
            if column.levels is None:
                given = {"centre": float(centre[at]), "scale": float(scale[at])}
                column = column.model_copy(update=given)  # noqa: PLW2901 - the same, scaled
            columns[name] = column
            at += column.features
        return self.model_copy(update={"columns": columns})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a schema.

        Raises:
            SchemaError: The file is missing, is not TOML, or breaks a rule above.
        """
        try:
            return cls.model_validate(toml_of(path.read_bytes()))
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise SchemaError(f"schema {path}: {'; '.join(faults)}") from error
        except (OSError, ValueError) as error:
            raise SchemaError(f"schema {path} cannot be read: {error}") from error
