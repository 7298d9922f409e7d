"""Sleep-EDF: nights are cut into scored epochs, in agreed units, or refused with a sentence."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from edfio import Edf, EdfAnnotation, EdfSignal

from dflmoe.data.sets import load_set
from dflmoe.errors import DataFileError, MissingExtraError, OptionError

WAKE, MOVED, UNSCORED = "Sleep stage W", "Movement time", "Sleep stage ?"
SLEEP = [f"Sleep stage {stage}" for stage in "1234R"]
NIGHT = [WAKE, *SLEEP, MOVED, WAKE, UNSCORED]


def level(epoch: int) -> float:
    """Return the microvolts that an epoch of a miniature night has throughout."""
    return 5.0 * (epoch % 30)


def night(folder: Path, code: str, scorer: str, texts: Sequence[str] = NIGHT) -> Path:
    """Write a night as PhysioNet ships it: a recording of four signals, and a hypnogram."""
    folder.mkdir(parents=True, exist_ok=True)
    volts = np.repeat([level(k) for k in range(len(texts))], 3000)

    def signal(label: str, *, sign: int, rate: int = 100, unit: str = "uV") -> EdfSignal:
        values = sign * volts[:: 100 // rate]
        return EdfSignal(
            values, rate, label=label, physical_dimension=unit, physical_range=(-1000, 1000)
        )

    path = folder / f"{code}0-PSG.edf"
    Edf(
        [
            signal("EEG Fpz-Cz", sign=1),
            signal("EEG Pz-Oz", sign=-1),
            signal("EOG horizontal", sign=-1),
            signal("Temp rectal", sign=-1, rate=1, unit="DegC"),
        ],
        data_record_duration=30,
    ).write(path)
    scores = [EdfAnnotation(30 * k, 30, text) for k, text in enumerate(texts)]
    Edf([], annotations=scores).write(folder / f"{code}{scorer}-Hypnogram.edf")
    return path


def cassette(root: Path) -> Path:
    return root / "sleep_edf/sleep-cassette"


def shipped(root: Path) -> None:
    """Write two nights of one subject, one of another, and one of the other study."""
    night(cassette(root), "SC4001E", "C")
    night(cassette(root), "SC4002E", "C")
    night(cassette(root), "SC4011E", "H")
    night(root / "sleep_edf/sleep-telemetry", "ST7011J", "P")


def test_stages_are_five_and_what_has_none_is_left_out(tmp_path: Path) -> None:
    shipped(tmp_path)
    rows = load_set("sleep_edf", tmp_path)
    assert rows.classes == ("W", "N1", "N2", "N3", "REM")
    assert rows.y.tolist() == 4 * [0, 1, 2, 3, 3, 4, 0]


def test_nights_of_a_subject_are_one_group_and_studies_are_sites(tmp_path: Path) -> None:
    shipped(tmp_path)
    rows = load_set("sleep_edf", tmp_path)
    assert rows.grouped_by == "subject"
    assert rows.group.tolist() == 14 * [0] + 7 * [1] + 7 * [2]
    assert rows.site is not None
    assert rows.site.tolist() == 21 * [0] + 7 * [1]
    assert rows.site_names == ("sleep-cassette", "sleep-telemetry")


def test_a_hundred_microvolts_of_fpz_cz_are_one_and_signals_are_cut_at_five(tmp_path: Path) -> None:
    night(cassette(tmp_path), "SC4001E", "C", [SLEEP[0]] * 30)
    path = night(cassette(tmp_path), "SC4011E", "C", SLEEP)
    path.write_bytes(path.read_bytes().replace(b"-1000   ", b"900     "))  # 900 to 1000
    rows = load_set("sleep_edf", tmp_path)
    assert rows.x.shape == (35, 1, 3000)
    expected = np.array([level(k) / 100 for k in range(30)])
    np.testing.assert_allclose(rows.x[:30, 0], np.repeat(expected[:, None], 3000, 1), atol=1e-3)
    assert (rows.x[30:] == 5).all()


def test_half_an_hour_of_wake_is_kept_before_and_after_sleep(tmp_path: Path) -> None:
    night(cassette(tmp_path), "SC4001E", "C", [WAKE] * 80 + SLEEP + [WAKE] * 70)
    rows = load_set("sleep_edf", tmp_path)
    assert rows.y.tolist() == [0] * 60 + [1, 2, 3, 3, 4] + [0] * 60
    np.testing.assert_allclose(rows.x[0], level(20) / 100, atol=1e-3)


def test_epochs_that_are_left_out_move_no_other(tmp_path: Path) -> None:
    night(cassette(tmp_path), "SC4001E", "C", [SLEEP[0], MOVED, UNSCORED, SLEEP[4]])
    rows = load_set("sleep_edf", tmp_path)
    np.testing.assert_allclose(rows.x[:, 0, 0], [level(0) / 100, level(3) / 100], atol=1e-3)


def spoilt(root: Path, what: str) -> None:
    """Write a set of which something is not as its publisher ships it."""
    folder = cassette(root)
    path = night(folder, "SC4001E", "C", [WAKE] * 3 if what == "no sleep" else NIGHT)
    scores = folder / "SC4001EC-Hypnogram.edf"
    if what == "no night":
        path.unlink()
        scores.unlink()
    elif what == "no hypnogram":
        scores.unlink()
    elif what == "no recording":
        night(folder, "SC4002E", "C").unlink()
    elif what == "half":
        path.write_bytes(path.read_bytes()[:20_000])
    elif what == "half a hypnogram":
        scores.write_bytes(scores.read_bytes()[:400])
    elif what == "no channel":
        path.write_bytes(path.read_bytes().replace(b"Fpz-Cz", b"F3-A2 "))
    elif what == "other hypnogram":
        scores.write_bytes(scores.read_bytes().replace(b"00.00.00", b"01.00.00"))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no night", "no night that is named as Sleep-EDF names them"),
        ("no hypnogram", "SC4001E0-PSG.edf has no hypnogram"),
        ("no sleep", "SC4001E0-PSG.edf has no hypnogram beside it with sleep in it"),
        ("no recording", "SC4002EC-Hypnogram.edf has no recording"),
        ("half", "is 20000 bytes long, and its header says"),
        ("half a hypnogram", "Hypnogram.edf"),
        ("no channel", "has no signals 'EEG Fpz-Cz'"),
        ("other hypnogram", "find the hypnogram that belongs to it"),
    ],
)
def test_a_night_that_is_not_whole_is_named(what: str, sentence: str, tmp_path: Path) -> None:
    spoilt(tmp_path, what)
    with pytest.raises(DataFileError, match=sentence):
        load_set("sleep_edf", tmp_path)


def test_nights_have_no_side(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="its rows are no images"):
        load_set("sleep_edf", tmp_path, side=8)


def test_without_edfio_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped(tmp_path)
    for module in ("edf", "records"):
        monkeypatch.delitem(sys.modules, f"dflmoe.data.formats.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "edfio", None)
    with pytest.raises(MissingExtraError, match=r"need edfio; install it with: pip install"):
        load_set("sleep_edf", tmp_path)
