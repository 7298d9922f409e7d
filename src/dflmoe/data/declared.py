"""What a site says of its data before anybody sees any: kind, classes, shape, units, columns.

A declaration holds what a person decided or what headers say, and no number that was computed from
rows. Sites may send theirs to each other before they found a federation.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from dflmoe.data.looked import Looked
from dflmoe.data.schema import Column
from dflmoe.data.source import Source
from dflmoe.errors import EnvelopeError, SchemaError
from dflmoe.wire.manifest import Count, Document

MOST_BYTES = 2**20
"""A declaration is a page; more is none."""

Words = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
"""One line, that does nothing to a terminal."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Declared(Document):
    """What rows of a site are like.

    Attributes:
        format: Of this document.
        name: The site, or whatever the rows are called.
        kind: What a row is.
        classes: What labels may be, in order.
        shape: Of one row; none where nobody agreed on it.
        channels: Of an image or recording; none of a table.
        what: What rows are, as their headers say: ``grey images``, ``CT``.
        range: Values, in the units of the files, that become -1 and 1; each row's own if none.
        columns: Of a table, each as its schema describes it; not described if none.
    """

    format: Literal["dflmoe-declared-1"] = "dflmoe-declared-1"
    name: Words
    kind: Literal["table", "image", "series"]
    classes: Annotated[tuple[Words, ...], Field(max_length=1000)] = ()
    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] | None = None
    channels: Count | None = None
    what: Words | None = None
    range: tuple[Number, Number] | None = None
    columns: Annotated[dict[Words, Column | None], Field(max_length=10_000)] | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a declaration.

        Raises:
            SchemaError: The file is missing, too large, malformed, or of another kind.
        """
        try:
            with path.open("rb") as stream:
                payload = stream.read(MOST_BYTES + 1)
            if len(payload) > MOST_BYTES:
                raise SchemaError(f"{path} is too large to be a declaration; ask for it again")
            return cls.read(payload, f"declaration {path}")
        except OSError as error:
            raise SchemaError(
                f"declaration {path} cannot be read: {error.strerror or error}; check the path"
            ) from error
        except EnvelopeError as error:
            raise SchemaError(f"{error}; ask for it again, or mend what it names") from error


def declared(looked: Looked, source: Source, name: str) -> Declared:
    """Return what a site may tell of its rows."""
    schema = looked.schema
    columns: dict[str, Column | None] | None = None
    if schema is not None:
        columns = dict(schema.columns)
    elif looked.frame is not None:
        roles = {source.label, source.patient, source.site, "site"}
        columns = {str(c): None for c in looked.frame.columns if c not in roles}
    classes = source.classes or (schema.classes if schema is not None else looked.classes)
    table = looked.kind == "table"
    return Declared(
        name=name,
        kind=looked.kind,
        classes=classes,
        shape=looked.shape,
        channels=None if table or looked.shape is None else looked.shape[0],
        what=looked.what,
        range=looked.extent,
        columns=columns,
    )
