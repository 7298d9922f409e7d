"""Every line of docs/tutorials/walkthroughs.md, on small files of every kind."""

import re
import shlex
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
import pandas as pd
import pydicom
import pytest
from edfio import Edf, EdfAnnotation, EdfSignal, Patient, Recording
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file

from dflmoe.cli.main import app
from dflmoe.core.auto import IMAGE_NETWORK
from dflmoe.pilot import plan

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs/tutorials/walkthroughs.md"
FEW_STEPS = replace(IMAGE_NETWORK, max_steps=20, judge_every=10)
"""Networks for images and series are trained this long here, and ten times as long for users."""

ROWS, NEW = 40, 6
"""Rows of a site, and of new patients."""

Pixels = NDArray[np.float64]


def picture(rng: np.random.Generator, side: int, ill: bool) -> Pixels:
    """Return a square, 0 to 1, that is brighter in its middle if it shows something."""
    found: Pixels = rng.uniform(0.2, 0.5, (side, side))
    if ill:
        found[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] += 0.4
    return found


def frame(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    ill = np.arange(rows) % 2
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "age": rng.normal(60, 10, rows) + 12 * ill,
            "smokes": np.where(rng.random(rows) < 0.3 + 0.3 * ill, "yes", "no"),
            "died": ill,
        }
    )


def tables(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    made = frame(rng, rows)
    (made if known else made.drop(columns="died")).to_csv(folder / "cohort.csv", index=False)


def database(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    if not known:
        tables(folder, rng, rows, known=False)
        return
    made = frame(rng, rows).rename(columns={"id": "patient"})
    connection = sqlite3.connect(folder / "warehouse.db")
    made.to_sql("stays", connection, index=False)
    connection.close()


def images(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    told = []
    for k in range(rows):
        file = Path(f"s{k // 2:03}/{k:04}.png")
        path = folder / ("tiles" if known else "") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        ill = bool(k // 2 % 2)
        Image.fromarray((255 * picture(rng, 40 + k % 3, ill)).clip(0, 255).astype(np.uint8)).save(
            path
        )
        told.append((str(file), "tumour" if ill else "none", f"s{k // 2:03}"))
    if known:
        pd.DataFrame(told, columns=["file", "diagnosis", "slide"]).to_csv(
            folder / "labels.csv", index=False
        )


def dicom(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    sample = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(sample, str)
    told = []
    for k in range(rows):
        scan = pydicom.dcmread(sample)
        ill = bool(k // 2 % 2)
        units = (-160 + 400 * picture(rng, scan.Rows, ill)).round()
        stored = (units - float(scan.RescaleIntercept)) / float(scan.RescaleSlope)
        scan.PixelData = stored.astype(np.int16).tobytes()
        scan.PatientID = f"{folder.name}-{k // 2}"
        scan.SOPInstanceUID = pydicom.uid.UID(f"1.2.3.{k + 1}")
        path = folder / ("export" if known else "") / f"IM{k:04}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        scan.save_as(path)
        told.append((path.name, "lesion" if ill else "clear"))
    if known:
        pd.DataFrame(told, columns=["file", "finding"]).to_csv(folder / "reports.csv", index=False)


def nifti(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    told = []
    for k in range(rows):
        ill = bool(k % 2)
        volume = np.stack([1000 * picture(rng, 36, ill) for _ in range(5)], axis=2)
        file = Path(f"sub-{folder.name}{k:02}/anat/sub-{folder.name}{k:02}_T1w.nii.gz")
        path = folder / ("bids" if known else "") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), path)
        told.append((str(file), "patient" if ill else "control"))
    if known:
        pd.DataFrame(told, columns=["file", "group"]).to_csv(
            folder / "participants.csv", index=False
        )


def edf(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    where = folder / ("sleep" if known else "")
    where.mkdir(exist_ok=True)
    nights, epochs = (10, rows // 10) if known else (1, rows)
    first = 10 * (len(folder.name) % 5)
    for night in range(nights):
        subject = f"SC4{first + night:02}1"
        asleep = np.arange(epochs) % 2
        time = np.arange(epochs * 30 * 100) / 100
        wave = np.where(
            asleep.repeat(3000), np.sin(2 * np.pi * 2 * time), np.sin(2 * np.pi * 9 * time)
        )
        noise = rng.normal(0, 8, len(time))
        signal = EdfSignal(
            np.clip(40 * wave + noise, -190, 190),
            100,
            label="EEG Fpz-Cz",
            physical_dimension="uV",
            physical_range=(-200, 200),
        )
        patient = Patient(code="X")
        began = Recording(startdate=datetime(2020, 1, 1).date())
        Edf([signal], patient=patient, recording=began).write(where / f"{subject}E0-PSG.edf")
        notes = [
            EdfAnnotation(30 * k, 30, f"Sleep stage {'2' if one else 'W'}")
            for k, one in enumerate(asleep)
        ]
        if known:
            scored = Edf([], annotations=notes, patient=patient, recording=began)
            scored.write(where / f"{subject}EC-Hypnogram.edf")


def medmnist(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    y = np.arange(rows) % 2
    x = np.stack([picture(rng, 28, bool(k)) for k in y])
    if not known:
        np.savez(folder / "rows.npz", x=(2 * x - 1).astype(np.float32)[:, None])
        return
    bytes_ = (255 * x).clip(0, 255).astype(np.uint8)
    parts = {"train": slice(0, 24), "val": slice(24, 32), "test": slice(32, rows)}
    arrays = {f"{part}_images": bytes_[at] for part, at in parts.items()}
    arrays |= {f"{part}_labels": y[at, None].astype(np.uint8) for part, at in parts.items()}
    np.savez(folder / "pneumoniamnist.npz", **arrays)  # type: ignore[arg-type]  # its stub takes no mapping


def arrays(folder: Path, rng: np.random.Generator, rows: int, *, known: bool) -> None:
    y = np.arange(rows) % 2
    x = rng.normal(size=(rows, 5)).astype(np.float32) + y[:, None]
    more = {"y": y, "patient": np.arange(rows)} if known else {}
    np.savez(folder / "rows.npz", x=x, **more)  # type: ignore[arg-type]  # likewise


MADE: dict[str, Callable[..., None]] = {
    "Tables": tables,
    "A database": database,
    "Images": images,
    "DICOM": dicom,
    "NIfTI": nifti,
    "EDF": edf,
    "MedMNIST": medmnist,
    "Arrays": arrays,
}


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", DOCS.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_an_example_of_every_kind() -> None:
    assert set(sections()) == set(MADE)


@pytest.mark.parametrize("kind", MADE)
def test_every_line_of_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (settings,) = re.findall(r"```toml\n(.*?)```", sections()[kind], re.S)
    (commands,) = re.findall(r"```console\n(.*?)```", sections()[kind], re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "IMAGE_NETWORK", FEW_STEPS)
    for seed, name in enumerate(("north", "south", "new")):
        folder = tmp_path / name
        folder.mkdir()
        known = name != "new"
        MADE[kind](folder, np.random.default_rng(seed), ROWS if known else NEW, known=known)
        if known:
            (folder / "site.toml").write_text(settings)
    for line in commands.strip().splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            app()
        said = capsys.readouterr()
        assert ended.value.code in (0, None), f"{line}\n{said.out}{said.err}"
    (predictions,) = tmp_path.glob("predictions.*")
    assert predictions.stat().st_size > 0
    (model,) = tmp_path.glob("model.*")
    if model.suffix == ".onnx":
        onnxruntime.InferenceSession(model)
    assert (tmp_path / "MODELCARD.md").exists()
