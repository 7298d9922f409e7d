"""Images are read as they are seen, from 0 to 1; what is none is refused with a sentence."""

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from tests.imaging import SIDES, Make, colour, damaged, encoded, grey, ramp, read_whole

from dflmoe.data.formats.images import Images
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError

HEIGHT, WIDTH = SIDES
IMAGES = Images(Source(path="x"))
IN_OWN_UNITS = Images(Source(path="x", range=(0, 1)))


def read(file: Path, format_: Images = IMAGES) -> NDArray[np.float32]:
    (row,) = read_whole(format_, file)
    return row


def saved(file: Path, picture: Image.Image, **how: Any) -> Path:  # noqa: ANN401 - Pillow's
    picture.save(file, **how)
    return file


def wide(top: int = 65535) -> Image.Image:
    return Image.fromarray(ramp(top).astype(np.uint16))


def lying(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_a_grey_film_stays_grey(tmp_path: Path, suffix: str) -> None:
    file = saved(tmp_path / f"film{suffix}", grey())
    assert IMAGES.belongs(file)
    (part,) = IMAGES.parts(file)
    assert (part.shape, part.what, part.at) == ((1, HEIGHT, WIDTH), "grey images", 0)
    np.testing.assert_allclose(read(file)[0], ramp() / 255, rtol=1e-6)


def test_films_of_8_and_of_16_bits_are_of_one_range(tmp_path: Path) -> None:
    narrow = saved(tmp_path / "8.png", grey())
    for name in ("16.png", "16.tif"):
        row = read(saved(tmp_path / name, wide()))
        assert (row.min(), row.max()) == (0, 1)
        np.testing.assert_allclose(row, read(narrow), atol=1 / 255)


def test_black_and_white_is_0_and_1(tmp_path: Path) -> None:
    file = saved(tmp_path / "fax.tif", grey(ramp() > 100).point(lambda v: v, "1"))
    assert set(np.unique(read(file))) == {0, 1}


def test_colours_have_three_channels(tmp_path: Path) -> None:
    file = saved(tmp_path / "skin.png", colour())
    (part,) = IMAGES.parts(file)
    assert (part.shape, part.what) == ((3, HEIGHT, WIDTH), "colour images")
    np.testing.assert_allclose(read(file), np.moveaxis(np.asarray(colour()), 2, 0) / 255, rtol=1e-6)


def test_a_palette_and_an_opaque_layer_are_plain_colours(tmp_path: Path) -> None:
    plain = read(saved(tmp_path / "rgb.png", colour()))
    few = saved(tmp_path / "palette.png", colour().quantize(HEIGHT * WIDTH))
    layered = colour()
    layered.putalpha(255)
    np.testing.assert_allclose(read(few), plain, atol=0.02)
    np.testing.assert_array_equal(read(saved(tmp_path / "rgba.png", layered)), plain)


def test_a_jpeg_is_nearly_what_was_saved(tmp_path: Path) -> None:
    row = read(saved(tmp_path / "film.jpg", grey(), quality=95))
    np.testing.assert_allclose(row[0], ramp() / 255, atol=0.05)
    assert IMAGES.parts(saved(tmp_path / "skin.jpeg", colour()))[0].shape[0] == 3


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_picture_stands_as_its_camera_was_held(tmp_path: Path, suffix: str, turn: int) -> None:
    exif = lying(turn)
    file = saved(tmp_path / f"held{suffix}", grey(), exif=exif)
    upright = grey()
    upright.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(upright)) / 255
    np.testing.assert_allclose(read(file)[0], expected, atol=0.1)


def test_each_page_is_a_row(tmp_path: Path) -> None:
    pages = [grey(), grey(255 - ramp()), grey(ramp() // 2)]
    file = saved(tmp_path / "stack.tif", pages[0], save_all=True, append_images=pages[1:])
    assert [part.at for part in IMAGES.parts(file)] == [0, 1, 2]
    for row, page in zip(read_whole(IMAGES, file), pages, strict=True):
        np.testing.assert_allclose(row[0], np.asarray(page) / 255, rtol=1e-6)


def test_a_smaller_copy_of_a_page_is_no_row(tmp_path: Path) -> None:
    copy = grey().resize((4, 3))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    file = saved(tmp_path / "pyramid.tif", grey(), save_all=True, append_images=[copy])
    assert [part.shape for part in IMAGES.parts(file)] == [(1, HEIGHT, WIDTH)]


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize(
    "picture",
    [grey(), colour(), wide(), colour().quantize(48)],
    ids=["grey", "colour", "wide", "palette"],
)
def test_a_compressed_tiff_is_the_plain_one(
    tmp_path: Path, compression: str, picture: Image.Image
) -> None:
    plain = read(saved(tmp_path / "plain.tif", picture))
    packed = read(saved(tmp_path / "packed.tif", picture, compression=compression))
    np.testing.assert_array_equal(packed, plain)


def test_a_negative_of_16_bits_is_turned_into_a_positive(tmp_path: Path) -> None:
    file = saved(tmp_path / "film.tif", wide(), tiffinfo={262: 0})
    data = file.read_bytes()
    tag = struct.pack("<HHLHH", 262, 3, 1, 1, 0)
    file.write_bytes(data.replace(tag, struct.pack("<HHLHH", 262, 3, 1, 0, 0)))
    np.testing.assert_allclose(read(file)[0], 1 - ramp(65535) / 65535, atol=1e-6)


def test_where_the_settings_give_a_range_values_stay_as_they_are(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read(saved(tmp_path / "film.png", grey()), IN_OWN_UNITS)[0], ramp()
    )
    heat = np.linspace(-3, 40, HEIGHT * WIDTH, dtype=np.float32).reshape(SIDES)
    file = saved(tmp_path / "heat.tif", Image.fromarray(heat))
    np.testing.assert_array_equal(read(file, IN_OWN_UNITS)[0], heat)
    with pytest.raises(DataFileError, match="range in"):
        IMAGES.parts(file)


def test_the_shape_is_told_without_a_pixel_being_decoded(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    whole = encoded(grey(np.random.default_rng(0).integers(0, 255, (50, 60))), "PNG")
    file.write_bytes(whole[: len(whole) // 2])
    assert IMAGES.parts(file)[0].shape == (1, 50, 60)
    with pytest.raises(DataFileError, match="export it again"):
        IMAGES.read(file, 0)


def claims(width: int, height: int) -> bytes:
    """Return a PNG that says it is of a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">L", len(data)) + whole + struct.pack(">L", zlib.crc32(whole))

    head = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def half_clear() -> Image.Image:
    picture = colour()
    picture.putalpha(grey())
    return picture


def written(name: str, data: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


TWO = {"save_all": True, "append_images": [grey(255 - ramp())]}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(written("a.png", b""), "damaged or something else", id="empty"),
        pytest.param(written("a.png", b"rows of text"), "something else", id="no image"),
        pytest.param(written("a.png", encoded(grey(), "GIF", **TWO)), "something else", id="GIF"),
        pytest.param(written("a.png", encoded(grey(), "PNG", **TWO)), "animation", id="animated"),
        pytest.param(written("a.jpg", encoded(grey(), "JPEG")[:-40]), "damaged", id="cut JPEG"),
        pytest.param(written("a.png", claims(12_000, 12_000)), "12000 x 12000", id="a bomb"),
        pytest.param(written("a.png", claims(50_000, 50_000)), "larger than any", id="a big bomb"),
        pytest.param(
            written("a.jpg", encoded(colour().convert("CMYK"), "JPEG")), "in CMYK", id="ink"
        ),
        pytest.param(written("a.png", encoded(half_clear(), "PNG")), "transparent", id="glass"),
        pytest.param(
            written("a.png", encoded(grey(), "PNG", transparency=0)), "transparent", id="a colour"
        ),
        pytest.param(
            written("a.png", encoded(wide(), "PNG", transparency=0)), "transparent", id="16 bits"
        ),
        pytest.param(lambda folder: folder / "gone.png", "cannot be read", id="gone"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(
    tmp_path: Path, make: Make, says: str
) -> None:
    file = make(tmp_path)
    with pytest.raises(DataFileError, match=says) as refusal:
        read(file)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


WHOLE = {
    "a.png": encoded(grey(), "PNG"),
    "b.png": encoded(colour().quantize(8), "PNG"),
    "c.jpg": encoded(colour(), "JPEG", exif=lying(6)),
    "d.tif": encoded(grey(), "TIFF", **TWO),
    "e.tif": encoded(wide(), "TIFF", compression="tiff_lzw"),
}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    place=st.floats(0, 1),
    change=st.none() | st.integers(1, 255),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, place: float, change: int | None
) -> None:
    file = tmp_path / name
    file.write_bytes(damaged(WHOLE[name], place, change))
    with suppress(DataFileError):
        read_whole(IMAGES, file)
    assert capfd.readouterr() == ("", "")
