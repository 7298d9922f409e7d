"""Sleep-EDF: whole nights of sleep, scored every 30 seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dflmoe.data.formats import Format, Part, format_of
from dflmoe.data.formats.stages import STAGES
from dflmoe.data.formats.subjects import SLEEP_EDF, sleep_edf_subject
from dflmoe.data.layouts.files import folder_of
from dflmoe.data.rows import Rows, coded
from dflmoe.data.source import Edf, Source
from dflmoe.errors import DataFileError

READ = Edf(channels=("EEG Fpz-Cz",), rate=100.0, epoch=30.0, wake_minutes=30.0)
"""One channel, samples a second, seconds of an epoch, and minutes of wake about sleep."""

MICROVOLTS, CLIP = 100.0, 5.0
"""What becomes 1, agreed before anybody saw a row, and where signals are cut, in that unit."""

STUDIES = {"SC": "sleep-cassette", "ST": "sleep-telemetry"}
"""How the subjects of a study begin, and its folder."""

HYPNOGRAM, NIGHT = "-Hypnogram.edf", len("SC4001E")
"""How the name of a hypnogram ends, and how much of it is that of its night."""


def sleep_edf(root: Path | None, _: int | None) -> Rows:
    """Return Sleep-EDF: the stage of each 30 s of one channel of EEG, by subject.

    Stages 3 and 4 are one (N3). Movement and what nobody could score are left out, and so is wake
    more than 30 minutes before the first and after the last epoch of sleep. The nights that are
    there are taken, and the studies that they are of are natural sites.

    Raises:
        DataFileError: There is no night, or one is not whole or has no hypnogram.
        MissingExtraError: ``edfio`` is not installed.

    References:
        Kemp et al., Analysis of a Sleep-Dependent Neuronal Feedback Loop: the Slow-Wave
        Microcontinuity of the EEG, 2000; Supratak et al., DeepSleepNet, 2017 (how nights are cut).
    """
    folder = folder_of(root, "sleep_edf")
    reader = format_of(Source(path=folder, form="edf", edf=READ))
    epochs = [(night, part) for night in _nights(folder) for part in _scored(reader, night)]
    length = round(READ.rate * READ.epoch)
    x = np.empty((len(epochs), 1, length), dtype=np.float32)
    for row, (night, part) in enumerate(epochs):
        x[row] = reader.read(night, part.at)
    x /= np.float32(MICROVOLTS)
    np.clip(x, -CLIP, CLIP, out=x)
    classes = tuple(dict.fromkeys(STAGES.values()))
    y = np.array([classes.index(part.label) for _, part in epochs], dtype=np.int64)
    subject = np.array([sleep_edf_subject(night) for night, _ in epochs])
    study = [str(name)[:2] for name in subject]
    names = [short for short in STUDIES if short in study]
    site = np.array([names.index(short) for short in study], dtype=np.int64)
    sites = tuple(STUDIES[short] for short in names)
    return Rows("sleep_edf", "series", x, y, coded(subject), "subject", classes, site, sites)


def _nights(folder: Path) -> list[Path]:
    """Return the recordings of all nights.

    Raises:
        DataFileError: There is none, or a hypnogram has lost its own.
    """
    files = sorted(folder.rglob("*.edf"))
    nights = [file for file in files if SLEEP_EDF.fullmatch(file.name)]
    if not nights:
        raise DataFileError(
            f"{folder} holds no night that is named as Sleep-EDF names them (SC4001E0-PSG.edf); "
            f"unpack the archive as it is"
        )
    there = {file.name[:NIGHT] for file in nights}
    for file in files:
        if file.name.endswith(HYPNOGRAM) and file.name[:NIGHT] not in there:
            raise DataFileError(f"{file} has no recording of its night; unpack the archive whole")
    return nights


def _scored(reader: Format, night: Path) -> Sequence[Part]:
    """Return the epochs of a night.

    Raises:
        DataFileError: It is damaged, or nobody says what they are.
    """
    parts = reader.parts(night)
    if not parts or not parts[0].label:
        raise DataFileError(
            f"{night} has no hypnogram beside it with sleep in it; unpack the archive whole"
        )
    return parts
