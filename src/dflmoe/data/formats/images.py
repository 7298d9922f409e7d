"""PNG, JPEG and TIFF, by Pillow.

Values are told in fractions of the largest that a file can hold, so that films of 8 and of 16 bits
are of one range; colours of 16 bits are read as of 8. Where the settings give a range, values stay
as they stand in the file. A picture is turned as its EXIF orientation says. Each page of a TIFF is
a row, but for masks and smaller copies of other pages. What is transparent in places is refused:
nobody knows what is behind it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from dflmoe.data.formats import FORMS, Part, suffix_of
from dflmoe.data.formats.apart import apart
from dflmoe.data.formats.decoding import MAX_PIXELS, decoding
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it speaks of damage, and so do we


class Kind(NamedTuple):
    """What the pixels of a picture are turned into: a mode of Pillow's, and its largest value."""

    mode: str
    top: float

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey."""
        return 3 if self.mode == "RGB" else 1


KINDS = {
    "1": Kind("1", 1),
    **{mode: Kind("L", 255) for mode in ("L", "LA")},
    **{mode: Kind("RGB", 255) for mode in ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")},
    **{mode: Kind(mode, 65535) for mode in ("I;16", "I;16L", "I;16B", "I;16N")},
    **{mode: Kind(mode, np.inf) for mode in ("I", "F")},
}
"""By the modes that Pillow finds in files; all others, such as CMYK, are refused."""

PAGE_KIND, PHOTOMETRIC, BITS = 254, 262, 258
"""Tags of a TIFF page: what it is, whether its zero is white, and how long its numbers are."""

COPY_OR_MASK, WHITE_IS_ZERO = 0b101, 0

ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations by which height and width change places."""


class Images:
    """Image files (``Format``)."""

    extent: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, source: Source) -> None:
        self._in_fractions = source.range is None

    def belongs(self, file: Path) -> bool:
        """See ``Format``."""
        return suffix_of(file) in FORMS["images"][2]

    def parts(self, file: Path) -> Sequence[Part]:
        """See ``Format``."""
        with decoding(file, "an image"), _opened(file) as image:
            if image.format == "PNG" and getattr(image, "is_animated", False):
                raise DataFileError(f"{file} is an animation; save one picture of it as a file")
            found = []
            for at in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 1):
                image.seek(at)
                if at == 0 or not _tag(image, PAGE_KIND, 0) & COPY_OR_MASK:
                    found.append(self._part(image, at, file))
            return found

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        """See ``Format``."""
        with decoding(file, "an image"), _opened(file) as image:
            image.seek(at)
            self._part(image, at, file)
            kind = _kind(image)
            inverted = kind.mode == "I;16" and _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO
            turned = _decoded(image, file)
            if not _opaque(turned):
                raise DataFileError(
                    f"{file} is transparent in places; save it without transparency"
                )
            values = np.array(turned.convert(kind.mode), dtype=np.float32)
        if inverted:  # the one kind of film that Pillow leaves as a negative
            values = kind.top - values
        if self._in_fractions:
            values /= kind.top
        return (
            values[None] if kind.channels == 1 else np.ascontiguousarray(values.transpose(2, 0, 1))
        )

    def _part(self, image: Image.Image, at: int, file: Path) -> Part:
        """Return what a page is, from its header.

        Raises:
            DataFileError: It is none that can be read.
        """
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataFileError(
                f"{file} claims to be of {width} x {height} pixels; save it smaller"
            )
        if image.mode not in KINDS:
            raise DataFileError(f"{file} is in {image.mode}; save it in grey or RGB")
        kind = _kind(image)
        if self._in_fractions and np.isinf(kind.top):
            raise DataFileError(
                f"{file} holds numbers without bounds; say which become -1 and 1 with range in "
                f"[data]"
            )
        if _orientation(image) in ON_ITS_SIDE:
            width, height = height, width
        what = "grey images" if kind.channels == 1 else "colour images"
        return Part(at, (kind.channels, height, width), what)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a picture, from a stream: from a name, Pillow garbles plain TIFF that lie on a side.

    Raises:
        DataFileError: It claims to be larger than any.
    """
    with file.open("rb") as stream:
        try:
            image = Image.open(stream, formats=("PNG", "JPEG", "TIFF"))
        except Image.DecompressionBombError as error:
            raise DataFileError(
                f"{file} claims to be larger than any picture; move it away"
            ) from error
        with image:
            yield image


def _tag(image: Image.Image, number: int, default: int) -> int:
    """Return the first value of a TIFF tag; other files have none."""
    value: Any = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _kind(image: Image.Image) -> Kind:
    kind = KINDS[image.mode]
    if image.format == "PNG" and image.mode == "I":  # what older Pillows make of 16 bits
        return Kind("I", 65535)
    if kind.mode.startswith("I;16"):
        return Kind(kind.mode, 2.0 ** _tag(image, BITS, 16) - 1)
    return kind


def _orientation(image: Image.Image) -> int:
    """Return how a picture lies, as its header says; Pillow turns TIFF itself."""
    if image.format == "TIFF":
        return 1
    exif = Image.Image.getexif(image)  # that of PNG files decodes all pixels
    return int(exif.get(ExifTags.Base.Orientation, 1))


def _decoded(image: Image.Image, file: Path) -> Image.Image:
    """Return a picture with its pixels, as it stands."""
    if image.format == "TIFF" and image.info.get("compression") != "raw":
        said, pixels = apart.decoded(file, image.tell())
        return Image.frombytes(said["mode"], tuple(said["size"]), pixels)
    if _orientation(image) != 1:
        return ImageOps.exif_transpose(image)
    image.load()
    return image


def _opaque(image: Image.Image) -> bool:
    """Return whether nothing shines through."""
    if not image.has_transparency_data:
        return True
    if image.mode.startswith("I"):
        return not (np.asarray(image) == image.info["transparency"]).any()
    return bool(np.asarray(image.convert("RGBA"))[..., 3].min() == 255)  # noqa: PLR2004 - opaque
