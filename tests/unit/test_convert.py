"""A file of PyTorch's becomes safetensors where nothing can be lost, or is told why it does not."""

import io
import json
import os
import runpy
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from dflmoe.data import untrusted
from dflmoe.data.checkpoints import WHY_NOT, check_version, read_checkpoint
from dflmoe.data.untrusted import tensors_of
from dflmoe.data.weights import describe, read_weights, write_weights
from dflmoe.errors import DataFileError, DflmoeError, MissingExtraError, NetworkError
from dflmoe.networks import build, without_statistics
from dflmoe.networks.affine import Affine, folded
from dflmoe.networks.blocks import chain
from dflmoe.networks.catalogue import body_prefix
from dflmoe.networks.public import public_body, weights_for
from dflmoe.types import Params, generator

SHAPE = (1, 16, 16)
NETWORK = build("resnet5", SHAPE, 2)


def drawn(module: nn.Module, seed: int = 0) -> Params:
    rng = generator(seed, "weights")
    return {n: torch.randn(p.shape, generator=rng) for n, p in module.state_dict().items()}


BODY = drawn(NETWORK.body)
WHOLE = BODY | {"classifier.weight": torch.ones(2, 32), "classifier.bias": torch.ones(2)}


def saved(held: object, *, legacy: bool = False) -> bytes:
    """Return what PyTorch writes."""
    stream = io.BytesIO()
    torch.save(held, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def file(folder: Path, held: object, *, legacy: bool = False) -> Path:
    path = folder / "model.pt"
    path.write_bytes(saved(held, legacy=legacy))
    return path


def read(raw: bytes) -> tuple[str, str, list[str], Params]:
    """Return what comes of a file, in this process: these files are our own."""
    (outcome, named, left_out), tensors = tensors_of(io.BytesIO(raw), len(raw))
    return outcome, named, left_out, tensors


class Runs:
    """What would touch a file if it were unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.touched}",)


# --- in a process of its own ---


def test_a_state_dict_becomes_the_body_that_it_is(tmp_path: Path) -> None:
    parallel = {f"module.{name}": p for name, p in WHOLE.items()}
    checkpoint = {"state_dict": parallel, "epoch": 7, "optimizer": {"lr": 0.1}}
    got = read_checkpoint(file(tmp_path, checkpoint))
    assert got.left_out == ("epoch", "optimizer")
    weights, beside = weights_for(got.weights, "resnet5", SHAPE, 2)
    assert set(beside) == {"classifier.weight", "classifier.bias"}
    write_weights(tmp_path / "body.safetensors", weights, {"made_by": "a test"})
    public = public_body(NETWORK, read_weights(tmp_path / "body.safetensors"))
    for name, p in public.body.named_parameters():
        assert torch.equal(p, BODY[name.removeprefix("body.")])


def test_code_in_a_file_is_not_run_and_is_told(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    path = file(tmp_path, {"weight": torch.ones(2), "other": Runs(touched)})
    with pytest.raises(DataFileError, match=r"objects beside tensors \(posix\.system\).*save a"):
        read_checkpoint(path)
    assert not touched.exists()


def test_a_file_that_asks_for_more_memory_than_it_has_is_given_up(tmp_path: Path) -> None:
    numbers, claimed = (b"J" + count.to_bytes(4, "little") for count in (70_000, 2**31 - 1))
    raw = saved({"weight": torch.zeros(70_000)}, legacy=True)
    assert numbers in raw
    path = tmp_path / "model.pt"
    path.write_bytes(raw.replace(numbers, claimed))  # 8 GiB
    with pytest.raises(DataFileError, match="more time or memory than a file of its size"):
        read_checkpoint(path)


def test_the_process_that_reads_knows_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFLMOE_HOME", "/a/secret/place")
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import json, os, pathlib\n"
        "seen = {'outcome': 'nothing', 'named': json.dumps([dict(os.environ), os.getcwd()])}\n"
        "pathlib.Path('said.json').write_text(json.dumps(seen))\n"
    )
    monkeypatch.setattr(untrusted, "__file__", str(spy))
    with pytest.raises(DataFileError, match="no state dict") as told:
        read_checkpoint(file(tmp_path, {}))
    assert "secret" not in str(told.value)
    assert "HOME" not in str(told.value)
    assert str(Path.cwd()) not in str(told.value)


OFFLINE = """
import runpy, socket, sys
module = runpy.run_path(sys.argv[1])
module["leave_the_network"]()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)
except OSError:
    sys.exit(3)
"""


def test_the_process_that_reads_is_offline_where_an_ordinary_user_may_be() -> None:
    asked = ["unshare", "--user", "--net", "true"]
    possible = subprocess.run(asked, check=False).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, untrusted.__file__, str(port)], check=False
        )
    assert done.returncode == (3 if possible else 0)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="no JSON"),
        pytest.param('{"outcome": "read"}', id="no weights"),
        pytest.param('{"outcome": "well"}', id="an unknown outcome"),
        pytest.param('{"outcome": "nothing", "named": "\\u001b[2J"}', id="a terminal's language"),
    ],
)
def test_what_a_process_says_that_was_taken_over_is_not_believed(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text(f"import pathlib\npathlib.Path('said.json').write_text({said!r})\n")
    monkeypatch.setattr(untrusted, "__file__", str(spy))
    with pytest.raises(DataFileError) as told:
        read_checkpoint(file(tmp_path, {}))
    assert str(told.value).isprintable()


def test_a_process_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text("raise SystemExit(1)")
    monkeypatch.setattr(untrusted, "__file__", str(spy))
    with pytest.raises(DataFileError, match="no process could be started"):
        read_checkpoint(file(tmp_path, {}))


# --- what a file may be ---


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_weights_are_found_wherever_a_checkpoint_keeps_them(
    key: str | None, *, legacy: bool
) -> None:
    held = OrderedDict(WHOLE)
    outcome, _, _, tensors = read(saved(held if key is None else {key: held}, legacy=legacy))
    assert outcome == "read"
    assert all(torch.equal(tensors[name], p) for name, p in WHOLE.items())


def test_what_counts_and_what_is_no_tensor_is_left_out_and_told() -> None:
    held = {**nn.BatchNorm1d(3).state_dict(), "version": 3, "classes": ["no", "yes"]}
    _, _, left_out, tensors = read(saved(held))
    assert left_out == ["num_batches_tracked", "version", "classes"]
    assert set(tensors) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize(
    ("held", "outcome"),
    [
        pytest.param([torch.ones(2)], "nothing", id="a list"),
        pytest.param(torch.ones(2), "nothing", id="a tensor"),
        pytest.param({}, "nothing", id="an empty dict"),
        pytest.param({"student": {"w": torch.ones(2)}}, "nothing", id="another key"),
        pytest.param({"steps": torch.ones(2, dtype=torch.int64)}, "nothing", id="whole numbers"),
        pytest.param({"w": torch.ones(2, dtype=torch.complex64)}, "tensor", id="complex"),
        pytest.param({"w": torch.ones(2, 2).to_sparse()}, "tensor", id="sparse"),
        pytest.param({"w": torch.ones(2).to(torch.float8_e5m2)}, "tensor", id="eight bits"),
        pytest.param({"w": torch.ones(2, device="meta")}, "tensor", id="no numbers"),
        pytest.param({"w": torch.ones(1).expand(2**20, 2**20)}, "large", id="one number for all"),
        pytest.param(nn.Linear(2, 2), "objects", id="a module"),
        pytest.param({"path": Path("x")}, "objects", id="an object"),
    ],
)
def test_what_is_no_state_dict_is_told(held: object, outcome: str) -> None:
    got, _, _, tensors = read(saved(held))
    assert got == outcome
    assert not tensors


@pytest.mark.filterwarnings("ignore")  # PyTorch deprecates what is refused here
def test_torchscript_is_told_as_what_it_is() -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    assert read(stream.getvalue())[0] == "script"
    assert "holds code" in WHY_NOT["script"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_was_cut_off_is_told_at_every_length(*, legacy: bool) -> None:
    raw = saved({"weight": torch.ones(3)}, legacy=legacy)
    for length in range(1, len(raw) - 1, 7):
        assert read(raw[:length])[0] in {"damaged", "objects"}


RAW = saved({"weight": torch.ones(3)})


@given(at=st.integers(0, len(RAW) - 1), to=st.integers(0, 255))
def test_a_byte_that_was_changed_ends_in_weights_or_a_reason(at: int, to: int) -> None:
    outcome, _, _, _ = read(RAW[:at] + bytes([to]) + RAW[at + 1 :])
    assert outcome in {"read", *WHY_NOT}


@pytest.mark.parametrize(
    ("version", "safe"), [("2.4.1", False), ("2.5.1+cu124", False), ("2.6.0", True), ("3.0", True)]
)
def test_an_old_pytorch_is_not_trusted_with_it(version: str, *, safe: bool) -> None:
    if safe:
        check_version(version)
    else:
        with pytest.raises(MissingExtraError, match=r"2\.6 or newer"):
            check_version(version)


# --- safetensors, with and without a prefix ---


def test_a_prefix_is_taken_off_and_what_has_none_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**{f"encoder.{n}": p for n, p in BODY.items()}, "decoder.w": torch.ones(2)}, path)
    got = read_checkpoint(path, "encoder.")
    assert set(got.weights) == set(BODY)
    assert got.left_out == ("decoder.w",)
    with pytest.raises(DataFileError, match=r"begin with 'decoder\.', 'encoder\.'"):
        read_checkpoint(path, "trunk.")
    with pytest.raises(NetworkError, match=r"try --prefix encoder\.$"):
        weights_for(read_checkpoint(path).weights, "resnet5", SHAPE, 2)


@pytest.mark.parametrize("raw", [b"PK\x03\x04...", b"\x80\x02}q\x00."])
def test_a_pickle_is_no_file_of_weights_and_the_sentence_says_what_to_do(
    raw: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(raw)
    for reads in (read_weights, describe):
        with pytest.raises(DataFileError, match=r"may hold code.*dflmoe body convert .*model\.pt"):
            reads(path)


@given(at=st.integers(0, 400), to=st.integers(0, 255), length=st.integers(0, 500))
def test_a_spoilt_safetensors_file_is_read_or_refused(
    at: int, to: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoilt.safetensors"
    write_weights(path, {"a.weight": torch.ones(3, 2), "b": torch.ones(40)}, {"made_by": "me"})
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = to
    path.write_bytes(raw[: len(raw) - length % 50])
    for reads in (read_weights, describe):
        try:
            reads(path)
        except DataFileError as error:
            assert "\n" not in str(error)  # noqa: PT017 - it need not be raised


@pytest.mark.parametrize("made", [torch.tensor([torch.nan]), torch.ones(2, dtype=torch.int32)])
def test_what_is_no_finite_number_is_refused(made: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": made}, path)
    with pytest.raises(DataFileError, match="finite"):
        read_checkpoint(path)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    origin: dict[str, str | int | float] = {"network": "resnet5", "made_by": "me", "seed": 3}
    files = [tmp_path / f"{k}.safetensors" for k in range(8)]
    for k, path in enumerate(files):
        pairs = [*origin.items()][k % 3 :] + [*origin.items()][: k % 3]
        write_weights(path, dict(reversed(BODY.items())) if k % 2 else BODY, dict(pairs))
    assert len({path.read_bytes() for path in files}) == 1
    held, said = describe(files[0])
    assert json.loads(said or "") == origin
    assert {name: one.shape for name, one in held.items()} == {
        name: tuple(p.shape) for name, p in BODY.items()
    }


# --- what fits ---


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        pytest.param({"stem.conv.weight": None}, "have no 'stem.conv.weight'", id="missing"),
        pytest.param(
            {"stem.conv.weight": torch.ones(8, 3, 3, 3)},
            r"shape \(8, 3, 3, 3\) and the body's \(8, 1, 3, 3\)",
            id="another shape",
        ),
        pytest.param({"stem.conv.bias": torch.ones(8)}, "body's layers have not", id="left over"),
        pytest.param(
            {"stem.norm.running_mean": torch.ones(8), "stem.norm.running_var": torch.ones(8)},
            "without_statistics",
            id="BatchNorm",
        ),
    ],
)
def test_weights_of_another_architecture_are_told_in_one_sentence(
    changed: dict[str, torch.Tensor | None], says: str
) -> None:
    given = {n: p for n, p in {**BODY, **changed}.items() if p is not None}
    for refuses in (
        lambda: weights_for(given, "resnet5", SHAPE, 2),
        lambda: public_body(NETWORK, given),
    ):
        with pytest.raises(NetworkError, match=says) as told:
            refuses()
        assert "\n" not in str(told.value)


def test_a_body_of_one_layer_takes_the_names_of_the_whole_network() -> None:
    prefix = body_prefix("small_cnn", SHAPE, 2, at="block2")
    network = build("small_cnn", SHAPE, 2, at="block2")
    own = drawn(network.body)
    assert prefix == "block1."
    weights, beside = weights_for(
        {f"{prefix}{n}": p for n, p in own.items()} | {"classifier.bias": torch.ones(2)},
        "small_cnn", SHAPE, 2, at="block2",
    )  # fmt: skip
    assert beside == ("classifier.bias",)
    assert all(torch.equal(p, own[n]) for n, p in weights.items())
    public_body(network, weights)


def test_a_network_whose_body_has_no_weights_takes_none() -> None:
    with pytest.raises(NetworkError, match="no weights that could be given"):
        weights_for({}, "plain", (3,), 2)


# --- BatchNorm that has stopped learning ---


def normed(shape: tuple[int, ...] = SHAPE, outputs: int = 2) -> nn.Sequential:
    return chain(
        stem=nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU()),
        block=nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        classifier=nn.Linear(6, outputs),
    )


def unnormed(shape: tuple[int, ...] = SHAPE, outputs: int = 2) -> nn.Module:
    return without_statistics(normed(shape, outputs))


def seen(module: nn.Sequential) -> nn.Sequential:
    """Return a network whose BatchNorms have seen rows that are not standardised."""
    rng = generator(0, "seen")
    for _ in range(20):
        module(3 + 2 * torch.randn(16, *SHAPE, generator=rng))
    return module.eval()


def test_a_network_without_its_statistics_says_what_it_said_with_them() -> None:
    network = seen(normed())
    x = torch.randn(5, *SHAPE, generator=generator(1, "x"))
    with torch.no_grad():
        torch.testing.assert_close(without_statistics(network)(x), network(x))
    assert not [*without_statistics(network).buffers()]
    assert [*network.buffers()]


def test_its_state_dict_is_converted_to_weights_that_say_the_same() -> None:
    network = seen(normed())
    name = "tests.unit.test_convert:unnormed"
    _, _, _, state = read(saved(network.state_dict()))
    weights, beside = weights_for(state, name, SHAPE, 2, at="classifier")
    assert set(beside) == {"classifier.weight", "classifier.bias"}
    public = public_body(build(name, SHAPE, 2, at="classifier"), weights)
    x = torch.randn(5, *SHAPE, generator=generator(1, "x"))
    with torch.no_grad():
        torch.testing.assert_close(public.body(x), network[:-1](x))


def test_weights_that_have_no_statistics_any_more_stay_as_they_are() -> None:
    network = without_statistics(seen(normed()))
    state = network.state_dict()
    assert folded(network, state) == state


def test_a_batchnorm_that_looks_at_the_rows_beside_is_refused() -> None:
    with pytest.raises(NetworkError, match="'1' is a BatchNorm that keeps no statistics"):
        without_statistics(
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
        )


def test_alone_a_batchnorm_becomes_two_numbers_a_channel() -> None:
    norm = nn.BatchNorm1d(2, eps=0.0).eval()
    norm.load_state_dict(
        {
            "weight": torch.tensor([2.0, 1.0]), "bias": torch.tensor([1.0, 0.0]),
            "running_mean": torch.tensor([3.0, 0.0]), "running_var": torch.tensor([4.0, 1.0]),
            "num_batches_tracked": torch.tensor(1),
        }
    )  # fmt: skip
    alone = without_statistics(norm)
    assert isinstance(alone, Affine)
    assert alone.weight.tolist() == [1, 1]  # 2 / sqrt(4)
    assert alone.bias.tolist() == [-2, 0]  # 1 - 3 * 1


def test_the_module_that_reads_imports_nothing_of_ours() -> None:
    found = runpy.run_path(untrusted.__file__)
    assert not [n for n, one in found.items() if "dflmoe" in str(getattr(one, "__module__", ""))]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DflmoeError, match="not there"):
        read_checkpoint(tmp_path / "no.pt")
