"""The check of data finds what is planted, names it, and says nothing of what is not there."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tests.made import made_rows

from dflmoe.data import listing, look_files
from dflmoe.data.check import Check, checked
from dflmoe.data.findings import Finding, divided, duplicates, enough, features, patients
from dflmoe.data.formats import Part
from dflmoe.data.hints import contradicted
from dflmoe.data.prepared import splits_of
from dflmoe.data.source import Source
from dflmoe.data.splits import Splits
from dflmoe.data.study import SiteRows
from dflmoe.errors import DataFileError

CLASSES = ("no", "yes")


class Saved:
    """A format of files that ``numpy`` saved; their header alone says what is in them."""

    extent = (0.0, 255.0)

    def belongs(self, file: Path) -> bool:
        return file.suffix == ".npy"

    def parts(self, file: Path) -> Sequence[Part]:
        try:
            shape = np.load(file, mmap_mode="r").shape
        except (ValueError, EOFError) as error:
            raise DataFileError(f"{file} is damaged; export it again") from error
        return [Part(0, shape, "colour images" if shape[0] > 1 else "grey images")]

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        values = np.load(file)[:, at:]
        if values[0, 0, 0] < 0:
            raise DataFileError(f"{file} is damaged further down; export it again")
        return np.asarray(values, dtype=np.float32)


def picture(seed: int, side: int = 16, bright: int = 100) -> NDArray[np.float32]:
    """Return a grey picture with a shape of its own."""
    coarse = np.random.default_rng(seed).integers(0, 100, (1, 8, 8)) + bright
    return np.asarray(coarse.repeat(side // 8, 1).repeat(side // 8, 2), dtype=np.float32)


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of forty films; the ill ones are brighter."""
    for module in (listing, look_files):
        monkeypatch.setattr(module, "format_of", lambda _: Saved())
    for k in range(40):
        film(tmp_path, k, picture(k, bright=20 if k % 2 else 120))
    return tmp_path


def film(folder: Path, number: int, values: NDArray[np.float32]) -> Path:
    path = folder / CLASSES[number % 2] / f"{number:02d}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
    return path


def of_films(folder: Path, **settings: Any) -> Check:  # noqa: ANN401 - of a source
    return checked(Source(path=folder, form="images", **settings), "ann").check


def verdicts(check: Check) -> dict[str, str]:
    return {one.check: one.verdict for one in check.findings}


def said(check: Check, what: str) -> Finding:
    (one,) = (one for one in check.findings if one.check == what)
    return one


def listed(check: Check, table: str) -> list[str]:
    return [str(row[0]) for row in check.tables[table].rows]


def named(folder: Path, **columns: Any) -> Path:  # noqa: ANN401 - a column
    """Write a table of labels for the forty films."""
    path = folder / "labels.csv"
    given = {"label": [CLASSES[k % 2] for k in range(40)], **columns}
    files = [f"{CLASSES[k % 2]}/{k:02d}.npy" for k in range(40)]
    frame = pd.DataFrame({"file": files, **given})
    frame.to_csv(path, index=False)
    return path


# --- files ---


def test_sound_films_need_nothing(films: Path) -> None:
    check = of_films(films, labels=named(films, id=range(40)), patient="id")
    assert set(verdicts(check).values()) == {"ok"}, check.findings
    assert check.rows == 40
    assert check.declared is not None


def test_every_file_that_cannot_be_read_is_named_with_its_reason(films: Path) -> None:
    early = film(films, 4, picture(4))
    early.write_bytes(early.read_bytes()[:40])
    late = [film(films, k, np.full((1, 16, 16), -1, np.float32)) for k in (6, 7, 9, 11)]
    check = of_films(films)
    assert check.failed == ("unreadable",)
    names = {str(path.relative_to(films)) for path in [early, *late]}
    assert set(listed(check, "unreadable")) == names
    reasons = [str(row[1]) for row in check.tables["unreadable"].rows]
    assert all("damaged" in reason for reason in reasons)
    assert "5 files cannot be read" in said(check, "unreadable").found
    assert check.rows == 35
    assert verdicts(of_films(films, skip_unreadable=True))["unreadable"] == "warning"


def test_where_no_file_can_be_read_all_are_named(films: Path) -> None:
    files = sorted(films.rglob("*.npy"))
    for path in files:
        path.write_bytes(b"nothing")
    check = of_films(films)
    assert len(listed(check, "unreadable")) == len(files)
    assert check.rows == 0
    assert check.declared is None


def test_files_that_only_break_when_decoded_are_named_where_none_is_left(films: Path) -> None:
    for k in range(40):
        film(films, k, np.full((1, 16, 16), -1, np.float32))
    assert len(listed(of_films(films), "unreadable")) == 40


def test_a_label_without_a_file_fails_and_the_rest_is_looked_at(films: Path) -> None:
    labels = named(films)
    next(films.rglob("05.npy")).unlink()
    check = of_films(films, labels=labels)
    assert check.failed == ("labels",)
    assert "no such file" in said(check, "labels").found
    assert check.rows == 39
    assert not of_films(films, labels=labels, skip_unreadable=True).failed


def test_a_file_without_a_label_fails_and_the_rest_is_looked_at(films: Path) -> None:
    labels = named(films)
    pd.read_csv(labels).iloc[3:].to_csv(labels, index=False)
    check = of_films(films, labels=labels)
    assert check.failed == ("labels",)
    assert check.rows == 40
    assert "classes" not in check.tables
    assert "duplicates" in verdicts(check)


def test_all_files_outside_the_folders_of_classes_are_named(films: Path) -> None:
    for name in ("one.npy", "two.npy"):
        np.save(films / name, picture(99))
    check = of_films(films)
    assert set(listed(check, "unlabelled")) == {"one.npy", "two.npy"}
    assert "unlabelled" in check.failed


def test_sizes_are_counted_before_they_are_brought_to_one(films: Path) -> None:
    film(films, 2, picture(2, side=32))
    check = of_films(films)
    assert check.tables["sizes"].rows == (("16 x 16", 1, 39), ("32 x 32", 1, 1))
    assert check.failed == ("sizes",)
    assert check.declared is not None
    assert check.declared.shape is None
    mended = of_films(films, size=(24, 24))
    assert not mended.failed
    assert mended.tables["sizes"] == check.tables["sizes"]
    assert mended.declared is not None
    assert mended.declared.shape == (1, 24, 24)


def test_colour_among_grey_is_told(films: Path) -> None:
    film(films, 2, picture(2).repeat(3, 0))
    assert "colour images" in said(of_films(films), "sizes").found
    assert not of_films(films, channels=1).failed


def test_a_film_of_one_value_is_told_also_if_the_range_made_it_so(films: Path) -> None:
    film(films, 2, np.full((1, 16, 16), 70, np.float32))
    assert listed(of_films(films), "constant") == ["no/02.npy"]
    blind = of_films(films, range=(1000, 2000))
    assert len(listed(blind, "constant")) == 40
    assert verdicts(blind)["constant"] == "failed"


def test_a_film_in_other_units_is_unlike_the_others(films: Path) -> None:
    film(films, 2, picture(2) * 16)
    check = of_films(films)
    assert listed(check, "unlike") == ["no/02.npy"]
    assert verdicts(check)["values"] == "warning"


def test_a_rare_class_of_another_brightness_is_not_odd(films: Path) -> None:
    labels = [CLASSES[int(k < 6)] for k in range(40)]
    for k in range(40):
        film(films, k, picture(k, bright=1000 if k < 6 else 10))
    check = of_films(films, labels=named(films, label=labels))
    assert verdicts(check)["values"] == "ok"


def test_not_a_number_is_a_file_that_cannot_be_read(films: Path) -> None:
    film(films, 2, np.full((1, 16, 16), np.nan, np.float32))
    film(films, 5, picture(5, side=32))  # also where rows are looked at one by one
    assert listed(of_films(films), "unreadable") == ["no/02.npy"]


# --- copies ---


def test_copies_of_other_patients_and_classes_are_told(films: Path) -> None:
    film(films, 3, picture(8, bright=120))
    check = of_films(films)
    assert set(listed(check, "copies")) == {"yes/03.npy", "no/08.npy"}
    found = said(check, "duplicates")
    assert found.verdict == "warning"
    assert "2 rows are the same as a row of another class" in found.found


def test_a_copy_of_the_same_patient_is_no_danger(films: Path) -> None:
    film(films, 2, picture(4, bright=120))
    ids = list(range(40))
    labels = named(films, id=[*ids[:2], 4, *ids[3:]])
    found = said(of_films(films, labels=labels, patient="id"), "duplicates")
    assert found.verdict == "ok"
    assert "1 repeat a row of their patient" in found.found


def test_a_noisy_copy_of_another_patient_is_nearly_a_copy(films: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (1, 16, 16))
    film(films, 2, (picture(4, bright=120) + noise).astype(np.float32))
    check = of_films(films)
    assert set(listed(check, "near")) == {"no/02.npy", "no/04.npy"}
    assert verdicts(check)["duplicates"] == "ok"
    ids = list(range(40))
    labels = named(films, id=[*ids[:2], 4, *ids[3:]])
    assert verdicts(of_films(films, labels=labels, patient="id"))["near copies"] == "ok"


def test_without_the_library_near_copies_are_a_warning(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    found = said(of_films(films), "near copies")
    assert found.verdict == "warning"
    assert "pip install" in found.fix


def test_of_many_images_some_are_compared(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dflmoe.data.strange.MOST_PICTURES", 10)
    assert "of 10 images" in said(of_films(films), "near copies").found


# --- patients ---


def test_no_patient_is_named_unless_asked(films: Path) -> None:
    film(films, 3, picture(8, bright=120))
    labels = named(films, id=[f"secret-{k}" for k in range(40)])
    source = Source(path=films, form="images", labels=labels, patient="id")
    assert "secret" not in checked(source, "ann").check.model_dump_json()
    shown = checked(source, "ann", show_patients=True).check
    assert "secret-8" in json.dumps(shown.tables["copies"].model_dump())


def test_unknown_patients_are_a_warning(films: Path) -> None:
    found = said(of_films(films), "patients")
    assert found.verdict == "warning"
    assert "each row is taken for one" in found.found


def test_a_divided_patient_is_a_failure() -> None:
    rows = made_rows("ann", 40, 0)
    splits = splits_of(rows, folds=5, inner_folds=5, seed=0, only=(0,))
    assert patients(rows, splits, named=True).verdict == "ok"
    everybody = SiteRows("ann", rows.x, rows.y, np.zeros(40, np.int64))
    found = patients(everybody, splits, named=True)
    assert found.verdict == "failed"
    assert "1 are both" in found.found


def test_a_class_of_one_patient_is_missing_in_one_part(films: Path) -> None:
    ids = [0 if k % 2 else k for k in range(40)]
    check = of_films(films, labels=named(films, id=ids), patient="id")
    assert verdicts(check)["split"] in {"warning", "failed"}
    assert "no yes is" in said(check, "split").found


@pytest.mark.parametrize(
    ("patient", "folds"),
    [
        pytest.param(np.arange(24), 20, id="rows of a class"),
        pytest.param(np.arange(24) % 4, 5, id="patients"),
    ],
)
def test_more_parts_than_there_is_to_divide_are_told(
    tmp_path: Path, patient: NDArray[np.int64], folds: int
) -> None:
    rows = made_rows("ann", 24, 0)
    np.savez(tmp_path / "rows.npz", x=rows.x, y=rows.y, patient=patient)
    check = checked(Source(path=tmp_path / "rows.npz", test_folds=folds), "ann").check
    assert check.failed == ("split",)
    assert f"{folds} parts" in said(check, "split").found
    assert "test_folds" in said(check, "split").fix


# --- labels ---


def flipped(rows: SiteRows, which: Sequence[int]) -> SiteRows:
    y = rows.y.copy()
    y[list(which)] = 1 - y[list(which)]
    return SiteRows(rows.name, rows.x, y, rows.patient)


def plain(rows: int) -> SiteRows:
    """Return rows whose class shows in every feature."""
    made = made_rows("ann", rows, 0, signal=0)
    return SiteRows("ann", made.x + 8 * made.y[:, None].astype(np.float32), made.y, made.patient)


def test_labels_that_were_changed_are_hinted_at() -> None:
    rows = plain(200)
    changed = [3, 50, 120]
    hints = contradicted(flipped(rows, changed))
    assert sorted(hints.rows.tolist()) == changed
    assert hints.said.tolist() == rows.y[hints.rows].tolist()


def test_where_classes_cannot_be_told_apart_nothing_is_hinted_at() -> None:
    hints = contradicted(made_rows("ann", 200, 0, signal=0))
    assert not hints.skilled
    assert not len(hints.rows)


def test_hints_do_not_mind_empty_cells_rare_classes_and_few_rows() -> None:
    rows = made_rows("ann", 24, 0, classes=6)
    rows.x[:, 1] = np.nan
    rows.x[3, 0] = np.nan
    assert contradicted(rows).asked == 24
    one = SiteRows("ann", rows.x, rows.y, np.zeros(24, np.int64))
    assert not contradicted(one).skilled  # nobody else to learn from


def test_of_many_rows_some_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dflmoe.data.hints.MOST_ROWS", 100)
    rows = plain(300)
    assert contradicted(rows).asked == 100


def test_an_odd_label_is_told_as_a_hint(films: Path) -> None:
    film(films, 2, picture(2, bright=20))
    check = of_films(films)
    assert listed(check, "labels") == ["no/02.npy"]
    assert "hint" in check.tables["labels"].title
    assert "hint" in said(check, "label hints").fix


# --- tables and arrays ---


def cohort(**changed: Any) -> pd.DataFrame:  # noqa: ANN401 - a column
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    frame = pd.DataFrame({"id": 7000 + np.arange(40), "dose": rng.normal(size=40) + 9 * label,
                          "ward": rng.choice(["a", "b"], 40), "label": label})  # fmt: skip
    return frame.assign(**changed)


def of_table(folder: Path, frame: pd.DataFrame, **settings: Any) -> Check:  # noqa: ANN401
    path = folder / "cohort.csv"
    frame.to_csv(path, index=False)
    return checked(Source(path=path, **settings), "ann").check


def test_a_sound_table_needs_nothing(tmp_path: Path) -> None:
    check = of_table(tmp_path, cohort(), patient="id")
    assert set(verdicts(check).values()) == {"ok"}, check.findings
    assert check.tables["classes"].rows[0][:2] == ("0", 20)


def test_empty_cells_are_counted_by_column(tmp_path: Path) -> None:
    dose = cohort()["dose"].where(np.arange(40) < 10)
    check = of_table(tmp_path, cohort(dose=dose), patient="id")
    (row,) = (row for row in check.tables["columns"].rows if row[0] == "dose")
    assert row[1:3] == (30, 0.75)
    assert "dose" in said(check, "missing").fix


def test_no_value_of_a_column_that_names_patients_is_told(tmp_path: Path) -> None:
    for settings in ({"patient": "id"}, {}):
        assert "7020" not in of_table(tmp_path, cohort(), **settings).model_dump_json()
    assert said(of_table(tmp_path, cohort()), "identifiers").verdict == "warning"


@pytest.mark.parametrize(
    ("frame", "check", "words"),
    [
        pytest.param(cohort(label=1), "columns", "in every row", id="one class"),
        pytest.param(cohort(dose=np.inf), "columns", "infinite", id="infinite"),
        pytest.param(cohort().drop(columns="label"), "columns", "no column 'label'", id="none"),
        pytest.param(cohort().head(10), "rows", "needs 20", id="few rows"),
        pytest.param(cohort(label=np.arange(40) < 2), "rows", "fewer than 4", id="a rare class"),
    ],
)
def test_what_keeps_a_table_from_being_learnt_fails(
    tmp_path: Path, frame: pd.DataFrame, check: str, words: str
) -> None:
    found = of_table(tmp_path, frame, patient="id")
    assert check in found.failed
    assert words in said(found, check).found
    assert "columns" in found.tables


def test_rows_of_several_sites_are_told_unless_one_is_this(tmp_path: Path) -> None:
    frame = cohort(site=["ann", "bob"] * 20, label=np.arange(40) // 2 % 2)
    here = of_table(tmp_path, frame, patient="id")
    assert here.rows == 20
    path = tmp_path / "cohort.csv"
    other = checked(Source(path=path, patient="id"), "eve").check
    assert said(other, "sites").verdict == "warning"
    assert other.rows == 40


def test_arrays_of_pictures_and_recordings_are_looked_at_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    for shape in ((1, 12, 12), (2, 50)):
        x = rng.normal(size=(30, *shape)) + y.reshape(-1, *[1] * len(shape))
        np.savez(tmp_path / "rows.npz", x=x, y=y, patient=np.arange(30))
        check = checked(Source(path=tmp_path / "rows.npz"), "ann").check
        assert set(verdicts(check).values()) == {"ok"}, check.findings
        assert check.declared is not None
        assert check.declared.shape == shape


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        pytest.param({"x": np.zeros((30, 2))}, "no array 'y'", id="no labels"),
        pytest.param({"x": np.zeros(30), "y": np.arange(30) % 2}, "x must be", id="no features"),
        pytest.param({"x": np.zeros((30, 2)), "y": np.arange(30.0)}, "whole", id="fractions"),
        pytest.param({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "x must be", id="no rows"),
    ],
)
def test_arrays_that_are_no_rows_fail(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], words: str
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)  # type: ignore[arg-type]  # its stub takes no mapping
    check = checked(Source(path=tmp_path / "rows.npz"), "ann").check
    assert check.failed == ("reading",)
    assert words in said(check, "reading").found


# --- what the doctor says, too ---


def test_enough_rows_are_counted_by_class_and_told_as_a_band() -> None:
    found = enough(made_rows("ann", 60, 0), CLASSES, test_folds=5)
    assert found.found == "60 rows (told as 50-99) of 60 patients: 30 no, 30 yes"
    few = enough(made_rows("ann", 24, 0), CLASSES, test_folds=5, min_rows=20)
    assert few.verdict == "warning"


@pytest.mark.parametrize(
    ("spoil", "finding", "verdict"),
    [
        pytest.param(np.ones_like, features, "failed", id="all the same"),
        pytest.param(lambda x: x, features, "ok", id="as made"),
        pytest.param(lambda x: np.repeat(x[::2], 2, 0), duplicates, "warning", id="copies"),
        pytest.param(lambda x: x, duplicates, "ok", id="no copies"),
    ],
)
def test_rows_that_say_nothing_or_the_same_are_told(
    spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    finding: Callable[[SiteRows], Finding],
    verdict: str,
) -> None:
    rows = made_rows("ann", 40, 0)
    spoilt = SiteRows("ann", spoil(rows.x), rows.y, rows.patient)
    assert finding(spoilt).verdict == verdict


def test_a_split_that_learns_one_class_only_fails() -> None:
    rows = made_rows("ann", 40, 0)
    splits = splits_of(rows, folds=5, inner_folds=5, seed=0, only=(0,))
    fold = splits.crossfit.fold.clone()
    fold[:, rows.y == 1] = -1
    lame = Splits(type(splits.crossfit)(fold), splits.test)
    assert divided(rows, CLASSES, splits).verdict == "ok"
    found = divided(rows, CLASSES, lame)
    assert found.verdict == "failed"
    assert "no yes is learnt from" in found.found
