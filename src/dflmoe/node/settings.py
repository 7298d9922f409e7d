"""What an administrator tells a node: where its rows are, where it listens, how often it plays."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError

from dflmoe.data.source import Source
from dflmoe.errors import SettingsError
from dflmoe.security.card import Endpoint
from dflmoe.toml import toml_of
from dflmoe.wire.manifest import faults_of


class Settings(BaseModel, frozen=True, extra="forbid"):
    """The file ``site.toml`` in a site's folder.

    Attributes:
        bind: ``host:port`` to listen at; none for a site that only dials.
        folder: A folder through which heads are exchanged too: a shared drive, a stick.
        every: Seconds from the beginning of one round to that of the next.
        seed: Of all chance at this site.
        data: Where the rows are; a relay has none.
    """

    bind: Endpoint | None = None
    folder: Path | None = None
    every: Annotated[float, Field(ge=0)] = 3600.0
    seed: Annotated[int, Field(ge=0)] = 0
    data: Source | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the settings of a node; paths in it are relative to its folder.

        Raises:
            SettingsError: The file is missing, is not TOML, or breaks a rule.
        """
        if not path.exists():
            raise SettingsError(
                f"{path} is not there; write it, with at least a section [data] and its path"
            )
        try:
            read = cls.model_validate(toml_of(path.read_bytes()))
        except ValidationError as error:
            raise SettingsError(f"{path} cannot be followed: {faults_of(error)}") from error
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from error
        return read._from(path.parent)

    def _from(self, folder: Path) -> Self:
        changed: dict[str, object] = {}
        if self.folder is not None:
            changed["folder"] = folder / self.folder.expanduser()
        if self.data is not None:
            changed["data"] = self.data.relative_to(folder)
        return self.model_copy(update=changed)
