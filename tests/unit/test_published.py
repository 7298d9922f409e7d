"""Sets in their publishers' folders: miniature files of the very same layout are read, or named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dflmoe.data.published import LAYOUTS
from dflmoe.data.sets import load_set
from dflmoe.errors import DataFileError, OptionError

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (20, 14), value: int | None = None) -> Path:
    """Write a picture of noise, or of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    pixels = RNG.integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (20, 14)) -> None:
    """Write a mask whose left half is the thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, : size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def breakhis(root: Path) -> None:
    top = root / "breakhis/BreaKHis_v1/histology_slides/breast"
    for what, kind, slide in (
        ("benign", "adenosis", "SOB_B_A_14-22549AB"),
        ("malignant", "ductal_carcinoma", "SOB_M_DC_14-2773"),
        ("malignant", "lobular_carcinoma", "SOB_M_LC_14-12204"),
    ):
        for zoom in (40, 100, 200, 400):
            stem = slide.replace("_14", "-14")
            for number in (1, 2):
                name = f"{stem}-{zoom}-{number:03}.png"
                picture(top / what / "SOB" / kind / slide / f"{zoom}X" / name)


def polyps(root: Path) -> None:
    top = root / "polyps"
    for k in range(3):
        picture(top / "Kvasir-SEG/images" / f"cju{k}.jpg")
        mask(top / "Kvasir-SEG/masks" / f"cju{k}.jpg")
        picture(top / "CVC-ClinicDB/Original" / f"{k + 1}.tif")
        mask(top / "CVC-ClinicDB/Ground Truth" / f"{k + 1}.tif")
        picture(top / "ETIS-LaribPolypDB/ETIS-LaribPolypDB" / f"{k + 1}.tif")
        mask(top / "ETIS-LaribPolypDB/Ground Truth" / f"p{k + 1}.tif")


MADE: dict[str, Callable[[Path], None]] = {"breakhis": breakhis, "polyps": polyps}


@pytest.mark.parametrize("name", MADE)
def test_a_set_is_read_from_its_publisher_s_folders(name: str, tmp_path: Path) -> None:
    MADE[name](tmp_path)
    rows = load_set(name, tmp_path, side=8)
    assert rows.x.shape[1:] == (3, 8, 8)
    assert -1 <= rows.x.min() < rows.x.max() <= 1
    assert load_set(name, tmp_path).x.shape[2] == 64


def test_pictures_of_a_patient_are_one_group_at_all_magnifications(tmp_path: Path) -> None:
    breakhis(tmp_path)
    rows = load_set("breakhis", tmp_path, side=8)
    assert np.bincount(rows.group).tolist() == [8, 8, 8]
    assert rows.grouped_by == "patient"
    assert np.bincount(rows.y).tolist() == [8, 16]


def test_each_set_of_polyps_is_a_site_and_masks_go_with_their_pictures(tmp_path: Path) -> None:
    polyps(tmp_path)
    rows = load_set("polyps", tmp_path, side=8)
    assert rows.site_names == ("Kvasir-SEG", "CVC-ClinicDB", "ETIS-LaribPolypDB")
    assert rows.site is not None
    assert np.bincount(rows.site).tolist() == [3, 3, 3]
    assert (rows.y[:, :, :4] == 1).all()  # the centred square has the left half, too
    assert (rows.y[:, :, 4:] == 0).all()
    pairs = {(int(g), int(s)) for g, s in zip(rows.group, rows.site, strict=True)}
    assert len({g for g, _ in pairs}) == len(pairs)


def colon_db(root: Path, inside: str) -> Path:
    """Write CVC-ColonDB as its authors' archive has it: four files a frame, in one folder."""
    folder = root / "polyps/CVC-ColonDB" / inside
    for k in (1, 2, 10):
        picture(folder / f"{k}.bmp")
        mask(folder / f"p{k}.bmp")
        for drawing in "sc":  # what shows nothing, and the outline
            picture(folder / f"{drawing}{k}.bmp", value=255)
    return folder


@pytest.mark.parametrize("inside", [".", "CVC-ColonDB"])
def test_pictures_and_masks_in_one_folder_are_told_apart(inside: str, tmp_path: Path) -> None:
    colon_db(tmp_path, inside)
    rows = load_set("polyps", tmp_path, side=8)
    assert rows.site_names == ("CVC-ColonDB",)
    assert len(rows) == 3
    assert rows.x.std((1, 2, 3)).min() > 0  # neither drawings nor masks are taken for pictures
    assert (rows.y == np.repeat([1, 0], 4)).all()


def test_sets_of_polyps_are_read_from_others_folders_as_well(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "polyps/CVC-ColonDB/images" / f"{k}.png")
        mask(tmp_path / "polyps/CVC-ColonDB/masks" / f"{k}.png")
        picture(tmp_path / "polyps/ETIS-LaribPolypDB/images" / f"{k}.png")
        mask(tmp_path / "polyps/ETIS-LaribPolypDB/masks" / f"{k}.png")
    rows = load_set("polyps", tmp_path, side=8)
    assert rows.site_names == ("CVC-ColonDB", "ETIS-LaribPolypDB")
    assert len(rows) == 6


def test_a_picture_is_cut_to_its_middle_and_averaged_down(tmp_path: Path) -> None:
    breakhis(tmp_path)
    (first, *_) = sorted((tmp_path / "breakhis").rglob("*.png"))
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = np.indices((8, 8)).sum(0)[..., None] % 2 * 255
    Image.fromarray(pixels).save(first)
    rows = load_set("breakhis", tmp_path, side=4)
    np.testing.assert_allclose(rows.x[0], 0, atol=0.01)  # half of each box is white


def spoilt(root: Path, what: str) -> None:
    """Write a set of which something is not as its publisher ships it."""
    if what == "other names":
        picture(root / "breakhis/BreaKHis_v1/histology_slides/breast/1.png")
    elif what == "one class":
        breakhis(root)
        shutil.rmtree(root / "breakhis/BreaKHis_v1/histology_slides/breast/malignant")
    elif what == "no set":
        (root / "polyps").mkdir()
    elif what == "no folder":
        picture(root / "polyps/Kvasir-SEG/other/a.jpg")
    elif what == "no numbers":
        picture(root / "polyps/CVC-ColonDB/a.bmp")
    elif what == "no mask":
        polyps(root)
        (root / "polyps/Kvasir-SEG/masks/cju1.jpg").unlink()
    elif what == "no picture":
        polyps(root)
        (root / "polyps/ETIS-LaribPolypDB/ETIS-LaribPolypDB/2.tif").unlink()
    elif what == "no mask beside":
        (colon_db(root, ".") / "p10.bmp").unlink()
    elif what == "no masks beside":
        picture(root / "polyps/CVC-ColonDB/images/1.png")
    elif what == "half a picture":
        polyps(root)
        file = root / "polyps/Kvasir-SEG/images/cju1.jpg"
        file.write_bytes(file.read_bytes()[:300])


@pytest.mark.parametrize(
    ("name", "what", "sentence"),
    [
        ("breakhis", "nothing", "is not there; set DFLMOE_DATA"),
        ("breakhis", "other names", "named as BreaKHis names them"),
        ("breakhis", "one class", "holds benign pictures only"),
        ("polyps", "no set", "holds none of Kvasir-SEG"),
        ("polyps", "no folder", "lacks its images and masks"),
        ("polyps", "no numbers", r"lacks its images and masks or pictures 1\.\* beside masks p1"),
        ("polyps", "no mask", r"has no mask for cju1.jpg \(1 are missing"),
        ("polyps", "no picture", "has no picture for p2.tif"),
        ("polyps", "no mask beside", "has no mask for 10.bmp"),
        ("polyps", "no masks beside", "has no mask for 1.png"),
        ("polyps", "half a picture", "cju1.jpg cannot be read as a picture"),
    ],
)
def test_a_layout_that_is_not_the_publisher_s_is_named(
    name: str, what: str, sentence: str, tmp_path: Path
) -> None:
    spoilt(tmp_path, what)
    with pytest.raises(DataFileError, match=sentence):
        load_set(name, tmp_path, side=8)


def test_without_a_folder_of_data_a_set_says_what_to_set() -> None:
    for name in LAYOUTS:
        with pytest.raises(DataFileError, match="none is given; set DFLMOE_DATA"):
            load_set(name, None)


def test_pictures_to_be_made_sharp_again_are_means_of_the_sharp_ones(tmp_path: Path) -> None:
    breakhis(tmp_path)
    rows = load_set("breakhis_sr", tmp_path, side=16)
    assert rows.y.shape[1:] == (3, 16, 16)
    for factor, inputs in rows.coarse.items():
        means = rows.y.reshape(len(rows), 3, 16 // factor, factor, 16 // factor, factor)
        np.testing.assert_allclose(inputs, means.mean((3, 5)), atol=1e-6)
    assert np.bincount(rows.group).tolist() == [8, 8, 8]
    with pytest.raises(OptionError, match="ask for a multiple"):
        load_set("breakhis_sr", tmp_path, side=12)
