"""NIfTI volumes: turned, cut and shown as people look at them, or refused with a sentence."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from dflmoe.data.formats import nifti
from dflmoe.data.formats.nifti import NiftiVolumes
from dflmoe.data.listing import listed
from dflmoe.data.reading import rows_of
from dflmoe.data.reads import Reads
from dflmoe.data.source import Nifti, Source
from dflmoe.errors import DataFileError, SettingsError

RIGHT, FRONT, UP = 0, 1, 2
SHAPE = (4, 5, 6)


def numbered(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Return a volume in which every voxel differs, and none is zero."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def stored(values: NDArray[Any], path: Path, codes: str = "RAS") -> Path:
    """Write a volume whose axes are right, anterior and superior, in another order of axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = nibabel.orientations.apply_orientation(values, turn)
    affine = inv_ornt_aff(turn, values.shape)
    nibabel.save(nibabel.Nifti1Image(turned, affine), path)
    return path


def reader(path: Path, range_: tuple[float, float] | None = (0, 1), **nifti: Any) -> NiftiVolumes:  # noqa: ANN401
    return NiftiVolumes(Source(path=path, range=range_, nifti=Nifti(**nifti)))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PSR", "SRA", "AIL"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_however_a_volume_is_stored_its_slices_are_the_same(
    tmp_path: Path, codes: str, ending: str
) -> None:
    values = numbered()
    path = stored(values, tmp_path / f"one.{ending}", codes)
    for axis in (RIGHT, FRONT, UP):
        volumes = reader(path, slices="all", axis=axis)
        parts = volumes.parts(path)
        assert len(parts) == SHAPE[axis]
        for part in parts:
            row = volumes.read(path, part.at)
            assert row.shape == part.shape
            expected = np.take(values, part.at, axis)[::-1, ::-1].T
            np.testing.assert_array_equal(row[0], expected)


def test_the_front_is_up_and_the_right_is_left_in_an_axial_slice(tmp_path: Path) -> None:
    values = np.zeros((4, 6, 2))
    values[3, 5] = 1  # right and in front
    path = stored(values, tmp_path / "a.nii", "PSR")
    row = reader(path, axis=UP).read(path, 1)
    assert row.shape == (1, 6, 4)
    assert row[0, 0, 0] == 1
    assert row.sum() == 1


def test_the_head_is_up_and_the_right_is_left_in_a_coronal_slice(tmp_path: Path) -> None:
    values = np.zeros((4, 2, 6))
    values[3, :, 5] = 1  # right and up
    path = stored(values, tmp_path / "a.nii", "LPS")
    row = reader(path, axis=FRONT).read(path, 1)
    assert (row.shape, row[0, 0, 0], row.sum()) == ((1, 6, 4), 1, 1)


def test_the_head_is_up_and_the_front_is_left_in_a_sagittal_slice(tmp_path: Path) -> None:
    values = np.zeros((2, 4, 6))
    values[:, 3, 5] = 1  # in front and up
    path = stored(values, tmp_path / "a.nii", "LPS")
    row = reader(path, axis=RIGHT).read(path, 1)
    assert (row.shape, row[0, 0, 0], row.sum()) == ((1, 6, 4), 1, 1)


def test_the_middle_slice_is_one_row_and_a_volume_has_its_slices_as_channels(
    tmp_path: Path,
) -> None:
    path = stored(numbered(), tmp_path / "a.nii")
    (middle,) = reader(path).parts(path)
    assert (middle.at, middle.shape) == (3, (1, 5, 4))
    every = reader(path, slices="all")
    whole = reader(path, slices="volume")
    (part,) = whole.parts(path)
    row = whole.read(path, part.at)
    assert row.shape == part.shape == (6, 5, 4)
    np.testing.assert_array_equal(row, np.concatenate([every.read(path, k) for k in range(6)]))


def test_a_volume_of_one_time_is_a_volume(tmp_path: Path) -> None:
    path = stored(numbered()[..., None, None], tmp_path / "a.nii")
    one = stored(numbered(), tmp_path / "b.nii")
    np.testing.assert_array_equal(reader(path).read(path, 2), reader(one).read(one, 2))


def test_a_volume_is_scaled_by_what_it_shows_and_not_by_the_air_around(tmp_path: Path) -> None:
    values = np.zeros((20, 20, 20))
    values[5:15, 5:15, 5:15] = np.arange(1000).reshape(10, 10, 10) + 100
    low, high = np.percentile(np.arange(1000) + 100, (1, 99.5))
    path = stored(values, tmp_path / "a.nii")
    row = reader(path, None).read(path, 10)
    shown = values[:, :, 10][::-1, ::-1].T
    np.testing.assert_allclose(row[0], np.clip((shown - low) / (high - low), 0, 1), atol=1e-6)
    doubled = stored(7 * values, tmp_path / "b.nii")
    np.testing.assert_allclose(reader(doubled, None).read(doubled, 10), row, atol=1e-6)


def test_of_a_large_volume_every_other_slice_says_how_it_is_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "LOOKED_AT", 4 * 5 * 3)
    path = stored(numbered(), tmp_path / "a.nii")
    low, high = np.percentile(numbered()[:, :, ::2], (1, 99.5))
    row = reader(path, None).read(path, 3)
    shown = numbered()[:, :, 3][::-1, ::-1].T
    np.testing.assert_allclose(row[0], np.clip((shown - low) / (high - low), 0, 1), atol=1e-6)


def test_with_a_range_values_are_those_of_the_file(tmp_path: Path) -> None:
    hounsfield = np.linspace(-1000, 1000, 4 * 5 * 6).reshape(SHAPE)
    path = stored(hounsfield, tmp_path / "a.nii.gz")
    source = Source(path=path, range=(-1000, 1000))
    rows = Reads(listed(source, labelled=False), source)
    shown = hounsfield[:, :, 3][::-1, ::-1].T
    np.testing.assert_allclose(rows.row(0)[0], shown / 1000, atol=1e-3)


def test_scaled_numbers_of_a_file_are_unscaled(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(2, -50)
    nibabel.save(image, tmp_path / "a.nii")
    row = reader(tmp_path / "a.nii").read(tmp_path / "a.nii", 0)
    plain = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)[:, :, 0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(row[0], plain[::-1, ::-1].T)


def test_of_a_packed_volume_no_slice_is_unpacked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(numbered(), tmp_path / "a.nii.gz")
    volumes = reader(path, slices="all")
    first = volumes.read(path, 0)
    monkeypatch.setattr(gzip, "GzipFile", None)  # nothing can be unpacked any more
    np.testing.assert_array_equal(volumes.read(path, 5)[0], numbered()[:, :, 5][::-1, ::-1].T)
    np.testing.assert_array_equal(volumes.read(path, 0), first)


def test_names_of_bids_tell_the_patient(tmp_path: Path) -> None:
    study = tmp_path / "sub-cortical"
    for name in ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-02/anat/T1w.nii", "who.nii"):
        path = stored(numbered(), study / name)
        (part,) = NiftiVolumes(Source(path=study)).parts(path)
        assert part.patient == {"sub-01": "01", "sub-02": "02"}.get(name.split("/")[0], "")


def test_two_scans_of_one_patient_are_never_divided(tmp_path: Path) -> None:
    for label in ("ill", "well"):
        for k in range(3):
            stored(numbered(), tmp_path / label / f"sub-{label}{k // 2}_run-{k}_T1w.nii")
    read = rows_of(Source(path=tmp_path))
    (site,) = read.sites("ann")
    assert site.x.shape == (6, 1, 5, 4)
    assert site.patient.tolist() == [0, 0, 1, 2, 2, 3]


def test_several_threads_may_read_at_once(tmp_path: Path) -> None:
    paths = [stored(k + numbered(), tmp_path / f"{k}.nii.gz") for k in range(2)]
    asked = [(path, at) for at in range(6) for path in paths] * 8
    volumes = reader(tmp_path, None, slices="all")
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda one: volumes.read(*one), asked))
    for (path, at), row in zip(asked, rows, strict=True):
        np.testing.assert_array_equal(row, reader(path, None, slices="all").read(path, at))


# --- masks ---


def test_a_mask_keeps_its_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    path = stored(values, tmp_path / "mask.nii.gz")
    source = Source(path=path, nifti=Nifti(mask=(0, 1, 2)))
    np.testing.assert_array_equal(
        NiftiVolumes(source).read(path, 3)[0], values[:, :, 3][::-1, ::-1].T
    )
    rows = Reads(listed(source, labelled=False), source)
    assert set(np.unique(rows.row(0))) <= {-1, 0, 1}


def test_a_mask_with_unknown_values_is_refused(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[0, 0, 0] = 7  # in another slice than the one that is read
    path = stored(values, tmp_path / "mask.nii")
    with pytest.raises(DataFileError, match=r"mask\.nii holds 7, .* \(0, 1\); mend"):
        reader(path, None, mask=(0, 1)).read(path, 3)
    half = stored(values / 2, tmp_path / "half.nii")
    with pytest.raises(DataFileError, match=r"holds 3\.5"):
        reader(half, None, mask=(0, 7)).read(half, 3)


# --- what is refused ---


def test_a_volume_of_several_times_is_refused(tmp_path: Path) -> None:
    path = stored(np.zeros((4, 5, 6, 3)), tmp_path / "bold.nii")
    with pytest.raises(DataFileError, match=r"bold\.nii is of shape 4 x 5 x 6 x 3, which is more"):
        reader(path).parts(path)


def test_what_is_no_volume_of_numbers_is_refused(tmp_path: Path) -> None:
    flat = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.eye(4)), flat)
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    picture = stored(colour, tmp_path / "colour.nii")
    for path in (flat, picture, stored(np.ones(SHAPE, np.complex64), tmp_path / "k.nii")):
        with pytest.raises(DataFileError, match=f"{path.name} .*three axes"):
            reader(path).parts(path)


def test_an_empty_volume_is_refused(tmp_path: Path) -> None:
    path = stored(np.zeros(SHAPE), tmp_path / "a.nii")
    with pytest.raises(DataFileError, match=r"a\.nii is empty"):
        reader(path, None).read(path, 3)


def test_numbers_that_are_none_are_told_where_rows_are_read(tmp_path: Path) -> None:
    values = numbered()
    values[1, 1, 3] = np.nan
    stored(values, tmp_path / "a.nii")
    source = Source(path=tmp_path, classes=("a", "b"))
    with pytest.raises(DataFileError, match=r"a\.nii holds NaN"):
        Reads(listed(source, labelled=False), source).row(0)


def test_volumes_of_other_depths_are_not_of_one_kind(tmp_path: Path) -> None:
    stored(numbered(), tmp_path / "a.nii")
    stored(numbered((4, 5, 7)), tmp_path / "b.nii")
    source = Source(path=tmp_path, nifti=Nifti(slices="volume"))
    with pytest.raises(DataFileError, match=r"volumes of 6 slices and .* of one kind"):
        Reads(listed(source, labelled=False), source)


def test_slices_as_channels_cannot_be_colours(tmp_path: Path) -> None:
    source = Source(path=tmp_path, channels=3, nifti=Nifti(slices="volume"))
    with pytest.raises(SettingsError, match="leave out channels"):
        NiftiVolumes(source)


def what_happens(path: Path, volumes: NiftiVolumes) -> str:
    """Read all of a file, and return why it is refused; nothing if it is not."""
    try:
        rows = [volumes.read(path, part.at) for part in volumes.parts(path)]
    except DataFileError as error:
        return str(error)
    return "" if all(row.ndim == 3 for row in rows) else "rows are of no shape"


def is_a_sentence(refusal: str, path: Path) -> bool:
    return not refusal or (path.name in refusal and "\n" not in refusal)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("slices", ["middle", "all", "volume"])
def test_a_truncated_volume_is_refused(tmp_path: Path, ending: str, slices: str) -> None:
    noise = np.random.default_rng(0).normal(size=(8, 8, 8))
    whole = stored(noise, tmp_path / f"whole.{ending}").read_bytes()
    path = tmp_path / f"cut.{ending}"
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert f"cut.{ending}" in what_happens(path, reader(path, slices=slices))


@given(st.integers(0, 351), st.integers(1, 255), st.sampled_from(["middle", "all", "volume"]))
@settings(max_examples=60, deadline=None)
def test_a_header_with_a_wrong_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int, slices: str
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.nii"
    nibabel.save(nibabel.Nifti1Image(numbered(), np.eye(4)), path)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= flip
    path.write_bytes(damaged)
    assert is_a_sentence(what_happens(path, reader(path, None, slices=slices)), path)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_packed_volume_with_a_wrong_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(numbered(), np.eye(4)), path)
    damaged = bytearray(path.read_bytes())
    damaged[int(place * len(damaged))] ^= flip
    path.write_bytes(damaged)
    assert is_a_sentence(what_happens(path, reader(path, None, slices="all")), path)


def test_a_header_that_promises_more_than_can_be_is_refused_unread(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.float64)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    with pytest.raises(DataFileError, match=r"bomb\.nii\.gz ends before"):
        reader(path).parts(path)
