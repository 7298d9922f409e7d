"""Commands as a user types them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from dflmoe.errors import DataFileError, OptionError
from dflmoe.networks import build

pytestmark = pytest.mark.e2e

RUN = [sys.executable, "-m", "dflmoe.cli.main"]
SMALL = ["--folds", "2", "--repeats", "1"]


def dflmoe(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False)


def good(rows: int = 48) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = np.arange(rows) % 2
    return pd.DataFrame(
        {
            "site": np.repeat(["north", "south"], rows // 2),
            "label": label,
            "dose": rng.normal(size=rows) + label,
            "ward": rng.choice(["a", "b", "c"], rows),
            "id": np.arange(rows),
        }
    )


def csv(change: Callable[[pd.DataFrame], object]) -> Callable[[Path], Path]:
    """Return what writes a table with one thing wrong."""

    def write(folder: Path) -> Path:
        frame = good()
        changed = change(frame)
        path = folder / "data.csv"
        (changed if isinstance(changed, pd.DataFrame) else frame).to_csv(path, index=False)
        return path

    return write


def npz(**arrays: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "data.npz"
        rng = np.random.default_rng(0)
        whole = {"x": rng.normal(size=(48, 3)), "y": np.arange(48) % 2,
                 "site": np.repeat([0, 1], 24)} | arrays  # fmt: skip
        np.savez(path, **{k: v for k, v in whole.items() if v is not None})  # type: ignore[arg-type]  # arrays, whatever they hold
        return path

    return write


def text(content: str, name: str = "data.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def column(name: str, values: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - pandas' own
    return csv(lambda f: f.assign(**{name: values}))


BAD = [
    pytest.param(lambda d: d / "none.csv", [], 4, "none.csv is not there", id="missing file"),
    pytest.param(lambda d: d / "none.npz", [], 4, "none.npz is not there", id="missing arrays"),
    pytest.param(text("", "x.xlsx"), [], 4, "unknown kind", id="unknown kind"),
    pytest.param(text(""), [], 4, "cannot be read", id="empty file"),
    pytest.param(text("site,label,x\n"), [], 4, "no rows", id="no rows"),
    pytest.param(text("junk", "x.npz"), [], 4, "not a readable .npz", id="broken arrays"),
    pytest.param(npz(x=np.array([{}] * 48)), [], 5, "pickled", id="pickles"),
    pytest.param(npz(site=None), [], 6, "'site'", id="array missing"),
    pytest.param(npz(y=np.arange(40) % 2), [], 4, "y has 40", id="lengths differ"),
    pytest.param(npz(y=np.linspace(0, 1, 48)), [], 7, "fractions", id="y of fractions"),
    pytest.param(npz(x=np.zeros((48, 2, 2, 2, 2))), [], 4, "shape", id="five dimensions"),
    pytest.param(csv(lambda _: None), ["--site-column", "hospital"], 6, "'hospital'",
                 id="unknown site column"),
    pytest.param(csv(lambda _: None), ["--label", "outcome"], 6, "'outcome'", id="unknown label"),
    pytest.param(csv(lambda _: None), ["--patient-column", "who"], 6, "'who'",
                 id="unknown patient column"),
    pytest.param(csv(lambda _: None), ["--drop", "colour"], 6, "'colour'", id="unknown drop"),
    pytest.param(csv(lambda f: f[["site", "label"]]), [], 6, "no columns left", id="no features"),
    pytest.param(column("note", [f"text {k}" for k in range(48)]), [], 6, "--drop 'note'",
                 id="free text"),
    pytest.param(column("void", np.nan), [], 6, "'void'", id="empty column"),
    pytest.param(column("dose", [np.inf] + [0.0] * 47), [], 6, "infinite", id="infinite"),
    pytest.param(column("site", ["north"] * 47 + [None]), [], 6, "empty in 1 row", id="no site"),
    pytest.param(column("label", [0.5, 1.5] * 24), [], 7, "measurement", id="continuous label"),
    pytest.param(column("label", range(48)), [], 7, "48 different", id="too many classes"),
    pytest.param(column("label", [0, 1] * 23 + [0, None]), [], 7, "empty in 1", id="NaN label"),
    pytest.param(column("label", 1), [], 7, "every row", id="one class everywhere"),
    pytest.param(csv(lambda f: f.assign(label=np.where(f.site == "north", f.label, 0))), [], 8,
                 "'south'", id="a site of one class"),
    pytest.param(csv(lambda f: f[:36]), [], 8, "'south' has 12 rows", id="a small site"),
    pytest.param(column("site", "north"), [], 8, "two sites", id="one site only"),
    pytest.param(csv(lambda _: None), ["--leave-out", "west"], 8, "'west'", id="unknown left out"),
    pytest.param(csv(lambda _: None), ["--schema", "no.toml"], 9, "no.toml", id="no schema"),
    pytest.param(csv(lambda _: None), ["--rounds", "0"], 10, "--rounds is 0", id="no rounds"),
    pytest.param(csv(lambda _: None), ["--folds", "1"], 10, "--folds is 1", id="one fold"),
    pytest.param(csv(lambda _: None), ["--repeats", "0"], 10, "--repeats is 0", id="no repeats"),
    pytest.param(csv(lambda _: None), ["--train-rows", "3"], 10, "--train-rows", id="three rows"),
    pytest.param(csv(lambda _: None), ["--mode", "fast"], 10, "'fast'", id="unknown mode"),
    pytest.param(csv(lambda _: None), ["--sensitivity", "2"], 10, "--sensitivity", id="twice all"),
    pytest.param(csv(lambda _: None), ["--value-per-decision", "5"], 10, "go together",
                 id="half a value"),
    pytest.param(csv(lambda _: None), ["--out", "/proc/none"], 11, "/proc/none",
                 id="folder that cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "options", "code", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_its_own_exit_code(
    write: Callable[[Path], Path],
    options: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dflmoe.cli.main import main  # noqa: PLC0415 - in process, to save forty starts

    out = tmp_path / "out"
    arguments = [str(write(tmp_path)), *options]
    if "--out" not in options:
        arguments += ["--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["dflmoe", "pilot", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not out.exists()


def test_an_unknown_option_is_a_usage_error() -> None:
    ended = dflmoe("pilot", "--colour", "blue")
    assert ended.returncode == 2
    assert "--colour" in ended.stderr


def test_a_table_of_ones_own_from_end_to_end(tmp_path: Path) -> None:
    frame = good(96)
    frame.loc[72:, "site"] = "tiny"
    frame.loc[72:84, "site"] = "east"
    path = tmp_path / "cohort.csv"
    frame.to_csv(path, index=False)
    out = tmp_path / "out"

    ended = dflmoe("pilot", str(path), "--patient-column", "id", "--leave-out", "tiny",
                   "--leave-out", "east", "--json", "--out", str(out), *SMALL)  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    numbers = json.loads(ended.stdout)
    assert numbers == json.loads((out / "report.json").read_text())
    assert [s["name"] for s in numbers["sites"]] == ["north", "south"]
    assert any("left out" in w for w in numbers["warnings"])
    assert numbers["patients_named"]


def test_images_from_end_to_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(48) % 2
    x = rng.integers(0, 100, (48, 8, 8)) + 100 * y[:, None, None]
    path = tmp_path / "images.npz"
    np.savez(path, x=x.astype(np.uint8), y=y, site=np.repeat(["n", "s"], 24))
    ended = dflmoe("pilot", str(path), "--out", str(tmp_path / "out"), *SMALL)
    assert ended.returncode == 0, ended.stderr
    assert "Mean gain" in ended.stdout


def test_a_network_of_ones_own_begins_with_public_weights(tmp_path: Path) -> None:
    data, weights = tmp_path / "data.csv", tmp_path / "body.safetensors"
    good().drop(columns=["ward", "id"]).to_csv(data, index=False)
    save_file(dict(build("mlp", (1,), 2).body.state_dict()), weights)
    command = ["pilot", str(data), "--out", str(tmp_path / "out"), *SMALL, "--network", "mlp"]
    command += ["--head-from", "classifier"]
    ended = dflmoe(*command, "--public-body", str(weights))
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "begins with public weights and stays so" in page
    refused = dflmoe(*command, "--public-body", str(data))
    assert refused.returncode == DataFileError.exit_code, refused.stderr
    assert "cannot be read" in refused.stderr
    refused = dflmoe(*command, "--body-learns", "block1")
    assert refused.returncode == OptionError.exit_code
    assert "give that with --public-body" in refused.stderr


def test_one_agreed_network_is_averaged_and_lent_beside_the_sites_own(tmp_path: Path) -> None:
    data, out = tmp_path / "data.csv", tmp_path / "out"
    good().drop(columns=["ward", "id"]).to_csv(data, index=False)
    command = ["pilot", str(data), "--out", str(out), *SMALL, "--charter", "plain", "--json"]
    ended = dflmoe(*command)
    assert ended.returncode == 0, ended.stderr
    numbers = json.loads(ended.stdout)
    assert numbers["rounds"] == 16
    assert any("It is plain, lent as a whole" in why for why in numbers["choices"])
    north = next(site for site in numbers["sites"] if site["name"] == "north")
    assert "north (own network)" in north["gate_share"]
    refused = dflmoe(*command, "--mode", "paper")
    assert refused.returncode == OptionError.exit_code
    assert "--charter go with --mode auto" in refused.stderr
    refused = dflmoe(*command, "--network", "mlp", "--public-body", str(data))
    assert refused.returncode == OptionError.exit_code
    assert "choose one of them" in refused.stderr


@pytest.mark.parametrize(
    ("after", "partial"),
    [
        pytest.param("7 of", False, id="in the first repeat"),
        pytest.param("12 of", True, id="in the second repeat"),
    ],
)
def test_ctrl_c_leaves_a_readable_report_or_says_that_there_is_none(
    after: str, partial: bool, tmp_path: Path
) -> None:
    frame, out = good(), tmp_path / "out"
    frame.to_csv(tmp_path / "data.csv", index=False)
    command = [*RUN, "pilot", str(tmp_path / "data.csv"), "--drop", "id", "--out", str(out)]
    with subprocess.Popen(
        [*command, "--repeats", "50", "--folds", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            if line.startswith(after) and not any(s.startswith(after) for s in said):
                process.send_signal(signal.SIGINT)
            said.append(line)
        process.wait(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in "".join(said)
    page = out / "report.html"
    assert page.exists() is partial
    if partial:
        numbers = json.loads((out / "report.json").read_text())
        assert numbers["partial"]
        assert numbers["repeats_done"] == 1
        assert "<b>Partial.</b>" in page.read_text()
    else:
        assert "no report was written" in "".join(said)
