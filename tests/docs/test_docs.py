"""What the docs promise is there, and what is there is in the docs."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel
from scripts.cli_reference import reference
from scripts.wire_vectors import vectors
from securesystemslib.signer import CryptoSigner
from tests.conftest import families
from typer.core import TyperGroup

import dflmoe
from dflmoe import errors
from dflmoe.bench.experiment import load, shipped
from dflmoe.bench.methods import RIVALS, names
from dflmoe.cli import bench
from dflmoe.cli.main import app
from dflmoe.cli.pilot import pilot
from dflmoe.data.sets import NAMES
from dflmoe.data.source import SETTINGS, Source
from dflmoe.networks import names as networks
from dflmoe.networks import split
from dflmoe.node.agreed import network_of
from dflmoe.node.settings import Settings
from dflmoe.security.audit import Entry, Kind
from dflmoe.security.charter import Charter
from dflmoe.security.policy import POLICY, Policy
from dflmoe.wire.envelope import HEAD, opened
from dflmoe.wire.frames import unframed
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.parcel import unpacked
from dflmoe.wire.payload import HeadSpec, decode

ROOT = Path(__file__).parents[2]


def _page(name: str) -> str:
    """Return the one page of the docs that has this name."""
    (found,) = (ROOT / "docs").rglob(name)
    return found.read_text()


def test_every_error_has_its_own_exit_code_and_a_line_in_the_docs() -> None:
    classes: list[type[errors.DflmoeError]] = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.DflmoeError)
    ]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert not {2, 130} & set(codes)
    table = (ROOT / "docs/reference/errors.md").read_text()
    for one in classes:
        assert f"| `{one.__name__}` | {one.exit_code} |" in table
        assert one.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("command", "page", "arguments"),
    [
        pytest.param(pilot, "pilot.md", {"data"}, id="pilot"),
        pytest.param(bench.run, "bench.md", {"experiment"}, id="bench run"),
        pytest.param(bench.page, "bench.md", {"experiment"}, id="bench page"),
        pytest.param(bench.list_experiments, "bench.md", set(), id="bench list"),
    ],
)
def test_every_option_is_in_the_docs(
    command: Callable[..., None], page: str, arguments: set[str]
) -> None:
    docs = _page(page)
    for name in inspect.signature(command).parameters.keys() - arguments:
        option = "--json" if name == "as_json" else f"--{name.replace('_', '-')}"
        assert f"`{option}`" in docs


@pytest.mark.parametrize(
    ("group", "page"),
    [
        ("site", "federation.md"),
        ("federation", "federation.md"),
        ("head", "federation.md"),
        ("store", "federation.md"),
        ("node", "node.md"),
        ("demo", "node.md"),
        ("doctor", "node.md"),
        ("data", "data.md"),
        ("audit", "audit.md"),
        ("predict", "models.md"),
        ("export", "models.md"),
        ("card", "models.md"),
        ("body", "bodies.md"),
        ("privacy", "policy.md"),
    ],
)
def test_every_command_of_a_node_and_its_options_are_in_the_docs(group: str, page: str) -> None:
    rows = _page(page).splitlines()
    root = typer.main.get_group(app)
    found = root.get_command(typer.Context(root), group)
    commands = found.commands if isinstance(found, TyperGroup) else {"": found}
    assert commands
    for name, command in commands.items():
        assert command is not None
        (row,) = [r for r in rows if r.startswith(f"| `dflmoe {group} {name}".rstrip())]
        for option in command.params:
            for spelt in option.opts:
                if spelt.startswith("--") and spelt not in {"--home", "--help"}:
                    assert f"`{spelt}`" in row, f"{spelt} of {group} {name}"


def test_every_key_of_a_charter_is_in_the_docs_and_their_example_is_one(tmp_path: Path) -> None:
    docs = (ROOT / "docs/reference/charter.md").read_text()
    for key in Charter.model_fields.keys() - {"format", "federation"}:
        assert f"`{key}`" in docs, key
    (shown,) = re.findall(r"```toml\n(.*?)```", docs, re.S)
    path = tmp_path / "charter.toml"
    path.write_text(shown)
    assert network_of(Charter.found(path)).width == 13


def test_every_setting_of_a_node_is_in_the_docs_and_their_example_is_one(tmp_path: Path) -> None:
    docs = (ROOT / "docs/reference/site-toml.md").read_text()
    for key in Settings.model_fields.keys() - {"data"}:
        assert f"| `{key}` |" in docs, key
    (shown,) = re.findall(r"```toml\n(.*?)```", docs, re.S)
    path = tmp_path / SETTINGS
    path.write_text(shown)
    assert Settings.load(path).data is not None


def test_every_setting_of_a_source_is_in_the_docs() -> None:
    docs = (ROOT / "docs/reference/site-toml.md").read_text()
    for name, field in Source.model_fields.items():
        assert f"| `{field.alias or name}` |" in docs, name
    for section in ("dicom", "nifti", "edf"):
        kind = Source.model_fields[section].annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        for key in kind.model_fields:
            assert f"| `{section}.{key}` |" in docs, key


def test_every_key_of_a_policy_is_in_the_docs_and_their_example_is_one(tmp_path: Path) -> None:
    docs = (ROOT / "docs/reference/policy.md").read_text()
    for key in Policy.model_fields:
        assert f"| `{key}` |" in docs, key
    (shown,) = re.findall(r"```toml\n(.*?)```", docs, re.S)
    path = tmp_path / POLICY
    path.write_text(shown)
    assert Policy.load(path).min_rows == 100


def test_every_kind_of_entry_of_the_log_is_in_the_docs() -> None:
    (table, *_) = re.findall(
        r"\| kind \|.*?\n\n", (ROOT / "docs/reference/audit.md").read_text(), re.S
    )
    assert set(get_args(Kind)) <= set(re.findall(r"`(\w+)`", table))


def test_every_family_has_tests() -> None:
    wanted = {*(f"T{k}" for k in range(1, 19)), *(f"S{k}" for k in range(1, 23))}
    found = families()
    assert set(found) == wanted
    assert all(found.values())


@pytest.mark.parametrize("page", ["threat-model.md", "audit.md", "tests.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", _page(page)))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert named
    assert named <= there, named - there


def test_the_bench_page_names_all_that_can_be_played() -> None:
    docs = (ROOT / "docs/how-to/bench.md").read_text()
    for name in (*shipped(), *(n for n in names() if n not in RIVALS), *NAMES, *networks()):
        assert f"`{name}`" in docs, name
    rivals = (ROOT / "docs/reference/baselines.md").read_text()
    for name in RIVALS:
        assert f"`{name}`" in rivals, name


def test_the_docs_experiment_can_be_loaded(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/how-to/bench.md").read_text(), re.S)
    path = tmp_path / "ward.toml"
    path.write_text(shown)
    assert load(str(path)).task("ward").set == "busi"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 1
    assert blocks[0].count("\n") < 20
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})  # noqa: S102 - the README's own example
    assert (tmp_path / "runs/mine/report.html").is_file()


def test_the_docs_network_with_batchnorm_can_have_a_public_body() -> None:
    (shown,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/how-to/bodies.md").read_text(), re.S
    )
    ours: dict[str, Any] = {}
    exec(compile(shown, "docs/how-to/bodies.md", "exec"), ours)  # noqa: S102 - the docs' own example
    assert (
        split(ours["make"]((3, 16, 16), 2), "classifier", shape=(3, 16, 16), outputs=2).width == 32
    )


def test_the_docs_link_to_what_is_there() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reference_of_commands_is_what_the_commands_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DFLMOE_HOME", raising=False)
    assert (ROOT / "docs/reference/cli.md").read_text() == reference()


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    missing = [n for n in dflmoe.__all__ if not re.search(rf"\b{re.escape(n)}\b", page)]
    assert missing == ["__version__"]


def test_the_vectors_of_the_wire_are_what_is_written_and_can_be_read() -> None:
    told = json.loads((ROOT / "docs/reference/wire-vectors.json").read_text())
    assert told == vectors()
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(told["secret_key"]))
    keys = {(one := CryptoSigner(key).public_key).keyid: one}
    parcel = unpacked(bytes.fromhex(told["parcel"]), "it")
    assert parcel.envelope == told["envelope"].encode()
    manifest = Manifest.read(opened(parcel.envelope, HEAD, keys, "it").payload, "it")
    assert manifest.signed().decode() == told["manifest"]
    shapes = {name: torch.tensor(p).shape for name, p in told["tensors"].items()}
    spec = HeadSpec({name: tuple(shape) for name, shape in shapes.items()})
    tensors = decode(parcel.payload, manifest.payload, spec, "ann")
    for name, p in told["tensors"].items():
        assert torch.equal(tensors[name], torch.tensor(p))
    for kind, raw in told["frames"].items():
        assert type(unframed(bytes.fromhex(raw))).__name__.lower() == kind
    assert Entry.read(told["audit_entry"].encode(), "it").digest == told["audit_digest"]


HEARTS, DEEPER, BRAINS = (
    "Heart disease, four hospitals, linear heads on agreed features",
    "Heart disease, four hospitals, whole light networks as heads",
    "Brain tumour MRI, eight sites, linear heads on a body learnt on chest X-rays",
)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _results(page: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the tables of a bench page, by heading and method."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    heading, columns = "", [""]
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| method |"):
            columns = _cells(line)
        elif line.startswith("| "):
            found[heading, _cells(line)[0]] = dict(zip(columns, _cells(line), strict=False))
    return found


def test_what_the_privacy_page_says_was_measured_stands_in_the_results() -> None:
    results = _results((ROOT / "docs/bench/privacy.md").read_text())
    page = (ROOT / "docs/explanation/privacy.md").read_text()
    shown = re.findall(r"^\| (?:hearts|brains) · .*$", page, re.M)
    assert len(shown) == 20
    for line in shown:
        name, *figures = _cells(line)
        task, condition, *depth = name.split(" · ")
        deeper = depth == ["deeper"]
        title = BRAINS if task == "brains" else DEEPER if deeper else HEARTS
        heading = f"{title} · {condition}" + (", deeper head" * (deeper and task == "brains"))
        alone, ours = results[heading, "local only"], results[heading, "dflmoe"]
        kept = ("accuracy, points", "gain over local", "attack AUROC", "bytes a site")
        assert figures == [alone[kept[0]], *(ours[column] for column in kept)], name
