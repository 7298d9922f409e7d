"""EDF recordings: cut into epochs, labelled as their scorers say, or refused with a sentence."""

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edfio import Edf, EdfAnnotation, EdfSignal, Patient, Recording
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dflmoe.data.formats.edf import EdfRecordings
from dflmoe.data.formats.stages import STAGES, scored
from dflmoe.data.listing import listed
from dflmoe.data.reading import rows_of
from dflmoe.data.reads import Reads
from dflmoe.data.source import Edf as EdfSettings
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError, LabelError, SettingsError

EPOCH = 30


def noise(seconds: float, rate: float, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-90, 90, round(seconds * rate))


def signal(
    values: NDArray[np.float64],
    rate: float = 100,
    label: str = "EEG Fpz-Cz",
    unit: str = "uV",
    physical: tuple[float, float] = (-200, 200),
) -> EdfSignal:
    return EdfSignal(values, rate, label=label, physical_dimension=unit, physical_range=physical)


def stages(*texts: str, each_s: float = EPOCH) -> list[EdfAnnotation]:
    return [EdfAnnotation(each_s * k, each_s, text) for k, text in enumerate(texts)]


def recorded(
    path: Path,
    *signals: EdfSignal,
    epochs: int = 4,
    annotations: Sequence[EdfAnnotation] | None = None,
    code: str = "X",
    start: datetime.time = datetime.time(22),
) -> Path:
    """Write a recording, of noise if nothing else is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Edf(
        signals or (signal(noise(EPOCH * epochs, 100)),),
        annotations=annotations,
        patient=Patient(code=code),
        recording=Recording(startdate=datetime.date(2000, 1, 1)),
        starttime=start,
        data_record_duration=1 if annotations else EPOCH,
    ).write(path)
    return path


def scored_by(path: Path, *texts: str, start: datetime.time = datetime.time(22)) -> Path:
    """Write a hypnogram as those of Sleep-EDF are: one record of nothing but annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Edf([], annotations=stages(*texts), starttime=start).write(path)
    return path


def reader(path: Path, range_: tuple[float, float] | None = None, **edf: Any) -> EdfRecordings:  # noqa: ANN401
    return EdfRecordings(Source(path=path, range=range_, edf=EdfSettings(**edf)))


# --- values ---


def test_an_epoch_is_what_was_measured_in_it(tmp_path: Path) -> None:
    first, second = noise(120, 100), noise(120, 100, 1)
    path = recorded(tmp_path / "a.edf", signal(first), signal(second, label="EOG"))
    recordings = reader(path)
    parts = recordings.parts(path)
    assert [(part.at, part.shape) for part in parts] == [(k, (2, 3000)) for k in range(4)]
    for part in parts:
        rows = np.stack([first, second])[:, part.at * 3000 : (part.at + 1) * 3000]
        np.testing.assert_allclose(recordings.read(path, part.at), rows, atol=400 / 2**16)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [(b"uV", 1), (b"mV", 1e3), (b"V", 1e6), (b"nV", 1e-3), ("µV".encode(), 1), (b"\xb5V", 1)],
)
def test_voltages_are_in_microvolts(tmp_path: Path, unit: bytes, factor: float) -> None:
    values = noise(30, 100)
    path = recorded(tmp_path / "a.edf", signal(values))
    path.write_bytes(path.read_bytes().replace(b"uV      ", unit.ljust(8)))
    row = reader(path).read(path, 0)[0]
    np.testing.assert_allclose(row / factor, values, atol=400 / 2**16)


def test_a_hundred_microvolts_are_one(tmp_path: Path) -> None:
    values = np.tile([-150.0, -100, 0, 50, 100, 150], 500)
    path = recorded(tmp_path / "a.edf", signal(values))
    source = Source(path=path)
    row = Reads(listed(source, labelled=False), source).row(0)
    np.testing.assert_allclose(row[0, :6], [-1, -1, 0, 0.5, 1, 1], atol=1e-4)


def test_another_unit_is_scaled_by_what_its_header_says(tmp_path: Path) -> None:
    values = np.tile([34.0, 37, 40], 1000)
    path = recorded(
        tmp_path / "a.edf",
        signal(noise(30, 100)),
        signal(values, label="Temp rectal", unit="DegC", physical=(34, 40)),
    )
    source = Source(path=path)
    row = Reads(listed(source, labelled=False), source).row(0)
    np.testing.assert_allclose(row[1, :3], [-1, 0, 1], atol=1e-3)
    np.testing.assert_allclose(reader(path, (0, 50)).read(path, 0)[1], values, atol=1e-3)


@pytest.mark.parametrize("rate", [1, 50, 128, 200, 256, 499.5])
def test_a_slow_wave_is_the_same_at_any_rate(tmp_path: Path, rate: float) -> None:
    def wave(at: float) -> NDArray[np.float64]:
        seconds = np.arange(round(60 * at)) / at
        return np.asarray(50 * np.sin(2 * np.pi * 0.1 * seconds) + 30)

    path = tmp_path / "a.edf"
    Edf([signal(wave(rate), rate)], data_record_duration=2).write(path)
    recordings = reader(path)
    assert [part.shape for part in recordings.parts(path)] == [(1, 3000)] * 2
    row = recordings.read(path, 1)[0]
    away_from_ends = slice(500, -500)
    expected = wave(100)[3000:][away_from_ends]
    np.testing.assert_allclose(row[away_from_ends], expected, atol=0.5 if rate > 1 else 5)


def test_what_does_not_change_stays_as_it_is_at_another_rate(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", signal(np.full(30 * 64, 80.0), 64))
    np.testing.assert_allclose(reader(path).read(path, 0), 80, rtol=0.01)


@pytest.mark.parametrize("epoch", [1, 4, 7.5, 20, 45])
def test_epochs_need_not_be_records(tmp_path: Path, epoch: float) -> None:
    values = noise(90, 100)
    path = recorded(tmp_path / "a.edf", signal(values))
    recordings = reader(path, epoch=epoch)
    parts = recordings.parts(path)
    assert len(parts) == 90 // epoch
    joined = np.concatenate([recordings.read(path, part.at)[0] for part in parts])
    np.testing.assert_allclose(joined, values[: len(joined)], atol=400 / 2**16)


def test_channels_are_taken_by_name_and_in_order(tmp_path: Path) -> None:
    signals = [signal(np.full(3000, k), label=f"EEG {k}") for k in range(3)]
    path = recorded(tmp_path / "a.edf", *signals)
    recordings = reader(path, channels=("EEG 2", "EEG 0"))
    (part,) = recordings.parts(path)
    assert part.shape == (2, 3000)
    np.testing.assert_allclose(recordings.read(path, 0)[:, 0], [2, 0], atol=0.01)


def test_several_threads_may_read_at_once(tmp_path: Path) -> None:
    paths = [recorded(tmp_path / f"{k}.edf", signal(noise(120, 200, k), 200)) for k in range(2)]
    asked = [(path, at) for at in range(4) for path in paths] * 8
    recordings = reader(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda one: recordings.read(*one), asked))
    for (path, at), row in zip(asked, rows, strict=True):
        np.testing.assert_array_equal(row, reader(path).read(path, at))


def test_recordings_that_do_not_fit_into_memory_are_read_as_they_are_needed(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", epochs=100)
    source = Source(path=path, memory_mb=1, classes=("W", "N1"))
    table = tmp_path / "labels.csv"
    table.write_text("file,label\na,W\n")
    read = rows_of(source.model_copy(update={"labels": table}))
    assert read.reads.streams
    whole = rows_of(source.model_copy(update={"labels": table, "memory_mb": 512}))
    assert whole.streamed is None
    np.testing.assert_array_equal(read.reads(torch.tensor([7, 3])), whole.x[[7, 3]])


# --- labels ---


def test_annotations_of_a_recording_are_its_labels(tmp_path: Path) -> None:
    said = stages("Sleep stage W", "Sleep stage ?", "Sleep stage 4", "Movement time")
    path = recorded(tmp_path / "a.edf", annotations=said)
    assert [(p.at, p.label) for p in reader(path).parts(path)] == [(0, "W"), (2, "N3")]


def test_stages_may_have_other_names(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", annotations=stages("awake", "asleep", "Lights on", "awake"))
    parts = reader(path, stages={"awake": "no", "asleep": "yes"}).parts(path)
    assert [(p.at, p.label) for p in parts] == [(0, "no"), (1, "yes"), (3, "no")]


def test_a_recording_that_nobody_has_scored_has_no_labels(tmp_path: Path) -> None:
    plain = recorded(tmp_path / "plain.edf")
    noted = recorded(tmp_path / "noted.edf", annotations=[EdfAnnotation(3, None, "Lights off")])
    for path in (plain, noted):
        assert [p.label for p in reader(path).parts(path)] == [""] * 4


def test_a_table_has_one_label_for_all_epochs_of_a_file(tmp_path: Path) -> None:
    recorded(tmp_path / "a.edf", annotations=stages("Sleep stage W"), code="A1")
    recorded(tmp_path / "b.edf", code="B2")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\na.edf,apnoea\nb,none\n")
    rows = listed(Source(path=tmp_path, form="edf", labels=table)).rows
    assert [row.label for row in rows] == ["apnoea"] * 4 + ["none"] * 4


def test_the_longer_part_of_an_epoch_is_what_it_shows() -> None:
    said = [
        EdfAnnotation(0, 40, "Sleep stage W"),
        EdfAnnotation(40, 30, "Sleep stage 2"),  # 20 s of the second epoch, 10 s of the third
        EdfAnnotation(70, None, "Sleep stage R"),  # of one epoch, as nobody says how long
        EdfAnnotation(105, 30, "Sleep stage 1"),  # half of the fourth epoch is not more than half
    ]
    assert scored(said, STAGES, count=4, epoch_s=30) == ["W", "N2", "REM", ""]


def test_where_scorers_disagree_nobody_is_believed() -> None:
    said = [*stages("Sleep stage 1", "Sleep stage 2"), *stages("Sleep stage 1", "Sleep stage R")]
    assert scored(said, STAGES, count=2, epoch_s=30) == ["N1", ""]


@given(
    st.lists(st.sampled_from([*STAGES, "Sleep stage ?"]), min_size=1, max_size=12),
    st.sampled_from([1, 2, 3, 5]),
)
def test_epochs_that_are_parts_of_scored_ones_show_the_same(texts: list[str], parts: int) -> None:
    labels = scored(stages(*texts), STAGES, count=parts * len(texts), epoch_s=EPOCH / parts)
    expected = [STAGES.get(text, "") for text in texts for _ in range(parts)]
    assert labels == (expected if any(expected) else [])


# --- Sleep-EDF in miniature ---

NIGHT = ("Sleep stage W", "Sleep stage 1", "Sleep stage 3", "Sleep stage 4", "Sleep stage ?")
LABELS = ["W", "N1", "N3", "N3"]


def sleep_edf(folder: Path) -> Path:
    """Write two nights of one subject, and one of each of two others."""
    for name in ("SC4001E", "SC4002E", "SC4011E", "ST7011J"):
        recorded(folder / f"{name}0-PSG.edf", epochs=5)
        scored_by(folder / f"{name}{'P' if name[1] == 'T' else 'C'}-Hypnogram.edf", *NIGHT)
    return folder


def test_hypnograms_label_their_recordings_and_are_no_rows(tmp_path: Path) -> None:
    rows = listed(Source(path=sleep_edf(tmp_path))).rows
    assert [row.label for row in rows] == LABELS * 4
    assert {row.file.name for row in rows} == {
        "SC4001E0-PSG.edf", "SC4002E0-PSG.edf", "SC4011E0-PSG.edf", "ST7011J0-PSG.edf"
    }  # fmt: skip


def test_two_nights_of_one_subject_stay_together(tmp_path: Path) -> None:
    read = rows_of(Source(path=sleep_edf(tmp_path)))
    (site,) = read.sites("ann")
    first, second, third, fourth = site.patient.reshape(4, 4)
    assert (first == second).all()
    assert len({*first, *third, *fourth}) == 3
    assert read.classes == ("N1", "N3", "W")


def test_wake_far_from_sleep_is_left_out_if_asked(tmp_path: Path) -> None:
    path = recorded(tmp_path / "SC4001E0-PSG.edf", epochs=8)
    texts = ["W", "W", "W", "1", "?", "2", "W", "W"]
    scored_by(tmp_path / "SC4001EC-Hypnogram.edf", *(f"Sleep stage {text}" for text in texts))
    kept = {None: [0, 1, 2, 3, 5, 6, 7], 0: [3, 5], 0.5: [2, 3, 5, 6], 30: [0, 1, 2, 3, 5, 6, 7]}
    for minutes, places in kept.items():
        assert [p.at for p in reader(path, wake_minutes=minutes).parts(path)] == places


def test_of_a_night_without_sleep_nothing_is_near_sleep(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", annotations=stages("Sleep stage W", "Sleep stage W"))
    assert reader(path, wake_minutes=30).parts(path) == []


def test_a_night_without_its_hypnogram_is_not_labelled_by_its_folder(tmp_path: Path) -> None:
    folder = sleep_edf(tmp_path / "sleep-cassette")
    (folder / "SC4002EC-Hypnogram.edf").unlink()
    with pytest.raises(LabelError, match=r"SC4002E0-PSG\.edf does not say what it shows"):
        listed(Source(path=tmp_path))
    assert len(listed(Source(path=tmp_path), labelled=False).rows) == 4 + 5 + 4 + 4


def test_a_hypnogram_of_another_night_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "SC4001E0-PSG.edf")
    scored_by(tmp_path / "SC4001EC-Hypnogram.edf", *NIGHT, start=datetime.time(23))
    with pytest.raises(DataFileError, match=r"Hypnogram\.edf begins at 23:00:00 and SC4001E0"):
        reader(path).parts(path)


def test_of_two_hypnograms_none_is_chosen(tmp_path: Path) -> None:
    path = recorded(tmp_path / "SC4001E0-PSG.edf")
    for scorer in "CH":
        scored_by(tmp_path / f"SC4001E{scorer}-Hypnogram.edf", *NIGHT)
    with pytest.raises(DataFileError, match="several hypnograms"):
        reader(path).parts(path)


def test_a_damaged_hypnogram_is_told_by_its_own_name(tmp_path: Path) -> None:
    path = recorded(tmp_path / "SC4001E0-PSG.edf")
    hypnogram = scored_by(tmp_path / "SC4001EC-Hypnogram.edf", *NIGHT)
    hypnogram.write_bytes(hypnogram.read_bytes()[:-40])
    with pytest.raises(DataFileError, match=r"^\S*SC4001EC-Hypnogram\.edf is"):
        reader(path).parts(path)


# --- patients ---


@pytest.mark.parametrize(
    ("name", "code", "patient"),
    [
        pytest.param("a.edf", "P-12", "P-12", id="the code"),
        pytest.param("a.edf", "X", "", id="nobody"),
        pytest.param("sub-07/eeg/sub-07_task-rest_eeg.edf", "X", "07", id="BIDS"),
        pytest.param("sub-07_eeg.edf", "P-12", "P-12", id="the code before BIDS"),
        pytest.param("ST7242J0-PSG.edf", "X", "ST724", id="Sleep-EDF"),
    ],
)
def test_a_recording_tells_whose_it_is(tmp_path: Path, name: str, code: str, patient: str) -> None:
    path = recorded(tmp_path / name, code=code, annotations=[])
    (part, *_) = EdfRecordings(Source(path=tmp_path)).parts(path)
    assert part.patient == patient


def test_a_plain_header_is_a_patient_as_a_whole(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf")
    data = bytearray(path.read_bytes())
    data[8:88] = b"Smith John 1950".ljust(80)
    path.write_bytes(data)
    assert reader(path).parts(path)[0].patient == "Smith John 1950"


# --- what is refused ---


def test_recordings_with_other_channels_are_refused(tmp_path: Path) -> None:
    for name, label in (("a.edf", "EEG Fpz-Cz"), ("b.edf", "EEG C3-M2")):
        recorded(tmp_path / name, signal(noise(30, 100), label=label))
    source = Source(path=tmp_path)
    with pytest.raises(DataFileError, match=r"EEG Fpz-Cz .*EEG C3-M2|EEG C3-M2 .*EEG Fpz-Cz"):
        Reads(listed(source, labelled=False), source)
    named = Source(path=tmp_path, edf=EdfSettings(channels=("EEG C3-M2",)))
    with pytest.raises(DataFileError, match=r"a\.edf has no signals 'EEG C3-M2'.* EEG Fpz-Cz"):
        listed(named, labelled=False)
    skipping = named.model_copy(update={"skip_unreadable": True})
    assert [row.file.name for row in listed(skipping, labelled=False).rows] == ["b.edf"]


def without_gain(path: Path) -> None:
    recorded(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"-200    200     ", b"0       0       "))


def with_gaps(path: Path) -> None:
    recorded(path, annotations=stages("Sleep stage W"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"EDF+C", b"EDF+D").replace(b"+7\x14\x14", b"+9\x14\x14"))


def still_recording(path: Path) -> None:
    recorded(path)
    data = bytearray(path.read_bytes())
    data[236:244] = b"-1      "
    path.write_bytes(data)


def longer_than_it_says(path: Path) -> None:
    path.write_bytes(recorded(path).read_bytes() + bytes(6000))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        pytest.param(with_gaps, "has gaps in time", id="gaps"),
        pytest.param(without_gain, "does not say what the numbers of 'EEG Fpz-Cz'", id="no gain"),
        pytest.param(still_recording, "damaged header", id="still recording"),
        pytest.param(longer_than_it_says, "bytes long, and its header says", id="too long"),
        pytest.param(lambda p: p.write_bytes(b""), "cannot be read", id="empty"),
        pytest.param(lambda p: p.write_text("ill, 1\n" * 99), "cannot be read", id="text"),
        pytest.param(
            lambda p: recorded(p, signal(noise(30, 100)), signal(noise(30, 100))),
            "has 2 signals 'EEG Fpz-Cz'", id="twice",
        ),
        pytest.param(
            lambda p: Edf([signal(noise(10, 100))]).write(p), "lasts 10 s", id="a short one"
        ),
        pytest.param(
            lambda p: Edf([signal(noise(90, 1 / 90), 1 / 90)], data_record_duration=90).write(p),
            "samples of 'EEG Fpz-Cz' a second", id="a slow one",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_rows_is_refused(
    tmp_path: Path, made: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "a.edf"
    made(path)
    with pytest.raises(DataFileError, match=rf"a\.edf .*{says}|a\.edf {says}"):
        reader(path, channels=("EEG Fpz-Cz",)).parts(path)


def test_a_continuous_recording_that_is_called_discontinuous_is_read(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", annotations=stages("Sleep stage W"))
    path.write_bytes(path.read_bytes().replace(b"EDF+C", b"EDF+D"))
    assert len(reader(path).parts(path)) == 1


def test_a_file_that_has_become_shorter_since_it_was_listed_is_told(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf")
    recordings = reader(path)
    recordings.parts(path)
    recordings.read(path, 0)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataFileError, match="has become shorter"):
        recordings.read(path, 3)


def test_what_annotations_say_is_in_no_refusal(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.edf", annotations=[EdfAnnotation(1, 2, "Mrs Smith wakes")])
    path.write_bytes(path.read_bytes().replace(b"+1\x152\x14Mrs", b"+1\xff2\x14Mrs"))
    with pytest.raises(DataFileError, match=r"a\.edf cannot be read") as refusal:
        reader(path).parts(path)
    assert "Smith" not in str(refusal.value)


def test_settings_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is for colours"):
        EdfRecordings(Source(path=tmp_path, channels=1))
    with pytest.raises(SettingsError, match="what wake is"):
        reader(tmp_path, wake_minutes=30, stages={"asleep": "yes"})


def what_happens(path: Path) -> str:
    """Read all of a file, and return why it is refused; nothing if it is not."""
    recordings = reader(path)
    try:
        rows = [recordings.read(path, part.at) for part in recordings.parts(path)]
    except DataFileError as error:
        return str(error)
    return "" if all(row.shape[1] == 3000 for row in rows) else "rows are of no shape"


def test_a_truncated_recording_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "cut.edf", annotations=stages(*NIGHT))
    whole = path.read_bytes()
    for length in [*range(0, 1024, 31), *range(1024, len(whole), 1999), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal = what_happens(path)
        assert "cut.edf" in refusal
        assert "\n" not in refusal


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_header_with_wrong_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.edf"
    recorded(path, annotations=stages("Sleep stage W"), epochs=1)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(data)
    refusal = what_happens(path)
    assert not refusal or ("a.edf" in refusal and "\n" not in refusal)
