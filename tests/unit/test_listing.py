"""Which rows a folder holds, what they show and whose they are; what is unclear is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.imaging import SIDES, class_folders, colour, dicom, grey, ramp
from tests.imaging import encoded as encode

from dflmoe.data.listing import Listing, agreeing, listed
from dflmoe.data.one_site import read_site
from dflmoe.data.reading import rows_of, study_of
from dflmoe.data.source import Source
from dflmoe.errors import ColumnError, DataFileError, DflmoeError, LabelError

NAMES = ("p1/a.png", "p1/b.png", "p2/c.png", "p2/d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four pictures in two folders, which name no class."""
    root = tmp_path / "images"
    for k, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        grey(np.roll(ramp(), k)).save(root / name)
    return root


def table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    file = folder.parent / name
    file.write_text(text)
    return file


def lines(*changed: str, columns: str = "file,label") -> str:
    """Return a table of labels: ill, well, ill, well, or some lines instead."""
    plain = [f"{name},{('ill', 'well')[k % 2]}" for k, name in enumerate(NAMES)]
    return "\n".join([columns, *(changed or plain)])


def labelled(folder: Path, text: str, **settings: object) -> Listing:
    source = {"path": folder, "labels": table(folder, text), **settings}
    return listed(Source.model_validate(source))


def labels(listing: Listing) -> dict[str, str]:
    return {listing.named(k): row.label for k, row in enumerate(listing.rows)}


SAID = dict(zip(NAMES, ("ill", "well", "ill", "well"), strict=True))


# --- labels ---


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(lambda name: name, id="path"),
        pytest.param(lambda name: f"./{name}", id="dotted path"),
        pytest.param(lambda name: name.replace("/", "\\"), id="path of Windows"),
        pytest.param(lambda name: Path(name).name, id="name"),
        pytest.param(lambda name: Path(name).stem, id="stem"),
    ],
)
def test_a_table_names_files_in_any_plain_way(folder: Path, named: Callable[[str], str]) -> None:
    text = lines(*(f"{named(name)},{label}" for name, label in SAID.items()))
    assert labels(labelled(folder, text)) == SAID


def test_columns_may_be_called_otherwise(folder: Path) -> None:
    listing = labelled(
        folder,
        lines(*(f"{n},x,{n[:2]},{label},north" for n, label in SAID.items()),
              columns="image,other,person,finding,ward"),
        file="image", label="finding", patient="person", site="ward",
    )  # fmt: skip
    assert labels(listing) == SAID
    assert [row.patient for row in listing.rows] == ["p1", "p1", "p2", "p2"]
    assert {row.site for row in listing.rows} == {"north"}


def test_numbers_that_are_names_stay_as_they_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("007", "070"):
        grey().save(folder / f"{name}.png")
    listing = labelled(folder, "file,label,id\n007,0.0,01\n070,1.0,1\n", patient="id")
    assert labels(listing) == {"007.png": "0", "070.png": "1"}
    assert [row.patient for row in listing.rows] == ["01", "1"]


def test_a_parquet_table_serves_as_well(folder: Path) -> None:
    import pandas as pd  # noqa: PLC0415 - here only

    file = folder.parent / "labels.parquet"
    pd.DataFrame({"file": list(SAID), "label": [1.0, 0.0, 1.0, 0.0]}).to_parquet(file)
    listing = listed(Source(path=folder, labels=file))
    assert [row.label for row in listing.rows] == ["1", "0", "1", "0"]


def test_folders_are_classes_where_no_table_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", of_each=2)
    deep = root / "ill" / "patient 7" / "9.png"
    deep.parent.mkdir()
    grey().save(deep)
    listing = listed(Source(path=root))
    assert [row.label for row in listing.rows] == ["ill", "ill", "ill", "well", "well"]


def test_hidden_files_and_files_of_other_kinds_are_not_looked_at(folder: Path) -> None:
    (folder / ".hidden.png").write_text("no picture")
    (folder / "notes.txt").write_text("no picture")
    assert len(labelled(folder, lines()).rows) == len(NAMES)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        pytest.param(lines("p1/a.png,ill"), LabelError, r"no label for p1/b\.png", id="no line"),
        pytest.param(
            lines(*lines().splitlines()[1:], "p3/x.png,ill"),
            LabelError,
            r"names 'p3/x\.png' \(1 such lines",
            id="no file",
        ),
        pytest.param(
            lines(*lines().splitlines()[1:], "p1/a.png,ill"),
            ColumnError,
            r"'p1/a\.png' twice",
            id="one name twice",
        ),
        pytest.param(
            lines(*lines().splitlines()[1:], "a,well"),
            ColumnError,
            r"one file twice, as 'p1/a\.png' and as 'a'",
            id="one file by two names",
        ),
        pytest.param(lines().replace("a.png,ill", "a.png,"), LabelError, "no label", id="gap"),
        pytest.param(lines().replace("a.png,ill", "a.png, "), LabelError, "no label", id="blank"),
        pytest.param(
            lines().replace("label", "class"), ColumnError, "no column 'label'", id="name"
        ),
        pytest.param("file,label\n", DataFileError, "no rows", id="empty"),
        pytest.param("", DataFileError, "cannot be read as a table", id="nothing"),
    ],
)
def test_labels_in_doubt_are_refused(
    folder: Path, text: str, error: type[DflmoeError], says: str
) -> None:
    with pytest.raises(error, match=says) as refusal:
        labelled(folder, text)
    assert "labels.csv" in str(refusal.value)


def test_a_name_that_two_files_have_is_no_name(folder: Path) -> None:
    grey().save(folder / "p2" / "a.png")
    with pytest.raises(ColumnError, match=r"'a\.png', which may be p1/a\.png or p2/a\.png"):
        labelled(folder, lines("a.png,ill"))
    with pytest.raises(LabelError, match=r"no label for p1/b\.png"):
        labelled(folder, lines("p1/a.png,ill", "p2/a.png,well"))


def test_a_table_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DataFileError, match=r"none\.csv is not there"):
        listed(Source(path=folder, labels=folder.parent / "none.csv"))


def test_a_file_without_folder_and_table_has_no_label(tmp_path: Path) -> None:
    grey().save(tmp_path / "a.png")
    with pytest.raises(LabelError, match=r"a\.png has no label; name a table"):
        listed(Source(path=tmp_path))
    assert len(listed(Source(path=tmp_path), labelled=False).rows) == 1
    assert listed(Source(path=tmp_path / "a.png"), labelled=False).rows[0].label == ""


# --- patients ---


def test_some_patients_and_some_not_are_refused(folder: Path) -> None:
    gap = lines("p1/a.png,ill,7", "p1/b.png,well,", columns="file,label,id")
    with pytest.raises(ColumnError, match=r"no patient for 'p1/b\.png' \(1 lines"):
        labelled(folder, gap, patient="id")


def test_patients_are_found_in_dicom_and_never_divided(tmp_path: Path) -> None:
    for k, (label, patient) in enumerate([("ill", "x"), ("ill", "x"), ("well", "y")]):
        dicom(tmp_path / label / f"{k}.dcm", ramp() + k, PatientID=patient)
    source = Source(path=tmp_path)
    assert [row.patient for row in listed(source).rows] == ["x", "x", "y"]
    (site,) = rows_of(source).sites("ann")
    assert site.patient.tolist() == [0, 0, 1]
    dicom(tmp_path / "well" / "3.dcm", ramp(), PatientID="")
    with pytest.raises(ColumnError, match=r"3\.dcm names no patient \(1 rows"):
        listed(source)


# --- one kind and one size ---


def test_two_sizes_are_refused_until_one_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    grey(ramp(sides=(9, 8))).save(root / "well" / "9.png")
    with pytest.raises(DataFileError, match=r"6 x 8 .*well/9\.png of 9 x 8; .* size in"):
        rows_of(Source(path=root))
    assert rows_of(Source(path=root, size=(5, 4))).x.shape[1:] == (1, 5, 4)
    with pytest.raises(DataFileError, match=r"1 numbers .* 2 axes"):
        rows_of(Source(path=root, size=(5,)))


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_among_grey_is_refused_until_channels_are_named(
    tmp_path: Path, channels: int
) -> None:
    root = class_folders(tmp_path)
    colour().save(root / "well" / "9.png")
    with pytest.raises(DataFileError, match=r"grey .*well/9\.png colour images; .* say channels"):
        rows_of(Source(path=root))
    named = Source.model_validate({"path": root, "channels": channels})
    assert rows_of(named).x.shape[1:] == (channels, *SIDES)


@pytest.mark.parametrize("channels", [None, 1])
def test_one_modality_among_another_is_refused_whatever_its_colours(
    tmp_path: Path, channels: int | None
) -> None:
    for k, modality in enumerate(("CT", "CT", "MR")):
        dicom(tmp_path / "ill" / f"{k}.dcm", ramp(), Modality=modality)
    source = Source.model_validate({"path": tmp_path, "channels": channels})
    with pytest.raises(DataFileError, match=r"0\.dcm holds CT .*2\.dcm MR .* move the others"):
        agreeing(listed(source), source)
    asked = Source.model_validate({"path": tmp_path, "dicom": {"modality": "CT"}})
    with pytest.raises(DataFileError, match=r"2\.dcm is MR .* says CT"):
        listed(asked)


def test_images_and_dicom_in_one_folder_are_told_apart_by_form(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    dicom(root / "ill" / "scan.dcm", ramp())
    with pytest.raises(DataFileError, match="holds dicom and images; say which"):
        listed(Source(path=root))
    assert len(listed(Source(path=root, form="dicom")).rows) == 1


# --- files that cannot be read ---


@pytest.mark.parametrize("cut", ["header", "pixels"])
def test_unreadable_files_are_left_out_and_told(tmp_path: Path, cut: str) -> None:
    root = class_folders(tmp_path)
    whole = encode(grey(np.random.default_rng(0).integers(0, 255, SIDES)), "PNG")
    (root / "ill" / "1.png").write_bytes(whole[: 20 if cut == "header" else -30])
    with pytest.raises(DataFileError, match=r"ill/1\.png .*or go on without.*--skip-unreadable"):
        rows_of(Source(path=root))
    read = rows_of(Source(path=root, skip_unreadable=True))
    assert len(read.x) == len(read.y) == len(read.listing.rows) == 5
    assert list(read.listing.left_out) == ["ill/1.png"]
    assert read.warning is not None
    assert "ill/1.png" in read.warning


def test_lines_without_a_file_are_passed_over_where_files_may_be_missing(folder: Path) -> None:
    text = lines(*lines().splitlines()[1:], "p3/x.png,ill")
    assert labels(labelled(folder, text, skip_unreadable=True)) == SAID


def test_a_folder_of_nothing_readable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="not there"):
        listed(Source(path=tmp_path / "gone"))
    with pytest.raises(DataFileError, match="holds no data files"):
        listed(Source(path=tmp_path))
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataFileError, match="no rows that can be read"):
        listed(Source(path=tmp_path, skip_unreadable=True), labelled=False)


# --- classes ---


def read_as(path: Path, agreed: tuple[str, ...], **settings: object) -> list[int]:
    source = Source.model_validate({"path": path, **settings})
    shape = (1, *SIDES)
    rows = read_site(source, "ann", classes=agreed, shape=shape, columns=None)
    return [int(label) for label in rows.y]


def test_labels_are_the_classes_of_the_charter_or_their_numbers(folder: Path) -> None:
    text = lines(*(f"{name},{k % 2}" for k, name in enumerate(NAMES)))
    assert read_as(folder, ("no", "yes"), labels=table(folder, text)) == [0, 1, 0, 1]
    assert read_as(folder, ("well", "ill"), labels=table(folder, lines())) == [1, 0, 1, 0]


def test_other_classes_than_the_charters_are_refused_until_they_are_told(folder: Path) -> None:
    named = table(folder, lines())
    with pytest.raises(LabelError, match=r"a\.png is labelled 'ill'.* none of the classes no, yes"):
        read_as(folder, ("no", "yes"), labels=named)
    assert read_as(folder, ("no", "yes"), labels=named, classes=("well", "ill")) == [1, 0, 1, 0]
    assert read_as(folder, ("well", "ill"), labels=named, classes=("ill", "well")) == [1, 0, 1, 0]
    for odd in (("well", "ill", "mad"), ("no", "ill")):
        with pytest.raises(LabelError, match="all sites agreed on no, yes"):
            read_as(folder, ("no", "yes"), labels=named, classes=odd)


def test_a_number_is_no_class_by_its_place_where_classes_are_numbers(folder: Path) -> None:
    text = lines(*(f"{name},{k % 2}" for k, name in enumerate(NAMES)))
    with pytest.raises(LabelError, match="labelled '0'"):
        read_as(folder, ("1", "2"), labels=table(folder, text))


def test_another_shape_than_the_charters_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    with pytest.raises(DataFileError, match="the charter says"):
        read_site(Source(path=root), "ann", classes=("ill", "well"), shape=(3, 4, 4), columns=None)


def test_sites_of_several_folders_become_one_study(tmp_path: Path) -> None:
    sources = {
        name: Source(path=class_folders(tmp_path / name, classes=classes))
        for name, classes in {"ann": ("ill", "well"), "bob": ("ill", "well", "worse")}.items()
    }
    study = study_of(sources)
    assert study.classes == ("ill", "well", "worse")
    assert [site.name for site in study.sites] == ["ann", "bob"]
    assert [len(site.y) for site in study.sites] == [6, 9]
    assert study.sites[1].y.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert not study.has_patients


def test_one_label_and_a_label_for_every_row_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="has 1 classes"):
        rows_of(Source(path=class_folders(tmp_path / "one", classes=("ill",))))
