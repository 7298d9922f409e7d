"""Data sets in the folders that their publishers ship, read as they are.

Each is looked for under its name in the folder of data sets. Pictures are cut to a centred square
and averaged down to the side that is asked for. Where files tell whose they are, rows of a patient
are a group; where they do not, near-copies are, and the rows say so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.duplicates import MAX_BITS, MAX_DISTANCE, near_duplicates
from dflmoe.data.rows import FACTORS, Rows, block_mean, coded
from dflmoe.errors import DataFileError, MissingExtraError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 64
"""Pixels of a picture unless others are asked for."""

SLIDE = re.compile(r"SOB_(?P<what>[BM])_[A-Z]+-(?P<patient>\d+-[^-]+)-\d+-\d+\.png")
"""How BreaKHis names a picture: what it shows, whose slide, magnification and number."""

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}

POLYPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Kvasir-SEG": (("images", "masks"),),
    "CVC-ClinicDB": (("Original", "Ground Truth"), ("images", "masks")),
    "CVC-ColonDB": (("images", "masks"),),
    "ETIS-LaribPolypDB": (("images", "masks"), ("ETIS-LaribPolypDB", "Ground Truth")),
}
"""Sets of polyps, and the folders that pictures and masks lie in, as some or others ship them."""

EYES = {
    "N": "normal",
    "D": "diabetes",
    "G": "glaucoma",
    "C": "cataract",
    "A": "macular degeneration",
    "H": "hypertension",
    "M": "myopia",
    "O": "other",
}
"""The letters that ODIR-5K names what an eye shows by."""


def breakhis(root: Path | None, side: int | None) -> Rows:
    """Return BreaKHis: benign or malignant, at four magnifications, by patient.

    References:
        Spanhol et al., A Dataset for Breast Cancer Histopathological Image Classification, 2016.
    """
    found = _slides(root)
    y = np.array([name["what"] == "M" for _, name in found], dtype=np.int64)
    if y.all() or not y.any():
        raise DataFileError(
            f"BreaKHis holds {'malignant' if y.all() else 'benign'} pictures only; unpack the "
            f"archive as it is, whole"
        )
    group = coded(np.array([name["patient"] for _, name in found]))
    x = _scaled(_pictures([file for file, _ in found], side or SIDE))
    return Rows("breakhis", "image", x, y, group, "patient", ("benign", "malignant"))


def breakhis_sr(root: Path | None, side: int | None) -> Rows:
    """Return BreaKHis to be made sharp again, from a half, a quarter and an eighth of its side.

    Raises:
        OptionError: The side cannot be divided by eight.
    """
    found, side = _slides(root), side or SIDE
    if side % max(FACTORS):
        raise OptionError(f"side {side} does not fit breakhis_sr; it takes multiples of 8")
    pictures = _pictures([file for file, _ in found], side)
    y = np.moveaxis(pictures, 3, 1).astype(np.float32) / np.float32(255)
    coarse = {factor: block_mean(y, factor) for factor in FACTORS}
    group = coded(np.array([name["patient"] for _, name in found]))
    x = coarse[FACTORS[0]]
    return Rows("breakhis_sr", "super_resolution", x, y, group, "patient", (), coarse=coarse)


def _slides(root: Path | None) -> list[tuple[Path, re.Match[str]]]:
    """Return the pictures of BreaKHis and what their names say.

    Raises:
        DataFileError: There are none.
    """
    folder = _folder(root, "breakhis", "BreaKHis_v1/histology_slides/breast")
    named = [(file, SLIDE.fullmatch(file.name)) for file in sorted(folder.rglob("*.png"))]
    found = [(file, name) for file, name in named if name is not None]
    if not found:
        raise DataFileError(
            f"{folder} holds no picture that is named as BreaKHis names them "
            f"(SOB_B_A-14-22549AB-40-001.png); unpack the archive as it is"
        )
    return found


def polyps(root: Path | None, side: int | None) -> Rows:
    """Return polyps and their masks from up to four hospitals' sets, each a natural site.

    References:
        Jha et al., Kvasir-SEG, 2020; Bernal et al., WM-DOVA maps (CVC-ClinicDB), 2015, and Towards
        Automatic Polyp Detection with a Polyp Appearance Model (CVC-ColonDB), 2012; Silva et al.,
        Toward Embedded Detection of Polyps in WCE Images (ETIS), 2014.
    """
    top, side = _folder(root, "polyps", "."), side or SIDE
    pictures: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.bool_]] = []
    group: list[NDArray[np.int64]] = []
    site: list[NDArray[np.int64]] = []
    names: list[str] = []
    for name in POLYPS:
        pairs = _pairs(top / name) if (top / name).is_dir() else []
        if not pairs:
            continue
        own = _pictures([picture for picture, _ in pairs], side)
        pictures.append(own)
        masks.append(_pictures([mask for _, mask in pairs], side, mode="L")[..., 0] > 127)  # noqa: PLR2004
        grey = own.mean(3).round().astype(np.uint8)
        copies = near_duplicates(grey, max_bits=MAX_BITS, max_distance=MAX_DISTANCE)
        group.append(copies + sum(int(one.max()) + 1 for one in group))
        site.append(np.full(len(own), len(names)))
        names.append(name)
    if not names:
        raise DataFileError(
            f"{top} holds none of {', '.join(POLYPS)}; unpack at least one of them there"
        )
    return Rows(
        "polyps",
        "segmentation",
        _scaled(np.concatenate(pictures)),
        np.concatenate(masks).astype(np.int64),
        np.concatenate(group),
        "near-duplicates; the files name no sequence",
        ("background", "polyp"),
        np.concatenate(site),
        tuple(names),
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return pictures with the masks of the same name.

    Raises:
        DataFileError: The folders are not there, or a picture has no mask.
    """
    for pictures, masks in POLYPS[folder.name]:
        if not (folder / pictures).is_dir() or not (folder / masks).is_dir():
            continue
        mask = {_number(file): file for file in _files(folder / masks)}
        found = [(file, mask.get(_number(file))) for file in _files(folder / pictures)]
        alone = [file.name for file, other in found if other is None]
        if alone:
            raise DataFileError(
                f"{folder / masks} has no mask for {alone[0]} ({len(alone)} are missing); unpack "
                f"the archive as it is"
            )
        return [(file, other) for file, other in found if other is not None]
    wanted = " or ".join("/".join(pair) for pair in POLYPS[folder.name])
    raise DataFileError(f"{folder} lacks its folders {wanted}; unpack the archive as it is")


def _number(file: Path) -> str:
    """Return what a picture and its mask have in common: the name, or its number (p1, 1)."""
    return re.sub(r"^p(?=\d)", "", file.stem.lower())


def odir5k(root: Path | None, side: int | None) -> Rows:
    """Return ODIR-5K: what an eye shows, one of eight, by patient; eyes of one label only.

    References:
        Peking University International Competition on Ocular Disease Intelligent Recognition, 2019.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise _lacking(error) from error
    folder = _folder(root, "odir5k", ".")
    table = folder / "full_df.csv"
    if not table.is_file():
        raise DataFileError(
            f"{folder} has no full_df.csv, which names each eye's patient and label"
        )
    frame = pd.read_csv(table, dtype={"ID": str})
    missing = {"ID", "labels", "filename"} - set(frame.columns)
    if missing:
        raise DataFileError(
            f"{table} has no column {min(missing)!r}; take the file as it is shipped"
        )
    letters = frame["labels"].str.replace(r"[^NDGCAHMO]", "", regex=True)
    frame = frame.assign(letter=letters)[letters.str.len() == 1]
    lie = {file.name: file for file in _files(folder)}
    gone = [name for name in frame["filename"] if name not in lie]
    if gone or frame.empty:
        raise DataFileError(
            f"{folder} lacks {len(gone)} of the {len(frame)} pictures that {table.name} names"
            f"{f', {gone[0]} first' if gone else ''}; unpack the archive as it is, whole"
        )
    files = [lie[name] for name in frame["filename"]]
    y = frame["letter"].map({letter: k for k, letter in enumerate(EYES)}).to_numpy(np.int64)
    group = coded(frame["ID"].to_numpy(dtype=str))
    x = _scaled(_pictures(files, side or SIDE))
    return Rows("odir5k", "image", x, y, group, "patient", tuple(EYES.values()))


LAYOUTS: Mapping[str, Callable[[Path | None, int | None], Rows]] = {
    "breakhis": breakhis,
    "breakhis_sr": breakhis_sr,
    "polyps": polyps,
    "odir5k": odir5k,
}
"""Sets that are read from folders as their publishers ship them."""

STANDS_IN: Mapping[str, str] = {
    "breakhis": "brain_tumor_mri",
    "polyps": "nuclei_dsb2018",
    "odir5k": "brain_tumor_mri",
}
"""The nearest set at hand where one of these is not: of the same kind, with enough rows."""


def _folder(root: Path | None, name: str, inside: str) -> Path:
    """Return the folder of a set.

    Raises:
        DataFileError: It is not there.
    """
    where = f"set DFLMOE_DATA to the folder that holds {name}/"
    if root is None:
        raise DataFileError(f"data set {name!r} is read from a folder and none is given; {where}")
    folder = root / name / inside
    if not folder.is_dir():
        raise DataFileError(f"data set folder {folder} is not there; {where}, unpacked as it is")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def _pictures(files: Sequence[Path], side: int, mode: str = "RGB") -> NDArray[np.uint8]:
    """Return pictures as ``[row, side, side, channel]``: the centred square, averaged down.

    Raises:
        DataFileError: One cannot be read.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise _lacking(error) from error
    rows = []
    for file in files:
        try:
            with Image.open(file) as picture:
                rows.append(np.asarray(_square(picture.convert(mode), side), dtype=np.uint8))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataFileError(
                f"picture {file} cannot be read: {error}; unpack it anew"
            ) from error
    return np.stack(rows).reshape(len(rows), side, side, -1)


def _square(picture: "Image", side: int) -> "Image":
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    box = (left, top, left + short, top + short)
    return picture.resize((side, side), resample=4, box=box)  # 4: the mean of each box


def _scaled(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``[row, channel, height, width]`` in -1..1."""
    x = np.moveaxis(pictures, 3, 1).astype(np.float32)
    scaled: NDArray[np.float32] = x / np.float32(127.5) - np.float32(1)
    return scaled


def _lacking(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"this data set needs {error.name}; install it with: pip install 'dflmoe[bench]'"
    )
