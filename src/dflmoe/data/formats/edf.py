"""EDF and EDF+ recordings, cut into epochs.

Voltages are in microvolts, and -100 to 100 of them become -1 to 1. Other signals, which have other
units, are brought to the same from the least and greatest value that their header says. With
``range`` all are as the file says.

Stages of sleep are told by the annotations of the file, or in Sleep-EDF by those of its hypnogram:
``SC4001E0-PSG.edf`` has ``SC4001EC-Hypnogram.edf`` in the same folder. Where there is a table of
labels neither is looked at: it has one label for all epochs of a file.

Patients are told by the code of the EDF+ header or all that an EDF header says of them, or by the
names of Sleep-EDF (``SC4ssN`` and ``ST7ssN`` are night N of subject ss) and of BIDS (``sub-...``).
"""

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import edfio
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from dflmoe.data.formats import FORMS, Part, suffix_of
from dflmoe.data.formats.decoding import decoding
from dflmoe.data.formats.records import ENCODING, Recording, opened, whole
from dflmoe.data.formats.stages import STAGES, WAKE, near_sleep, scored
from dflmoe.data.formats.subjects import SLEEP_EDF, bids_subject, sleep_edf_subject
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError, SettingsError

KIND = "an EDF recording"

HYPNOGRAM = "-hypnogram.edf"
"""How the name of a file ends that holds what another's epochs show."""

MICROVOLTS = {"nv": 1e-3, "uv": 1.0, "µv": 1.0, "μv": 1.0, "mv": 1e3, "v": 1e6}
"""By the name of the unit in small letters; µ is in Unicode twice."""

EXTENT = 100.0
"""Microvolts that become 1."""

FINEST, MOST = 1000, 10_000
"""Largest denominator and numerator of a ratio of two rates of sampling."""


class EdfRecordings:
    """See ``Format``."""

    extent: tuple[float, float] | None = (-EXTENT, EXTENT)

    def __init__(self, source: Source) -> None:
        """Take the settings.

        Raises:
            SettingsError: They ask for colours, or for wake in stages that have none.
        """
        self._source, self._edf = source, source.edf
        self._stages = STAGES if source.edf.stages is None else source.edf.stages
        self._last: Recording | None = None
        if source.channels is not None:
            raise SettingsError(
                "channels in [data] is for colours; choose signals with channels in [data.edf]"
            )
        if source.edf.wake_minutes is not None and WAKE not in self._stages:
            raise SettingsError(
                f"wake_minutes in [data.edf] needs to know what wake is; name {WAKE!r} in stages"
            )

    def belongs(self, file: Path) -> bool:
        """See ``Format``."""
        return suffix_of(file) in FORMS["edf"][2]

    def parts(self, file: Path) -> Sequence[Part]:
        """See ``Format``."""
        if file.name.lower().endswith(HYPNOGRAM):
            return []
        with decoding(file, KIND):
            edf = whole(file)
            if not edf.signals:
                return []
            signals = self._signals(file, edf)
            count = int(edf.duration / self._edf.epoch + 1e-9)
            if count < 1:
                raise DataFileError(
                    f"{file} lasts {edf.duration:g} s, and an epoch {self._edf.epoch:g}; mend "
                    f"epoch in [data.edf], or move the file away"
                )
            labels = self._labels(file, edf, count)
        shape = (len(signals), round(self._edf.epoch * self._edf.rate))
        what = f"signals {', '.join(_text(one.label) for one in signals)}"
        patient = self._patient(file, edf)
        every = range(count) if not labels else [k for k in range(count) if labels[k]]
        return [Part(k, shape, what, patient, labels[k] if labels else "") for k in every]

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """Return one epoch, in microvolts or what stands for them."""
        with decoding(file, KIND):
            last, start = self._last, at * self._edf.epoch
            self._last = recording = (
                last if last is not None and last.file == file else opened(file)
            )
            edf, first = recording.around(start, self._edf.epoch)
            return np.stack([self._epoch(one, start, first) for one in self._signals(file, edf)])

    def _epoch(self, signal: edfio.EdfSignal, start_s: float, first: int) -> NDArray[np.float32]:
        """Return an epoch of a signal of which there are the records from one on."""
        rate = signal.sampling_frequency
        begin = round(start_s * rate) - first * signal.samples_per_data_record
        values = signal.data[begin : begin + round(self._edf.epoch * rate)]
        unit = MICROVOLTS.get(_text(signal.physical_dimension).lower())
        if unit is not None:
            values = values * unit
        elif self._source.range is None:
            low, high = sorted(signal.physical_range)
            values = (2 * (values - low) / (high - low) - 1) * EXTENT
        ratio = self._ratio(signal)
        if ratio != 1:
            values = resample_poly(values, ratio.numerator, ratio.denominator, padtype="edge")
        length = round(self._edf.epoch * self._edf.rate)
        values = np.pad(values, (0, max(0, length - len(values))), mode="edge")
        return values[:length].astype(np.float32)

    def _ratio(self, signal: edfio.EdfSignal) -> Fraction:
        return Fraction(self._edf.rate / signal.sampling_frequency).limit_denominator(FINEST)

    def _signals(self, file: Path, edf: edfio.Edf) -> list[edfio.EdfSignal]:
        """Return the signals that are wanted.

        Raises:
            DataFileError: One is missing, there are two of its name, or it cannot be used.
        """
        there = [_text(one.label) for one in edf.signals]
        for name in self._edf.channels:
            if there.count(name) != 1:
                raise DataFileError(
                    f"{file} has {there.count(name) or 'no'} signals {name!r}, and one is needed; "
                    f"it has {', '.join(there)}: mend channels in [data.edf], or move the file away"
                )
        wanted = [there.index(name) for name in self._edf.channels] or range(len(there))
        signals = [edf.signals[k] for k in wanted]
        for one in signals:
            flat = len({*one.physical_range}) < 2 or len({*one.digital_range}) < 2  # noqa: PLR2004
            if flat or not np.isfinite(one.physical_range).all():
                raise DataFileError(
                    f"{file} does not say what the numbers of {_text(one.label)!r} are; export it "
                    f"again, or choose other channels in [data.edf]"
                )
            rate = one.sampling_frequency
            if rate * self._edf.epoch < 1 or not 1 <= self._ratio(one).numerator <= MOST:
                raise DataFileError(
                    f"{file} has {rate:g} samples of {_text(one.label)!r} a second, which cannot "
                    f"become {self._edf.rate:g}; mend rate in [data.edf], or choose other channels"
                )
        return signals

    def _labels(self, file: Path, edf: edfio.Edf, count: int) -> list[str]:
        """Return what each epoch shows; nothing if nobody has scored them, or a table has."""
        if self._source.labels is not None:
            return []
        scores = _hypnogram(file)
        if scores is None:
            annotations = edf.annotations
        else:
            with decoding(scores, "a hypnogram"):
                hypnogram = whole(scores)
                annotations = hypnogram.annotations
                if hypnogram.starttime != edf.starttime:
                    raise DataFileError(
                        f"{scores} begins at {hypnogram.starttime} and {file.name} at "
                        f"{edf.starttime}; find the hypnogram that belongs to it"
                    )
        labels = scored(annotations, self._stages, count=count, epoch_s=self._edf.epoch)
        if self._edf.wake_minutes is None:
            return labels
        epochs = round(60 * self._edf.wake_minutes / self._edf.epoch)
        return near_sleep(labels, self._stages[WAKE], epochs)

    def _patient(self, file: Path, edf: edfio.Edf) -> str:
        said = edf.local_patient_identification.split()
        code = "" if not said or said[0].upper() == "X" else " ".join(said)
        if code and edf.reserved.startswith("EDF+"):
            code = said[0]
        return code or sleep_edf_subject(file) or bids_subject(file, self._source.where)


def _hypnogram(file: Path) -> Path | None:
    """Return the file that says what the epochs of another show; none if there is none.

    Raises:
        DataFileError: There are several.
    """
    night = SLEEP_EDF.fullmatch(file.name)
    if night is None:
        return None
    found = [
        other
        for other in sorted(file.parent.glob(f"{night['night']}*"))
        if other.name.lower().endswith(HYPNOGRAM)
    ]
    if len(found) > 1:
        raise DataFileError(
            f"{file} has several hypnograms, {' and '.join(one.name for one in found)}; leave one"
        )
    return found[0] if found else None


def _text(field: str) -> str:
    """Return a field of a header; those that are in UTF-8, as none should be, are decoded."""
    with contextlib.suppress(UnicodeError):
        return field.encode(ENCODING).decode()
    return field
