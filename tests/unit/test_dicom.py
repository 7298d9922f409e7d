"""DICOM files are read as they are seen on a light box; documents hold no rows."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    UID,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)
from tests.imaging import SIDES, damaged, dicom, ramp, read_whole

from dflmoe.data.formats.apart import apart
from dflmoe.data.formats.dicom import DicomFiles
from dflmoe.data.source import Dicom, Source
from dflmoe.errors import DataFileError, SettingsError

HEIGHT, WIDTH = SIDES
ANY = DicomFiles(Source(path="x"))


def asking(range_: tuple[float, float] | None = None, **dicom: object) -> DicomFiles:
    return DicomFiles(Source(path="x", range=range_, dicom=Dicom(**dicom)))


def sample(name: str) -> Path:
    file = get_testdata_file(name, download=False)
    assert isinstance(file, str)
    return Path(file)


def read(file: Path, format_: DicomFiles = ANY) -> NDArray[np.float32]:
    (row,) = read_whole(format_, file)
    return row


# --- what there is ---


def test_a_header_tells_shape_kind_and_patient(tmp_path: Path) -> None:
    file = dicom(tmp_path / "a.dcm", ramp(), Modality="MR", PatientID=" 4 ")
    (part,) = ANY.parts(file)
    assert (part.at, part.shape, part.what) == (0, (1, HEIGHT, WIDTH), "MR grey images")
    assert (part.patient, part.label) == ("4", "")
    (part,) = ANY.parts(dicom(tmp_path / "b.dcm", np.zeros((2, 2, 3)), Modality="US"))
    assert (part.shape, part.what) == ((3, 2, 2), "US colour images")


def test_no_pixel_is_needed_to_tell_what_there_is(tmp_path: Path) -> None:
    whole = dicom(tmp_path / "a.dcm", ramp()).read_bytes()
    file = tmp_path / "cut.dcm"
    file.write_bytes(whole[: -ramp().size])
    assert ANY.parts(file)[0].shape == (1, HEIGHT, WIDTH)
    with pytest.raises(DataFileError, match="damaged"):
        ANY.read(file, 0)


def test_files_are_found_by_their_ending_or_their_first_bytes(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.DCM", "c.ima", "IM0001", "1.2.840.113619.2", "d.bin"):
        assert ANY.belongs(dicom(tmp_path / name, ramp()))
    (tmp_path / "README").write_text("rows of text that are long enough " * 9)
    assert not ANY.belongs(tmp_path / "README")
    assert not ANY.belongs(dicom(tmp_path / "DICOMDIR", ramp()))
    assert not ANY.belongs(tmp_path / "gone")


@pytest.mark.parametrize(
    ("kind", "modality"),
    [
        (BasicTextSRStorage, "SR"),
        (GrayscaleSoftcopyPresentationStateStorage, "PR"),
        (KeyObjectSelectionDocumentStorage, "KO"),
        (RTStructureSetStorage, "RTSTRUCT"),
        ("1.3.12.2.1107.5.9.1", "MR"),
    ],
)
def test_a_document_beside_the_images_holds_no_rows(
    tmp_path: Path, kind: str, modality: str
) -> None:
    file = dicom(tmp_path / "a.dcm", SOPClassUID=kind, Modality=modality)
    assert ANY.parts(file) == asking(modality="CT").parts(file) == []


@pytest.mark.parametrize(
    "name", ["test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm"]
)
def test_documents_of_the_wild_hold_no_rows(name: str) -> None:
    assert ANY.parts(sample(name)) == []


def test_the_wrong_modality_is_named(tmp_path: Path) -> None:
    ct, mr = (dicom(tmp_path / f"{name}.dcm", ramp(), Modality=name) for name in ("CT", "MR"))
    assert len(asking(modality="ct").parts(ct)) == 1
    with pytest.raises(DataFileError, match=r"MR\.dcm is MR .* says CT"):
        asking(modality="CT").parts(mr)


def test_which_frames_are_rows_is_a_setting(tmp_path: Path) -> None:
    frames = np.stack([ramp() + 10 * k for k in range(5)])
    file = dicom(tmp_path / "a.dcm", frames)
    assert [part.at for part in ANY.parts(file)] == [0, 1, 2, 3, 4]
    assert [part.at for part in asking(frames="first").parts(file)] == [0]
    assert [part.at for part in asking(frames="middle").parts(file)] == [2]
    own = asking((0, 1))
    for row, frame in zip(read_whole(own, file), frames, strict=True):
        np.testing.assert_array_equal(row[0], frame)


# --- what is seen ---


def test_without_a_window_the_lowest_is_0_and_the_highest_1(tmp_path: Path) -> None:
    file = dicom(tmp_path / "a.dcm", 300 + ramp(1000))
    np.testing.assert_allclose(read(file)[0], ramp(1000) / 1000, atol=1e-6)
    flat = read(dicom(tmp_path / "b.dcm", np.full(SIDES, 7)))
    assert (flat == 0).all()


def test_the_window_of_the_settings_is_in_hounsfield_units(tmp_path: Path) -> None:
    scale = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    file = dicom(tmp_path / "a.dcm", ramp(1000), WindowCenter=0, WindowWidth=9, **scale)
    row = read(file, asking(window=(40, 400)))
    units = 2 * ramp(1000) - 1000
    np.testing.assert_allclose(row[0], np.clip((units + 160) / 400, 0, 1), atol=1e-6)


def test_where_the_settings_give_a_range_values_are_in_hounsfield_units(tmp_path: Path) -> None:
    file = dicom(tmp_path / "a.dcm", ramp(), RescaleSlope=0.5, RescaleIntercept=-3, WindowCenter=9)
    np.testing.assert_allclose(read(file, asking((-3, 100)))[0], ramp() / 2 - 3)
    with pytest.raises(SettingsError, match="leave out one"):
        asking((0, 1), window=(40, 400))


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (None, lambda v: np.clip((v - 99.5) / 99 + 0.5, 0, 1)),  # C.11.2.1.2.1: c - 0.5, w - 1
        ("LINEAR_EXACT", lambda v: np.clip((v - 100) / 100 + 0.5, 0, 1)),
        ("SIGMOID", lambda v: 1 / (1 + np.exp(-4 * (v - 100) / 100))),
    ],
)
def test_the_first_window_of_a_file_is_taken_as_the_standard_says(
    tmp_path: Path, function: str | None, seen: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> None:
    how = {} if function is None else {"VOILUTFunction": function}
    file = dicom(tmp_path / "a.dcm", ramp(), WindowCenter=[100, 5], WindowWidth=[100, 9], **how)
    np.testing.assert_allclose(read(file)[0], seen(ramp()), atol=1e-6)


def table(values: NDArray[np.int64], first: int, bits: int, written: str = "OW") -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    data = values.astype("<u2").tobytes() if written == "OW" else values.tolist()
    item.add_new("LUTData", written, data)
    return Sequence([item])


def test_a_table_of_the_modality_is_looked_up(tmp_path: Path) -> None:
    doubled = table(np.arange(200) * 2, first=50, bits=16, written="US")
    file = dicom(tmp_path / "a.dcm", ramp(), ModalityLUTSequence=doubled)
    expected = 2 * np.clip(ramp() - 50, 0, 199)
    np.testing.assert_array_equal(read(file, asking((0, 1)))[0], expected)


@pytest.mark.parametrize("written", ["OW", "US"])
@pytest.mark.parametrize(("bits", "top"), [(8, 255), (12, 4095), (16, 65535)])
def test_a_table_of_what_is_seen_is_looked_up_whatever_its_length(
    tmp_path: Path, bits: int, top: int, written: str
) -> None:
    falls = np.linspace(top, 0, 1001).round().astype(np.int64)
    file = dicom(tmp_path / "a.dcm", ramp(1000), VOILUTSequence=table(falls, 0, bits, written))
    np.testing.assert_allclose(read(file)[0], falls[ramp(1000)] / top, atol=1e-6)


def test_a_negative_is_turned_into_a_positive(tmp_path: Path) -> None:
    file = dicom(tmp_path / "a.dcm", ramp(), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read(file)[0], 1 - ramp() / 255, atol=1e-6)
    np.testing.assert_allclose(read(file, asking((0, 200)))[0], 200 - ramp())


def test_padding_is_black_and_moves_no_other_pixel(tmp_path: Path) -> None:
    padded = ramp() + 100
    padded[0] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        file = dicom(
            tmp_path / "a.dcm",
            padded,
            PixelPaddingValue=-2000,
            PhotometricInterpretation=photometric,
        )
        row = read(file)[0]
        assert (row[0] == 0).all()
        assert {row[1:].min(), row[1:].max()} == {0, 1}
    everywhere = dicom(tmp_path / "b.dcm", np.full(SIDES, -2000), PixelPaddingValue=-2000)
    assert (read(everywhere) == 0).all()


def test_what_is_said_of_one_frame_counts_for_it_alone(tmp_path: Path) -> None:
    def group(**said: float) -> Dataset:
        units, one = Dataset(), Dataset()
        for keyword, value in said.items():
            setattr(units, keyword, value)
        one.PixelValueTransformationSequence = Sequence([units])
        return one

    shared = Dataset()
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 50, 100, "LINEAR_EXACT"
    shared.FrameVOILUTSequence = Sequence([window])
    slopes = (1, 2)
    file = dicom(
        tmp_path / "a.dcm",
        np.stack([ramp(), ramp()]),
        SOPClassUID=EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(
            [group(RescaleSlope=slope, RescaleIntercept=0) for slope in slopes]
        ),
    )
    for row, slope in zip(read_whole(ANY, file), slopes, strict=True):
        np.testing.assert_allclose(row[0], np.clip(slope * ramp() / 100, 0, 1), atol=1e-6)


def test_fractions_are_fine_and_what_is_not_finite_is_not(tmp_path: Path) -> None:
    def doses(values: NDArray[np.float32]) -> Path:
        return dicom(
            tmp_path / "a.dcm",
            np.zeros(SIDES),
            PixelData=None,
            FloatPixelData=values.tobytes(),
            BitsAllocated=32,
            BitsStored=None,
            HighBit=None,
            PixelRepresentation=None,
            WindowCenter=0.5,
            WindowWidth=1,
            VOILUTFunction="LINEAR_EXACT",
        )

    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32)
    np.testing.assert_allclose(read(doses(values))[0].ravel(), values, atol=1e-6)
    for odd in (np.nan, np.inf):
        values[3] = odd
        with pytest.raises(DataFileError, match="NaN or infinite"):
            read(doses(values))


def test_colours_are_fractions_of_the_largest(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIDES, 3))
    file = dicom(tmp_path / "a.dcm", pixels, SOPClassUID=UltrasoundImageStorage, Modality="US")
    np.testing.assert_allclose(read(file), np.moveaxis(pixels, 2, 0) / 255, atol=1e-6)
    np.testing.assert_array_equal(read(file, asking((0, 9))), np.moveaxis(pixels, 2, 0))


def test_a_palette_is_spread_out_into_colours(tmp_path: Path) -> None:
    places = np.arange(48).reshape(SIDES) % 4
    reds = np.array([0, 10_000, 40_000, 65_535], dtype=np.uint16)
    channels = {"Red": reds, "Green": reds[::-1], "Blue": 0 * reds}
    palette: dict[str, object] = {}
    for name, entries in channels.items():
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    file = dicom(
        tmp_path / "a.dcm", places, PhotometricInterpretation="PALETTE COLOR", Modality="US",
        PixelRepresentation=0, **palette,
    )  # fmt: skip
    expected = np.stack([entries[places] for entries in channels.values()]) / 65_535
    np.testing.assert_allclose(read(file), expected, atol=1e-6)


# --- how it is written ---


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_picture_is_the_same_however_it_is_written(name: str) -> None:
    np.testing.assert_array_equal(read(sample(name)), read(sample("MR_small.dcm")))


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_one_card_of_colours_is_the_same_however_it_is_written(name: str) -> None:
    plain = read(sample("SC_rgb_rle.dcm"))
    assert np.abs(read(sample(name)) - plain).mean() < 0.02


def test_frames_of_a_film_are_decoded_one_by_one() -> None:
    film = sample("examples_ybr_color.dcm")
    parts = asking(frames="middle").parts(film)
    assert [part.at for part in parts] == [15]
    assert ANY.read(film, 15).shape == parts[0].shape == (3, 240, 320)
    assert len(ANY.parts(film)) == 30


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_without_its_first_bytes_or_deflated_is_read_as_well(
    tmp_path: Path, syntax: UID
) -> None:
    file = dicom(tmp_path / "a.dcm", ramp())
    plain = read(file)
    dataset = dcmread(file)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ImplicitVRLittleEndian:
        del dataset.preamble
        del dataset.file_meta
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    else:
        dataset.save_as(file)
    np.testing.assert_array_equal(read(file), plain)


def test_several_threads_read_the_frames_of_one_file(tmp_path: Path) -> None:
    frames = np.stack([ramp() + k for k in range(24)])
    file = dicom(tmp_path / "a.dcm", frames)
    dataset = dcmread(file)
    dataset.compress(RLELossless)
    dataset.save_as(file)
    own, found = asking((0, 1)), np.zeros(frames.shape)

    def work(start: int) -> None:
        for at in range(start, len(frames), 4):
            found[at] = own.read(file, at)[0]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    np.testing.assert_array_equal(found, frames)


# --- what is refused ---


@contextmanager
def without_gdcm(syntax: str) -> Iterator[None]:
    decoder = get_decoder(syntax)
    decoder.remove_plugin("gdcm")
    try:
        yield
    finally:
        decoder.add_plugin("gdcm", ("pydicom.pixels.decoders.gdcm", "_decode_frame"))


def test_a_compression_that_nothing_installed_decodes_names_what_to_install() -> None:
    with without_gdcm(JPEGLSLossless), pytest.raises(DataFileError, match=r"install .*pyjpegls"):
        ANY.parts(sample("MR_small_jpeg_ls_lossless.dcm"))
    with pytest.raises(DataFileError, match=r"install .*pylibjpeg-libjpeg"):
        read(sample("JPGExtended.dcm"))


def test_video_is_refused_at_the_door(tmp_path: Path) -> None:
    file = dicom(tmp_path / "a.dcm", ramp())
    dataset = dcmread(file)
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.save_as(file)
    with pytest.raises(DataFileError, match="no library here decodes"):
        ANY.parts(file)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        pytest.param({"PixelData": None}, "without pixels", id="no pixels"),
        pytest.param({"Rows": None}, "without pixels", id="no size"),
        pytest.param({"Rows": 20_000, "Columns": 20_000}, "20000 x 20000", id="a bomb"),
        pytest.param({"NumberOfFrames": 10**9}, "1000000000 frames", id="too many frames"),
        pytest.param({"NumberOfFrames": 3}, "damaged", id="frames that are not there"),
        pytest.param({"PhotometricInterpretation": "HSV"}, "HSV", id="odd colours"),
        pytest.param({"WindowCenter": 5, "WindowWidth": 0}, "window of width 0", id="no width"),
        pytest.param({"SOPClassUID": "1.2.840.10008.9"}, "without pixels|kind", id="no kind"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    if "SOPClassUID" in changed:
        changed = {**changed, "Rows": None, "PixelData": None}
    file = dicom(tmp_path / "a.dcm", ramp(), **changed)
    with pytest.raises(DataFileError, match=says) as refusal:
        read_whole(ANY, file)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"rows of text", bytes(4000), b"DICM" * 300])
def test_what_is_no_dicom_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.dcm"
    file.write_bytes(data)
    with pytest.raises(DataFileError, match=r"a\.dcm"):
        ANY.parts(file)


def test_a_mask_among_images_is_told_from_them(tmp_path: Path) -> None:
    mask = dicom(tmp_path / "a.dcm", ramp(), SOPClassUID=SegmentationStorage, Modality="SEG")
    assert ANY.parts(mask)[0].what == "SEG grey images"


def test_a_crash_of_the_decoder_costs_one_file_only() -> None:
    good = sample("MR_small_jpeg_ls_lossless.dcm")
    before = read(good)
    assert apart._process is not None
    apart._process.kill()
    apart._process.wait()
    np.testing.assert_array_equal(read(good), before)


SAMPLES = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jp2klossless.dcm",
    "JPEGLSNearLossless_16.dcm",
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(SAMPLES),
    place=st.floats(0, 1),
    change=st.none() | st.integers(1, 255),
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, place: float, change: int | None
) -> None:
    file = tmp_path / name
    file.write_bytes(damaged(sample(name).read_bytes(), place, change))
    with suppress(DataFileError):
        read_whole(ANY, file)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_told_of_a_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = dicom(tmp_path / "a.dcm", ramp(), PatientID="SECRET", PatientName="SECRET^NAME")
    data = file.read_bytes()
    with caplog.at_level(logging.DEBUG):
        for cut in range(140, len(data), 7):
            file.write_bytes(data[:cut])
            with suppress(DataFileError):
                read_whole(ANY, file)
            with suppress(DataFileError):
                asking(modality="MR").parts(file)
    assert "SECRET" not in caplog.text
