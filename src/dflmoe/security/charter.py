"""The charter: the rules that all sites of a federation agreed on, the same at each by its hash."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dflmoe.core.auto import Exchange
from dflmoe.errors import EnvelopeError
from dflmoe.toml import toml_of
from dflmoe.wire.manifest import Count, Digest, Document, FederationId
from dflmoe.wire.payload import WireDtype

Line = Annotated[str, Field(min_length=1, max_length=200)]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class Charter(Document):
    """What a federation lends and by which rules.

    Attributes:
        format: Of this document.
        federation: Drawn when the federation was made.
        name: For people.
        task: What is predicted, for people.
        classes: Names of the classes, in order.
        kind: Of the rows.
        shape: Of one row.
        columns: Agreed columns, units and levels of a table, as a schema file spells them.
        network: Architecture whose head is lent, by its name in our catalogue: a charter brings no
            code.
        head_from: First layer of that head; the network's own if not given.
        exchange: What is lent (``core.auto``).
        body_seed: Seed that a common body grows from.
        public_body: SHA-256 of the public weights that bodies begin with.
        anchors: SHA-256 of the public rows that all sites hold.
        inner_folds: Folds that every site judges its own decisions on; where every fit is lent,
            one for each fold and one of all rows.
        min_rows: Rows below which a site lends nothing.
        max_head_bytes: Larger payloads are refused unread.
        max_norm: Largest norm of a tensor.
        dtype: How numbers travel.
        max_age: Own rounds after which an unheard head is dropped.
        min_class_patients: A class of fewer patients at a site teaches nothing that it lends.
        max_attack_auc: The most that a site's own attack on a head may tell of who was in its
            training rows, as an AUROC; a head that tells more is not lent. No limit if not given.
    """

    later = frozenset({"min_class_patients", "max_attack_auc"})

    format: Literal["dflmoe-charter-1"] = "dflmoe-charter-1"
    federation: FederationId
    name: Line
    task: Line
    classes: Annotated[tuple[Line, ...], Field(min_length=2, max_length=1000)]
    kind: Literal["table", "image", "series"]
    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)]
    columns: Annotated[str, Field(max_length=64 * 1024)] | None = None
    network: Name
    head_from: Name | None = None
    exchange: Exchange = "shared"
    body_seed: Count = 0
    public_body: Digest | None = None
    anchors: Digest | None = None
    inner_folds: Annotated[int, Field(ge=2, le=20)] = 5
    min_rows: Annotated[int, Field(ge=10)] = 20
    max_head_bytes: Annotated[int, Field(ge=1024, le=64 * 1024**2)] = 8 * 1024**2
    max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e3
    dtype: WireDtype = "fp32"
    max_age: Annotated[int, Field(ge=1)] = 5
    min_class_patients: Annotated[int, Field(ge=1)] = 5
    max_attack_auc: Annotated[float, Field(gt=0.5, le=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.exchange == "anchored") != (self.anchors is not None):
            raise ValueError("the exchange is anchored if and only if the charter names anchors")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the charter as it is signed."""
        return hashlib.sha256(self.signed()).hexdigest()

    @classmethod
    def found(cls, path: Path) -> Self:
        """Read the rules of a new federation from a TOML file, and draw its identity.

        Raises:
            EnvelopeError: The file is missing, is not TOML, or breaks a rule.
        """
        try:
            table = toml_of(path.read_bytes())
        except (OSError, ValueError) as error:
            raise EnvelopeError(f"charter {path} cannot be read: {error}") from error
        table = {**table, "federation": secrets.token_hex(16)}
        return cls.read(json.dumps(table, default=str).encode(), f"charter {path}")
