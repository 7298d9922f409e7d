"""Rows of files are brought to one shape and range, read when they are needed, and kept."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.imaging import SIDES, grey, ramp
from tests.streams import LARGE, everything, features, looked_at, many, small, source, summing
from torch import Tensor

from dflmoe.data.kept import OnDisk
from dflmoe.data.listing import listed
from dflmoe.data.reading import rows_of, study_of
from dflmoe.data.reads import Reads
from dflmoe.data.shaping import resized, shrunk, with_channels
from dflmoe.data.source import Source
from dflmoe.errors import DataFileError, OutputError, SettingsError


def first_row(where: Source) -> NDArray[np.float32]:
    return Reads(listed(where, labelled=False), where).row(0)


# --- shape and range ---


@pytest.mark.parametrize("places", [(3, 4), (6, 4), (12, 16), (7, 5)])
def test_a_plain_picture_stays_plain_at_any_size(places: tuple[int, int]) -> None:
    plain = np.full((2, *SIDES), 0.25, dtype=np.float32)
    np.testing.assert_allclose(resized(plain, places), np.full((2, *places), 0.25), rtol=1e-6)


def test_shrinking_averages_so_that_stripes_become_grey() -> None:
    stripes = np.tile([1.0, -1.0], 300).astype(np.float32)
    assert np.abs(resized(stripes[None], (60,))).max() < 0.05
    assert np.abs(resized(np.tile(stripes, (50, 1))[None], (5, 60))).max() < 0.05
    assert resized(stripes[None], (600,)).tolist() == [stripes.tolist()]


def test_a_small_picture_is_made_of_means() -> None:
    row = np.random.default_rng(0).normal(size=(1, 32, 48)).astype(np.float32)
    np.testing.assert_allclose(
        shrunk(row), row.reshape(1, 16, 2, 16, 3).mean((2, 4)), rtol=1e-4, atol=1e-6
    )
    assert shrunk(row[:, 0]).shape == (1, 16)
    assert shrunk(row[:, :3, :4]).shape == (1, 3, 4)


def test_grey_is_repeated_and_colour_weighed() -> None:
    white = np.ones((3, 2, 2), dtype=np.float32)
    np.testing.assert_allclose(with_channels(white, 1), white[:1], rtol=1e-6)
    np.testing.assert_array_equal(with_channels(white[:1], 3), white)
    with pytest.raises(ValueError, match="2 channels"):
        with_channels(white[:2], 1)


def test_the_darkest_is_minus_1_and_the_brightest_1(tmp_path: Path) -> None:
    grey(40 + ramp(100)).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        first_row(source(tmp_path))[0], (40 + ramp(100)) / 255 * 2 - 1, atol=1e-6
    )
    own = first_row(source(tmp_path, range=(40, 90)))
    np.testing.assert_allclose(own[0], np.clip(ramp(100) / 50, 0, 1) * 2 - 1, atol=1e-6)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    heat = np.ones(SIDES, dtype=np.float32)
    for odd in (np.nan, np.inf):
        heat[0, 0] = odd
        Image.fromarray(heat).save(tmp_path / "a.tif")
        with pytest.raises(DataFileError, match=r"a\.tif holds NaN or infinite"):
            first_row(source(tmp_path, range=(0, 1)))


# --- transforms ---


def transformed(path: Path, *transforms: Mapping[str, object], **settings: object) -> Source:
    return source(path, transforms=transforms, **settings)


def test_transforms_come_before_size_and_range(tmp_path: Path) -> None:
    grey().save(tmp_path / "a.png")
    plain = first_row(source(tmp_path))
    flipped = first_row(transformed(tmp_path, {"name": "Flip", "spatial_axis": 1}))
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-6)
    scaled = {"name": "ScaleIntensityRange", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 10}
    shifted = first_row(transformed(tmp_path, scaled, range=(0, 10)))
    np.testing.assert_allclose(shifted, plain, atol=1e-6)


def test_a_transform_that_changes_the_size_needs_the_size_to_be_named(tmp_path: Path) -> None:
    grey().save(tmp_path / "a.png")
    crop = {"name": "CenterSpatialCrop", "roi_size": [2, 2]}
    with pytest.raises(SettingsError, match=r"make 1 x 2 x 2 of a\.png.* say the size"):
        first_row(transformed(tmp_path, crop))
    row = first_row(transformed(tmp_path, crop, size=(2, 2)))
    np.testing.assert_allclose(row[0], ramp()[2:4, 3:5] / 255 * 2 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        pytest.param({"name": "Blur"}, "no array transform", id="unknown"),
        pytest.param({"name": "RandFlip", "prob": 1}, "without chance", id="random"),
        pytest.param({"name": "Compose"}, "without chance", id="may hold random ones"),
        pytest.param({"name": "Flipd", "keys": "x"}, "no array transform", id="of dictionaries"),
        pytest.param({"name": "SaveImage"}, "no array transform", id="writes files"),
        pytest.param({"name": "MetaTensor"}, "no array transform", id="no transform"),
        pytest.param({"name": "Flip", "upside": 1}, "does not take that", id="wrong argument"),
        pytest.param({"name": "Resize"}, "does not take that", id="no argument"),
        pytest.param({"name": "Flip", "spatial_axis": 7}, r"cannot be used on a\.png", id="axis"),
        pytest.param({"name": "SqueezeDim"}, r"makes 6 x 8 of a\.png", id="fewer axes"),
        pytest.param({"name": "RepeatChannel", "repeats": 2}, "channels", id="channels"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused(
    tmp_path: Path, transform: Mapping[str, object], says: str
) -> None:
    grey().save(tmp_path / "a.png")
    with pytest.raises((SettingsError, DataFileError), match=says) as refusal:
        first_row(transformed(tmp_path, transform))
    assert "\n" not in str(refusal.value)


# --- rows that do not fit into memory ---


def test_rows_that_stream_are_those_in_memory(tmp_path: Path) -> None:
    root = many(tmp_path)
    plain, streams = rows_of(source(root, size=LARGE)), rows_of(small(root))
    assert plain.streamed is None
    assert streams.streamed is not None
    assert streams.x.tolist() == list(range(40))
    np.testing.assert_array_equal(streams.y, plain.y)
    np.testing.assert_array_equal(everything(streams.streamed.rows, 40), plain.x)
    np.testing.assert_allclose(streams.streamed.small, [shrunk(row) for row in plain.x], atol=1e-6)
    shuffled = torch.tensor([7, 3, 3, 39])
    np.testing.assert_array_equal(streams.streamed.rows(shuffled), plain.x[shuffled])
    assert streams.streamed.rows(shuffled[:0]).shape == (0, 1, *LARGE)


def test_rows_go_on_streaming_where_too_many_were_left_out(tmp_path: Path) -> None:
    root = many(tmp_path, of_each=16)
    for spoilt in range(3):
        (root / "ill" / f"{spoilt}.png").write_bytes(grey().tobytes())
        whole = (root / "well" / f"{spoilt}.png").read_bytes()
        (root / "well" / f"{spoilt}.png").write_bytes(whole[:-30])
    read = rows_of(small(root, skip_unreadable=True))
    assert read.streamed is not None
    assert everything(read.streamed.rows, len(read.y)).shape == (26, 1, *LARGE)
    assert len(read.listing.left_out) == 6


def test_a_file_that_vanishes_is_stood_for_by_its_small_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = many(tmp_path)
    reads = looked_at(small(root))
    whole = everything(reads, 40)
    first, second = (reads.listing.rows[k].file for k in (4, 5))
    third = reads.listing.rows[6].file
    data = first.read_bytes()
    first.unlink()
    second.write_bytes(data[:40])
    grey(ramp(sides=(3, 3))).save(third)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rows = everything(reads, 40)
    assert [record.message.count("small picture") for record in caplog.records] == [1, 1, 1]
    others = [k for k in range(40) if k not in {4, 5, 6}]
    torch.testing.assert_close(rows[others], whole[others])
    assert not torch.equal(rows[4], whole[4])
    assert (rows[4] - whole[4]).abs().mean() < 0.1
    first.write_bytes(data)
    torch.testing.assert_close(everything(reads, 40)[4], whole[4])


def test_several_sources_count_as_one(tmp_path: Path) -> None:
    roots = {"ann": many(tmp_path / "ann"), "bob": many(tmp_path / "bob", of_each=3)}
    study = study_of({name: small(root) for name, root in roots.items()})
    assert study.streamed is not None
    assert [site.x.tolist() for site in study.sites] == [list(range(40)), list(range(40, 46))]
    whole = np.concatenate([rows_of(source(root, size=LARGE)).x for root in roots.values()])
    mixed = torch.tensor([45, 0, 40, 39, 0])
    np.testing.assert_array_equal(study.streamed.rows(mixed), whole[mixed])
    assert study.sites[1].seen.shape == (6, 1, 16, 16)


def test_a_source_in_memory_outlives_its_files_among_others_that_stream(tmp_path: Path) -> None:
    roots = {"ann": many(tmp_path / "ann"), "bob": many(tmp_path / "bob", of_each=3)}
    study = study_of({name: small(root) for name, root in roots.items()})
    assert study.streamed is not None
    before = study.streamed.rows(torch.tensor([41]))
    for file in (tmp_path / "bob").rglob("*.png"):
        file.unlink()
    torch.testing.assert_close(study.streamed.rows(torch.tensor([41])), before)


# --- the cache ---


def files_below(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def test_nothing_is_written_where_no_cache_is_named(tmp_path: Path) -> None:
    root = many(tmp_path / "data")
    before = files_below(tmp_path)
    reads = looked_at(small(root))
    everything(reads, 40)
    features(reads, summing())
    assert files_below(tmp_path) == before


def test_rows_and_features_are_found_again(tmp_path: Path) -> None:
    root, cache = many(tmp_path / "data"), tmp_path / "cache"
    body = summing()
    first = looked_at(small(root, cache=cache))
    rows, said = everything(first, 40), features(first, body)
    (made_by,) = first._features
    kept = files_below(cache)
    assert len(kept) == 4  # rows and features, and which of each are there
    again = looked_at(small(root, cache=cache))
    assert again.key == first.key
    spoil(root)
    torch.testing.assert_close(everything(again, 40), rows)

    def nothing_is_made(_: Tensor) -> Tensor:
        raise AssertionError("it is there")

    found = again.keep(made_by, (3,), torch.arange(40), nothing_is_made)
    torch.testing.assert_close(found, said)
    assert files_below(cache) == kept


def spoil(root: Path) -> None:
    for file in root.rglob("*.png"):
        file.write_bytes(b"gone")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"size": (95, 96)}, id="size"),
        pytest.param({"range": (0, 99)}, id="range"),
        pytest.param({"channels": 3}, id="channels"),
        pytest.param({"transforms": [{"name": "Flip"}]}, id="transforms"),
    ],
)
def test_other_settings_are_another_key(tmp_path: Path, change: Mapping[str, object]) -> None:
    root = many(tmp_path / "data", of_each=2)
    one = source(root, size=LARGE)
    other = Source.model_validate({**one.model_dump(by_alias=True), **change})
    assert Reads(listed(one), one).key != Reads(listed(other), other).key
    labels = source(root, size=LARGE, test_folds=3)
    assert Reads(listed(labels), labels).key == Reads(listed(one), one).key


def test_a_changed_file_is_another_key(tmp_path: Path) -> None:
    root = many(tmp_path / "data", of_each=2)
    before = looked_at(source(root)).key
    grey(ramp(77)).save(root / "ill" / "0.png")
    assert looked_at(source(root)).key != before


def test_what_was_left_out_leaves_the_cache_in_step(tmp_path: Path) -> None:
    root, cache = many(tmp_path / "data"), tmp_path / "cache"
    (root / "ill" / "3.png").write_bytes((root / "ill" / "3.png").read_bytes()[:-30])
    where = small(root, cache=cache, skip_unreadable=True)
    plain = everything(looked_at(small(root, skip_unreadable=True)), 39)
    for _ in range(2):
        torch.testing.assert_close(everything(looked_at(where), 39), plain)


def test_a_small_picture_is_never_kept_as_if_it_were_its_row(tmp_path: Path) -> None:
    root, cache = many(tmp_path / "data"), tmp_path / "cache"
    reads, body = looked_at(small(root)), summing()
    whole = features(reads, body)
    reads = looked_at(small(root))
    file = reads.listing.rows[4].file
    data = file.read_bytes()
    file.unlink()
    assert not torch.allclose(features(reads, body)[4], whole[4])
    file.write_bytes(data)
    torch.testing.assert_close(features(reads, body), whole)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_told_before_anything_begins(tmp_path: Path) -> None:
    root = many(tmp_path / "data", of_each=2)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="name another cache"):
        looked_at(source(root, cache=tmp_path / "cache"))


def test_a_cache_that_goes_bad_later_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, cache = many(tmp_path / "data"), tmp_path / "cache"
    reads, body = looked_at(small(root, cache=cache)), summing()
    said = features(reads, body)
    (file,) = set(cache.glob("*/features-*")) - set(cache.glob("*/*.there"))
    file.write_bytes(b"no array")
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(features(looked_at(small(root, cache=cache)), body), said)
    assert "features stay in memory" in caplog.text


def test_an_array_of_another_shape_is_not_taken_for_ours(tmp_path: Path) -> None:
    rows = torch.tensor([0, 2])
    OnDisk(tmp_path / "x", (3, 2)).write(rows, torch.ones(2, 2), torch.tensor([True, False]))
    again = OnDisk(tmp_path / "x", (3, 2))
    assert again.there.tolist() == [True, False, False]
    assert again.read(torch.arange(3)).tolist() == [[1, 1], [0, 0], [1, 1]]
    with pytest.raises(OutputError, match="something else"):
        OnDisk(tmp_path / "x", (3, 4))


def test_a_cache_whose_disk_goes_away_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, cache = many(tmp_path / "data"), tmp_path / "cache"
    reads, body = looked_at(small(root, cache=cache)), summing()
    said = features(reads, body)
    shutil.rmtree(cache)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(features(reads, body), said)
    assert "made again" in caplog.text
