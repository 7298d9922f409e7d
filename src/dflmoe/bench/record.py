"""What is kept of one run: one small JSON file, replaced whole or not at all."""

import platform
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from dflmoe.bench.experiment import RunSetting
from dflmoe.errors import ExperimentError
from dflmoe.files import replace_file
from dflmoe.privacy.membership import Leak


class SiteScore(BaseModel, frozen=True, extra="forbid"):
    """What a method reached at one site.

    Attributes:
        name: The site.
        network: Its network.
        train_rows: Rows it learnt from.
        test_rows: Rows it was tested on.
        groups: For each tested patient (or what stands for one) the sum of the score over its rows
            and their number; the score of the site is the mean over rows.
        scores: Further scores.
        sent_bytes: Payloads and envelopes that it sent in all rounds, once for each receiver.
        heads_used: Whether borrowed heads serve (``None`` for methods without a guard).
        losses: For each tested patient the sum of the task's loss over its rows.
        leaks: What each attack on all that the site lent tells of who was among its training rows.
        settled: Whether a network trained alone stopped by itself before its steps ran out.
        unguarded: The score of the mixture, whether the guard let it serve or not.
    """

    name: str
    network: str
    train_rows: int
    test_rows: int
    groups: dict[int, tuple[float, int]]
    scores: dict[str, float | None]
    sent_bytes: int
    heads_used: bool | None = None
    losses: dict[int, float] = {}
    unguarded: float | None = None
    leaks: dict[str, Leak] = {}
    settled: bool | None = None

    @property
    def value(self) -> float:
        """The score, averaged over rows."""
        sums = np.array(list(self.groups.values()))
        return float(sums[:, 0].sum() / sums[:, 1].sum())


class RunRecord(BaseModel, frozen=True, extra="forbid"):
    """One run: its settings, and what came of it or why nothing did."""

    format: Literal[1] = 1
    digest: str
    setting: RunSetting
    status: Literal["done", "failed"]
    reason: str = ""
    metric: str = ""
    grouped_by: str = ""
    public_rows: int = 0
    rounds: int = 0
    server_bytes: int = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    software: dict[str, str] = {}
    sites: tuple[SiteScore, ...] = ()

    @property
    def value(self) -> float:
        """The score, averaged over sites."""
        return float(np.mean([site.value for site in self.sites]))

    @property
    def moved_bytes(self) -> int:
        """Bytes that all sites, and the server if there is one, sent in all rounds."""
        return self.server_bytes + sum(site.sent_bytes for site in self.sites)


def software() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def path_of(folder: Path, setting: RunSetting) -> Path:
    """Return where the record of a run lies."""
    parts = [setting.task_name, setting.condition.name, setting.method, f"s{setting.seed}"]
    name = "-".join(_plain(part) for part in parts if part)
    return folder / setting.experiment / f"{name}-{setting.digest}.json"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def save(record: RunRecord, folder: Path) -> None:
    """Store a record so that there is never half of one.

    Raises:
        OutputError: The folder cannot be written.
    """
    replace_file(path_of(folder, record.setting), record.model_dump_json() + "\n")


def stored(folder: Path, setting: RunSetting) -> RunRecord | None:
    """Return the record of exactly these settings, or ``None`` if there is none.

    Raises:
        ExperimentError: The file is not a record.
    """
    path = path_of(folder, setting)
    if not path.is_file():
        return None
    try:
        record = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ExperimentError(
            f"record {path} cannot be read; delete it, and the run is played again"
        ) from error
    if record.digest != setting.digest or record.setting != setting:
        raise ExperimentError(
            f"record {path} holds other settings than its name says; delete it, and the run is "
            f"played again"
        )
    return record


def played_elsewhere(folder: Path, setting: RunSetting) -> RunRecord | None:
    """Return what another experiment or condition has of the same run, as a record of this one.

    Only of the same versions of what results depend on. What failed there is played again, and a
    file that is no record is passed over.
    """
    ends = f"{_plain(setting.method)}-s{setting.seed}-*.json"
    for path in sorted(folder.glob(f"*/{_plain(setting.task_name)}-*{ends}")):
        try:
            record = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            continue
        same = record.setting.substance == setting.substance and record.software == software()
        if same and record.status == "done":
            return record.model_copy(update={"digest": setting.digest, "setting": setting})
    return None
