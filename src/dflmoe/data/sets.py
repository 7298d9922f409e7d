"""Medical data sets of the benchmark: from a folder of ``.npz`` files to rows, always the same way.

Every constant that scales an input is written here, agreed before anybody saw a row; nothing is
estimated from pooled rows. Nothing is downloaded.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dflmoe.data.duplicates import near_duplicates
from dflmoe.data.layouts.medmnist import SEVERAL_LABELS
from dflmoe.data.published import LAYOUTS
from dflmoe.data.rows import (
    FACTORS,
    Arrays,
    Rows,
    block_majority,
    block_mean,
    coded,
    open_arrays,
    reduction,
    tiles,
)
from dflmoe.errors import DataFileError, MissingExtraError, OptionError

AGE_CENTRE, AGE_SCALE = 60.0, 15.0  # years
HEART_RATE = (70.0, 15.0)  # centre and scale, beats a minute
BEATS = (0.9, 0.2)  # centre and scale, seconds between beats
CLIP = 5.0
"""Series are cut at this many scales from their centre."""

TILE = 48
"""Side of DRIVE's tiles in pixels, unless another is asked for."""


def load_set(
    name: str,
    root: Path | None,
    *,
    side: int | None = None,
    per_group: int | None = None,
    seed: int = 0,
) -> Rows:
    """Read a data set into rows, scaled by published constants, with the groups to keep whole.

    Args:
        name: One of `NAMES`. ``heart_disease`` comes with the package; all others are read.
        root: Folder with one folder for each set.
        side: Height and width of images in pixels; ``None`` as they are stored, and tiles of 48
            for ``drive``, which is cut into those that lie wholly inside the field of view. Images
            are reduced by exact block means; ``histology_sr`` is cropped at the centre.
        per_group: Rows kept at most of each group: spread evenly over a series, drawn otherwise.
        seed: Of these draws.

    Raises:
        DataFileError: The folder or file is missing or unreadable, or its arrays do not fit.
        PickleError: An array holds pickled objects.
        OptionError: The set is unknown, or an option does not fit it.
        MissingExtraError: A library is not installed.
    """
    if why := why_not(name):
        raise OptionError(f"data set {name!r} {why}")
    if per_group is not None and per_group < 1:
        raise OptionError(f"data set {name!r}: per_group must be 1 or more, not {per_group}")
    if side is not None and (name not in SIDED or side < 1):
        raise OptionError(
            f"data set {name!r} cannot have side {side}; its rows "
            + ("are images of 1 pixel or more" if name in SIDED else "are no images")
        )
    if name == "heart_disease":
        rows = _embedded()
    elif name in LAYOUTS:
        rows = LAYOUTS[name](root, side)
    else:
        rows = READERS[name](open_arrays(FOLDERS.get(name, name), root), side)
    if per_group is not None:
        rows = rows.take(_kept(rows, per_group, seed))
    return rows.checked()


def is_at_hand(name: str, root: Path | None) -> bool:
    """Return whether a data set is embedded or has its folder where data sets lie."""
    if name == "heart_disease":
        return True
    return root is not None and (root / FOLDERS.get(name, name)).is_dir()


def _kept(rows: Rows, count: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``count`` rows of each group; a group's draw depends on no other group."""
    kept = []
    for group in np.unique(rows.group):
        own = np.flatnonzero(rows.group == group)
        rng = np.random.default_rng((seed, int(group)))
        if len(own) > count and rows.kind == "series":  # files are in the order of time
            own = own[np.floor((np.arange(count) + rng.random()) * len(own) / count).astype(int)]
        elif len(own) > count:
            own = rng.choice(own, count, replace=False)
        kept.append(own)
    return np.sort(np.concatenate(kept))


def _scaled(images: NDArray[np.uint8], factor: int = 1) -> NDArray[np.float32]:
    """Return ``[row, channel, height, width]`` in -1..1."""
    x = block_mean(np.moveaxis(images, 3, 1) if images.ndim == 4 else images[:, None], factor)  # noqa: PLR2004
    return x / np.float32(127.5) - np.float32(1)


def _embedded() -> Rows:
    try:
        from dflmoe.data import tables  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise MissingExtraError(
            f"tables need {error.name}; install it with: pip install 'dflmoe[pilot]'"
        ) from error
    study = tables.embedded_study()
    names, y = [s.name for s in study.sites], np.concatenate([s.y for s in study.sites])
    x = np.nan_to_num(np.concatenate([s.x for s in study.sites]), nan=0.0)  # the centre
    site = np.repeat(np.arange(len(names)), [len(s.y) for s in study.sites])
    patient, classes = np.arange(len(y)), study.classes
    return Rows("heart_disease", "table", x, y, patient, "patient", classes, site, tuple(names))


def _tcga(file: Arrays, _: int | None) -> Rows:
    x = file.get("x", "row feature").astype(np.float32)
    years = np.array([f.startswith("age") for f in file.names("feature_names")])
    if len(years) != x.shape[1] or years.sum() != 1:
        raise DataFileError(f"data file {file.path}: feature_names must name each x and one age")
    x[:, years] = (x[:, years] - AGE_CENTRE) / AGE_SCALE
    classes, sites = ("no event", "event"), file.names("site_names")
    y, site = file.codes("event", classes), file.codes("site", sites)
    return Rows("tcga_brca", "table", x, y, np.arange(len(x)), "patient", classes, site, sites)


def _images(file: Arrays, side: int | None) -> Rows:
    small = side == 28 and "x28" in file.arrays  # noqa: PLR2004 - MedMNIST's side
    images = file.images("x28" if small else "x", "row height width")
    factor = reduction(file.path, images.shape, side)
    classes = file.names("class_names")
    y = file.codes("y", classes)
    group = _copies(file.path, file.path.stat().st_mtime_ns)
    by = "near-duplicates; no patient ids"
    return Rows(file.path.stem, "image", _scaled(images, factor), y, group, by, classes)


@functools.cache
def _copies(path: Path, changed_ns: int) -> NDArray[np.int64]:  # noqa: ARG001 - a new file is read
    images = open_arrays(path.stem, path.parents[1]).images("x", "row height width")
    group = near_duplicates(images)
    group.flags.writeable = False  # it is shared
    return group


def _segmented(file: Arrays) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, masks = file.images("image"), file.images("mask", "row height width")
    if masks.shape != images.shape[:3]:
        raise DataFileError(
            f"data file {file.path}: masks {list(masks.shape)} do not match images "
            f"{list(images.shape[:3])}"
        )
    if masks.max() > 1:
        raise DataFileError(f"data file {file.path}: mask holds {masks.max()}; it may hold 0 and 1")
    return images, masks.astype(np.int64)


def _nuclei(file: Arrays, side: int | None) -> Rows:
    return _masked(file, side, group=file.groups("image_id"), by="image", thing="nucleus")


def _polyps(file: Arrays, side: int | None) -> Rows:
    """Return polyp images; frames of one sequence are one group, as they show one polyp."""
    stems = [n.rpartition("/")[2] for n in file.get("image_name", "row", "U")]
    sequence = ["_".join(s.split("_")[:2]) if s.startswith("fine_") else s for s in stems]
    return _masked(file, side, group=coded(np.array(sequence)), by="sequence", thing="polyp")


def _masked(
    file: Arrays, side: int | None, *, group: NDArray[np.int64], by: str, thing: str
) -> Rows:
    images, masks = _segmented(file)
    factor, sites = reduction(file.path, images.shape, side), file.names("site_names")
    classes = ("background", thing)
    y = block_majority(masks, factor, len(classes))
    x, site = _scaled(images, factor), file.codes("site", sites)
    return Rows(file.path.stem, "segmentation", x, y, group, by, classes, site, sites)


def _drive(file: Arrays, side: int | None) -> Rows:
    """Return the tiles that lie wholly inside the field of view, from a grid about the centre."""
    images, masks = _segmented(file)
    inside = file.images("fov", "row height width")
    if inside.shape != masks.shape:
        raise DataFileError(f"data file {file.path}: fov does not match the images")
    side = TILE if side is None else side
    if side > min(masks.shape[1:]):
        raise OptionError(f"side {side} is more than the images of {file.path} have")
    tiled = [tiles(values, side) for values in (images, masks, inside)]
    whole = tiled[2].all((2, 3))
    group = np.repeat(file.groups("image_id"), whole.sum(1))
    x, y = _scaled(tiled[0][whole]), tiled[1][whole]
    return Rows("drive", "segmentation", x, y, group, "image", ("background", "vessel"))


def _series(file: Arrays, _: int | None, *, by: str, part: str, unit: tuple[float, float]) -> Rows:
    x = file.get("x", "row time").astype(np.float32)
    return _stretches(file.path.stem, file, x, by=by, part=part, unit=unit)


def _stretches(
    name: str,
    file: Arrays,
    x: NDArray[np.floating],
    *,
    by: str,
    part: str,
    unit: tuple[float, float],
) -> Rows:
    """Return stretches of a signal in a unit, with the labels and groups of a file."""
    centre, scale = unit
    classes, group = file.names("class_names"), file.codes(part, file.names(f"{part}_names"))
    cut = np.asarray(np.clip((x - centre) / scale, -CLIP, CLIP), dtype=np.float32)[:, None]
    return Rows(name, "series", cut, file.codes("y", classes), group, by, classes)


def _beats(file: Arrays, _: int | None) -> Rows:
    """Return the heart rates of Apnea-ECG as beat intervals, sampled like those of sleep_slpdb.

    150 s about the centre of each window at 2 Hz, in the same unit: rows of the same kind from
    other people and another device, for federations on sleep_slpdb whose public rows must be
    nobody's.
    """
    rates = file.get("x", "row time").astype(np.float32)
    wanted = rates.shape[1] / 2 + (np.arange(300) - 149.5) / 2
    intervals = 60 / np.maximum(rates, 20)
    x = np.stack([np.interp(wanted, np.arange(rates.shape[1]), row) for row in intervals])
    return _stretches("apnea_beats", file, x, by="recording", part="record", unit=BEATS)


def _histology(file: Arrays, side: int | None) -> Rows:
    """Return crops about the centre, on the grid of the coarsest input: all stay aligned."""
    sharp = np.moveaxis(file.images("x"), 3, 1)
    size, most = min(sharp.shape[2:]), max(FACTORS)
    side = size if side is None else side
    if side > size or side % most:
        raise OptionError(
            f"side {side} does not fit the images of {file.path}: it must be a multiple of {most} "
            f"up to {size}, as they are reduced {most} times"
        )
    start = [(length - side) // 2 // most * most for length in sharp.shape[2:]]
    coarse = {}
    for factor in FACTORS:
        inputs = np.moveaxis(file.images(f"x_lr{factor}"), 3, 1)
        if inputs.shape != (*sharp.shape[:2], *(n // factor for n in sharp.shape[2:])):
            raise DataFileError(
                f"data file {file.path}: x_lr{factor} {list(inputs.shape)} does not match x "
                f"{list(sharp.shape)}"
            )
        coarse[factor] = _cropped(inputs, [s // factor for s in start], side // factor)
    sites = file.names("site_names")
    site, group, y = file.codes("site", sites), file.groups("group"), _cropped(sharp, start, side)
    by = "slide or image"
    x = coarse[FACTORS[0]]
    return Rows("histology_sr", "super_resolution", x, y, group, by, (), site, sites, coarse)


def _cropped(images: NDArray[np.uint8], start: list[int], side: int) -> NDArray[np.float32]:
    cut = images[:, :, start[0] : start[0] + side, start[1] : start[1] + side]
    return cut.astype(np.float32) / np.float32(255)


READERS: Mapping[str, Callable[[Arrays, int | None], Rows]] = {
    "tcga_brca": _tcga,
    "pneumoniamnist": _images,
    "busi": _images,
    "brain_tumor_mri": _images,
    "nuclei_dsb2018": _nuclei,
    "drive": _drive,
    "polyp_mini": _polyps,
    "sleep_slpdb": functools.partial(_series, part="subject", by="subject", unit=BEATS),
    "apnea_beats": _beats,
    "apnea_hr": functools.partial(_series, part="record", by="recording", unit=HEART_RATE),
    "histology_sr": _histology,
}
NAMES = ("heart_disease", *READERS, *LAYOUTS)
SIDED = frozenset(NAMES) - {
    "heart_disease",
    "tcga_brca",
    "sleep_slpdb",
    "apnea_beats",
    "apnea_hr",
    "sleep_edf",
}
FOLDERS: Mapping[str, str] = {"apnea_beats": "apnea_hr", "breakhis_sr": "breakhis"}
"""Where a set lies that has no folder of its own name."""


def why_not(name: str) -> str:
    """Return why there is no data set of a name; nothing if there is one."""
    if name in NAMES:
        return ""
    if name == SEVERAL_LABELS:
        return "has several labels a picture, and one is needed; choose another set of MedMNIST"
    return f"is unknown; choose one of {', '.join(NAMES)}"


def other_people(name: str, own: str) -> str:
    """Return the name of a set if it is of other people than one's own.

    Raises:
        OptionError: It lies in the same file.
    """
    if FOLDERS.get(name, name) == FOLDERS.get(own, own):
        raise OptionError(
            f"set {name!r} has the very patients of the sites, who learn set {own!r}; "
            "name a set of other people"
        )
    return name
