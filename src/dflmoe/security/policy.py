"""What a site allows, whatever its federation does: a file that nobody else can override.

It only narrows: where the charter is stricter, the charter counts. A file that cannot be followed
to the letter is refused, and the node with it.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import Field, ValidationError, model_validator

from dflmoe.errors import PolicyError
from dflmoe.toml import toml_of
from dflmoe.wire.manifest import BANDS, Band, Document, Manifest, SiteName, faults_of
from dflmoe.wire.payload import WireDtype

POLICY = "policy.toml"

LARGEST = 64 * 1024
"""Bytes of a policy file; larger ones are refused unread."""


Epsilon = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Policy(Document, strict=False):
    """The file ``policy.toml`` in a site's folder; what it does not name, the charter decides.

    Attributes:
        lenders: Sites whose heads may come in; all members if not given.
        min_rows: Heads that learnt from fewer rows are refused: by the band that they name.
        max_norm: Largest Euclidean norm of a tensor.
        dtypes: How numbers may travel.
        bytes_per_day: Sent and received together over the network; more is put off to tomorrow.
        max_attack_auc: As in the charter, which it may tighten.
        epsilon_per_head: What one head may tell of any patient: it is made with that much noise.
            None is added if not given.
        epsilon_budget: What all heads together may tell; no head is lent beyond it.
        delta: The chance that this bound does not hold.
    """

    later = frozenset({"max_attack_auc", "epsilon_per_head", "epsilon_budget", "delta"})

    lenders: tuple[SiteName, ...] | None = None
    min_rows: Annotated[int, Field(ge=0)] = 0
    max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dtypes: Annotated[tuple[WireDtype, ...], Field(min_length=1)] = get_args(WireDtype)
    bytes_per_day: Annotated[int, Field(ge=0)] | None = None
    max_attack_auc: Annotated[float, Field(gt=0.5, le=1)] | None = None
    epsilon_per_head: Epsilon | None = None
    epsilon_budget: Epsilon | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.epsilon_per_head is None) != (self.epsilon_budget is None):
            raise ValueError("give epsilon_per_head and epsilon_budget, or neither")
        if (self.epsilon_per_head or 0) > (self.epsilon_budget or 0):
            raise ValueError("epsilon_budget does not last for one head of epsilon_per_head")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of what it says, for the log."""
        return hashlib.sha256(self.signed()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy; a site without a file has one that leaves all to the charter.

        Raises:
            PolicyError: The file cannot be read, or not be followed to the letter.
        """
        try:
            if not path.exists():
                return cls()
            with path.open("rb") as file:
                raw = file.read(LARGEST + 1)
            if len(raw) > LARGEST:
                raise PolicyError(f"{path} has more than {LARGEST} bytes; it is no policy")
            return cls.model_validate(toml_of(raw))
        except ValidationError as error:
            raise PolicyError(
                f"{path} cannot be followed, so the node does not start: {faults_of(error)}"
            ) from error
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"{path} cannot be read, so the node does not start: {error}"
            ) from error

    def allows(self, manifest: Manifest) -> None:
        """Check what a head says of itself.

        Raises:
            PolicyError: The site lets no such head in.
        """
        site = manifest.site
        if self.lenders is not None and site not in self.lenders:
            raise PolicyError(f"the policy here lets no head of {site} in")
        if fewest(manifest.rows) < self.min_rows:
            raise PolicyError(
                f"the head of {site} learnt from {manifest.rows} rows; "
                f"the policy here asks for {self.min_rows}"
            )
        if manifest.dtype not in self.dtypes:
            raise PolicyError(
                f"the head of {site} travels as {manifest.dtype}, which the policy here forbids"
            )


def fewest(rows: Band) -> int:
    """Return the fewest rows that a band may stand for."""
    return (0, *BANDS)[get_args(Band).index(rows)]
