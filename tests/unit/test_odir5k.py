"""ODIR-5K: an eye has the label that its keywords and its patient's letters agree on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dflmoe.data.layouts.odir5k import EYES, KEYWORDS, letters_of
from dflmoe.data.sets import load_set
from dflmoe.errors import DataFileError

RNG = np.random.default_rng(0)
COMMA = "\N{FULLWIDTH COMMA}"
SHEET = "ODIR-5K_Training_Annotations(Updated)_V2"
HEADER = (
    "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,"
    "Left-Diagnostic Keywords,Right-Diagnostic Keywords,N,D,G,C,A,H,M,O"
)

PATIENTS: Mapping[str, tuple[str, str, str]] = {
    "0": ("cataract", "normal fundus", "C"),
    "1": ("normal fundus", f"normal fundus{COMMA}lens dust", "N"),
    "2": (
        "moderate non proliferative retinopathy",
        f"laser spot{COMMA}mild nonproliferative retinopathy",
        "DO",
    ),
    "3": ("drusen", "macular epiretinal membrane", "O"),
    "4": ("dry age-related macular degeneration", "low image quality", "A"),
    "5": ("no fundus image", "pathological myopia", "MO"),
    "6": ("hypertensive retinopathy", "white vessel", "H"),
    "7": ("suspected glaucoma", "glaucoma", "G"),
}
"""Keywords of the left and of the right eye, and the letters of the patient."""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (14, 20, 3), dtype=np.uint8)).save(path)


def per_patient(root: Path, table: str = f"{SHEET}.csv", encoding: str = "utf-8-sig") -> Path:
    """Write the publisher's folders, and his spreadsheet as it is saved as CSV."""
    lines = [HEADER]
    for patient, (left, right, letters) in PATIENTS.items():
        for eye in ("left", "right"):
            at = "odir5k/ODIR-5K_Training_Images/ODIR-5K_Training_Dataset"
            picture(root / at / f"{patient}_{eye}.jpg")
        flags = ",".join(str(int(letter in letters)) for letter in EYES)
        files = f"{patient}_left.jpg,{patient}_right.jpg"
        lines.append(f'{patient},60,Female,{files},"{left}","{right}",{flags}')
    path = root / "odir5k" / table
    path.write_text("\n".join(lines), encoding=encoding)
    return path


def per_eye(root: Path) -> Path:
    """Write the table that others ship."""
    lines = ["ID,Patient Age,labels,target,filename"]
    for k, label in enumerate(("['N']", "['D']", "['G']", "['N', 'D']")):
        for eye in ("left", "right"):
            name = f"{k}_{eye}.jpg"
            picture(root / "odir5k/preprocessed_images" / name)
            lines.append(f'{k},60,"{label}",0,{name}')
    path = root / "odir5k/full_df.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("table", [f"{SHEET}.csv", "data.csv"])
def test_an_eye_has_the_label_of_its_own_keywords(table: str, tmp_path: Path) -> None:
    per_patient(tmp_path, table)
    rows = load_set("odir5k", tmp_path, side=8)
    assert "".join("NDGCAHMO"[label] for label in rows.y) == "CNNNDOOAMHGG"
    assert rows.group.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 7, 7]
    assert rows.grouped_by.startswith("patient; 4 of 16 eyes")
    assert rows.x.shape == (12, 3, 8, 8)
    assert -1 <= rows.x.min() < rows.x.max() <= 1
    assert load_set("odir5k", tmp_path).x.shape[2:] == (64, 64)


def test_both_eyes_are_one_patient_and_eyes_of_several_labels_are_left_out(tmp_path: Path) -> None:
    per_eye(tmp_path)
    rows = load_set("odir5k", tmp_path, side=8)
    assert rows.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.grouped_by.startswith("patient; 2 of 8 eyes")


WORDS = st.lists(st.sampled_from([*KEYWORDS, "drusen", "lens dust", "no fundus image"]), max_size=4)


@given(words=WORDS, known=st.sets(st.sampled_from(list(EYES))))
def test_no_eye_has_a_label_that_its_patient_has_not(words: list[str], known: set[str]) -> None:
    letters = letters_of(COMMA.join(words), known)
    assert set(letters) <= known | {"N"}
    assert letters_of(", ".join(reversed(words)), known) == letters
    assert not letters or "no fundus image" not in words
    assert not letters or all(KEYWORDS.get(w, letters) in letters for w in words)


def spoilt(root: Path, what: str) -> None:
    """Write a set of which something is not as it is shipped."""
    if what == "no table":
        (root / "odir5k").mkdir()
    elif what == "spreadsheet":
        per_patient(root).unlink()
        (root / "odir5k" / f"{SHEET}.xlsx").write_bytes(b"PK")
    elif what == "no column":
        per_eye(root).write_text("ID,filename\n1,a.jpg\n")
    elif what == "no keywords":
        path = per_patient(root)
        path.write_text(path.read_text().replace("Right-Diagnostic", "Diagnostic"))
    elif what == "semicolons":
        path = per_patient(root)
        path.write_text(path.read_text().replace(",", ";"))
    elif what == "other letters":
        per_patient(root, encoding="gb18030")
    elif what == "no rows":
        per_patient(root).write_text(HEADER)
    elif what == "no label":
        per_eye(root).write_text("ID,labels,filename\n1,\"['N', 'D']\",0_left.jpg\n")
    elif what == "no picture":
        per_eye(root).write_text("ID,labels,filename\n1,['N'],a.jpg\n")
    elif what == "half":
        per_eye(root)
        (root / "odir5k/preprocessed_images/1_left.jpg").unlink()
    elif what == "no image":
        per_eye(root)
        (root / "odir5k/preprocessed_images/0_left.jpg").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("nothing", "is not there; set DFLMOE_DATA"),
        ("no table", "has no full_df.csv or data.csv"),
        ("spreadsheet", "is a spreadsheet; save it as .*data.csv, a CSV in UTF-8"),
        ("no column", "has no column 'labels'"),
        ("no keywords", "has no column 'Right-Diagnostic Keywords'"),
        ("semicolons", "has no column 'ID'"),
        ("other letters", "cannot be read as CSV in UTF-8"),
        ("no rows", "has no rows"),
        ("no label", "lacks 0 of the 0 pictures"),
        ("no picture", "lacks 1 of the 1 pictures"),
        ("half", "lacks 1 of the 6 pictures .*, 1_left.jpg first"),
        ("no image", "0_left.jpg cannot be read"),
    ],
)
def test_a_layout_that_is_not_the_publisher_s_is_named(
    what: str, sentence: str, tmp_path: Path
) -> None:
    spoilt(tmp_path, what)
    with pytest.raises(DataFileError, match=sentence):
        load_set("odir5k", tmp_path, side=8)
