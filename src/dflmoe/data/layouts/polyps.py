"""Polyps of the colon with their masks, from the sets of up to four hospitals."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.duplicates import near_duplicates
from dflmoe.data.layouts.files import SIDE, folder_of, pictures_in, pixels, scaled
from dflmoe.data.rows import Rows
from dflmoe.errors import DataFileError

TOGETHER = "."
"""Where pictures and masks lie in one folder: pictures ``1``, their masks ``p1``; also other
drawings of them (``s1``, ``c1``), which are not read."""

POLYPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Kvasir-SEG": (("images", "masks"),),
    "CVC-ClinicDB": (("Original", "Ground Truth"), ("images", "masks")),
    "CVC-ColonDB": (("images", "masks"), (TOGETHER, TOGETHER)),
    "ETIS-LaribPolypDB": (("ETIS-LaribPolypDB", "Ground Truth"), ("images", "masks")),
}
"""Sets of polyps, and the folders that pictures and masks lie in, as some or others ship them."""


def polyps(root: Path | None, side: int | None) -> Rows:
    """Return polyps and their masks from up to four hospitals' sets, each a natural site.

    Raises:
        DataFileError: There is no set, or one is not whole, or a picture cannot be read.
        MissingExtraError: Pillow or ``imagehash`` is not installed.

    References:
        Jha et al., Kvasir-SEG, 2020; Bernal et al., WM-DOVA maps (CVC-ClinicDB), 2015, and Towards
        Automatic Polyp Detection with a Polyp Appearance Model (CVC-ColonDB), 2012; Silva et al.,
        Toward Embedded Detection of Polyps in WCE Images (ETIS), 2014.
    """
    top, side = folder_of(root, "polyps"), side or SIDE
    pictures: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.bool_]] = []
    group: list[NDArray[np.int64]] = []
    site: list[NDArray[np.int64]] = []
    names = tuple(name for name in POLYPS if (top / name).is_dir())
    if not names:
        raise DataFileError(
            f"{top} holds none of {', '.join(POLYPS)}; unpack at least one of them there"
        )
    for number, name in enumerate(names):
        pairs = _pairs(top / name)
        own = pixels([picture for picture, _ in pairs], side)
        pictures.append(own)
        masks.append(pixels([mask for _, mask in pairs], side, mode="L")[..., 0] > 127)  # noqa: PLR2004
        grey = own.mean(3).round().astype(np.uint8)
        copies = near_duplicates(grey)
        group.append(copies + sum(int(one.max()) + 1 for one in group))
        site.append(np.full(len(own), number))
    return Rows(
        "polyps",
        "segmentation",
        scaled(np.concatenate(pictures)),
        np.concatenate(masks).astype(np.int64),
        np.concatenate(group),
        "near-duplicates; the files name no sequence",
        ("background", "polyp"),
        np.concatenate(site),
        names,
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pictures of a set with their masks.

    Raises:
        DataFileError: There are none, or a picture or mask is alone.
    """
    for layout in POLYPS[folder.name]:
        pictures, masks = (_by_number(files) for files in _files(folder, *layout))
        if not pictures:
            continue
        for what, own, other in (("mask", pictures, masks), ("picture", masks, pictures)):
            alone = [own[number].name for number in own if number not in other]
            if alone:
                raise DataFileError(
                    f"{folder} has no {what} for {alone[0]} ({len(alone)} are missing); unpack "
                    f"the archive as it is"
                )
        return [(file, masks[number]) for number, file in pictures.items()]
    wanted = " or ".join(
        "pictures 1.* beside masks p1.*" if TOGETHER in layout else " and ".join(layout)
        for layout in POLYPS[folder.name]
    )
    raise DataFileError(f"{folder} lacks its {wanted}; unpack the archive as it is")


def _files(folder: Path, pictures: str, masks: str) -> tuple[list[Path], list[Path]]:
    """Return the pictures and the masks of one layout; nothing if its folders are not there."""
    if pictures != masks:
        return pictures_in(folder / pictures), pictures_in(folder / masks)
    files = pictures_in(folder)
    return (
        [file for file in files if file.stem.isdigit()],
        [file for file in files if re.fullmatch(r"p\d+", file.stem.lower())],
    )


def _by_number(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by what a picture and its mask have in common: the name, or its number."""
    return {re.sub(r"^p(?=\d)", "", file.stem.lower()): file for file in files}
