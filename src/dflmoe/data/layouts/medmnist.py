"""MedMNIST: small pictures with one class each, from the publisher's own ``.npz`` files.

The published parts are joined and split anew, as nobody knows whether they share patients.

References:
    Yang et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image
    classification, 2023.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.arrays import read_npz
from dflmoe.data.duplicates import near_duplicates
from dflmoe.data.layouts.files import folder_of
from dflmoe.data.medmnist import MedMnist, medmnist_of
from dflmoe.data.rows import Rows, block_mean
from dflmoe.errors import DataFileError, LabelError, OptionError

SIZES = (28, 64, 128, 224)
"""Pixels of the pictures that are published: ``NAME.npz``, ``NAME_64.npz``, and so on."""

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte"),
        *("monocyte", "neutrophil", "platelet"),
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        *("basal cell carcinoma", "benign keratosis-like lesions", "dermatofibroma", "melanoma"),
        *("melanocytic nevi", "vascular lesions"),
    ),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
        *("normal colon mucosa", "cancer-associated stroma"),
        "colorectal adenocarcinoma epithelium",
    ),
    "octmnist": (*("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),),
    "tissuemnist": (
        *("collecting duct, connecting tubule", "distal convoluted tubule"),
        *("glomerular endothelial cells", "interstitial endothelial cells", "leukocytes"),
        *("podocytes", "proximal tubule segments", "thick ascending limb"),
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""Sets with one class a picture, and the published names of their classes."""

SEVERAL_LABELS = "chestmnist"
"""The set that has several."""


def medmnist(root: Path | None, side: int | None, *, name: str) -> Rows:
    """Return a set of MedMNIST; grades (RetinaMNIST) are classes.

    Args:
        root: Folder with the folder ``medmnist``.
        side: Pixels; those of the smallest published pictures that it divides, averaged down.
        name: Of `CLASSES`.

    Raises:
        OptionError: The side divides no published one.
        DataFileError: The file is missing or not whole, or its pictures are of another size.
        ColumnError: A published part is missing.
        LabelError: There are several labels a picture, or not the classes that are published.
        MissingExtraError: The library ``imagehash`` is not installed.
    """
    side = side or SIZES[0]
    size = next((size for size in SIZES if size % side == 0), None)
    if size is None:
        raise OptionError(
            f"data set {name!r} cannot have side {side}; choose one that divides "
            f"{', '.join(map(str, SIZES))}"
        )
    path = folder_of(root, "medmnist") / f"{name}{'' if size == SIZES[0] else f'_{size}'}.npz"
    if not path.is_file():
        raise DataFileError(f"data file {path} is not there; copy it there as MedMNIST ships it")
    group = _copies(path, path.stat().st_mtime_ns)
    x, y, found = _read(path)
    if x.shape[2:] != (size, size):
        raise DataFileError(
            f"data file {path} has pictures of {list(x.shape[2:])} pixels, and {size} a side are "
            f"published; copy it again"
        )
    if len(found) != len(CLASSES[name]):
        raise LabelError(
            f"data file {path} has {len(found)} classes, and {len(CLASSES[name])} are published; "
            f"copy it again"
        )
    x = x if size == side else block_mean(x, size // side)
    return Rows(name, "image", x, y, group, "near-duplicates; no patient ids", CLASSES[name])


def _read(path: Path) -> MedMnist:
    rows = medmnist_of(path, read_npz(path))
    if rows is None:
        raise DataFileError(f"data file {path} has no pictures of MedMNIST; copy it again")
    return rows


@functools.cache
def _copies(path: Path, changed_ns: int) -> NDArray[np.int64]:  # noqa: ARG001 - a new file is read
    grey = ((_read(path).x.mean(1) + 1) * np.float32(127.5)).round().astype(np.uint8)
    group = near_duplicates(grey)
    group.flags.writeable = False  # it is shared
    return group
