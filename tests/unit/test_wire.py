"""Nothing is believed before it is checked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from dflmoe.errors import HeadError
from dflmoe.types import Params
from dflmoe.wire.payload import HeadSpec, WireDtype, decode, digest, encode, lost_precision

HEAD: Params = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}
SPEC = HeadSpec({"weight": (2, None), "bias": (2,)}, max_bytes=1000, max_norm=100.0)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 4), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_encode_and_decode_are_inverse(rows: int, width: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    head = {"weight": torch.randn(rows, width, generator=rng)}
    payload = encode(head)
    back = decode(payload, digest(payload), HeadSpec({"weight": (rows, width)}), "ann")
    torch.testing.assert_close(back, head, rtol=0, atol=0)


def sent(**changed: torch.Tensor) -> bytes:
    return save({**HEAD, **changed})


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        pytest.param(sent(bias=torch.zeros(400)), "limit", id="too large"),
        pytest.param(b"\x80\x04N.", "no safetensors", id="a pickle"),
        pytest.param(b"", "no safetensors", id="empty"),
        pytest.param(save({"weight": HEAD["weight"]}), "holds", id="a tensor missing"),
        pytest.param(sent(extra=torch.zeros(1)), "holds", id="a tensor more"),
        pytest.param(sent(bias=torch.zeros(3)), "not", id="wrong shape"),
        pytest.param(sent(bias=torch.zeros(2, 1)), "not", id="wrong dimension"),
        pytest.param(sent(bias=torch.zeros(2).double()), "not", id="wrong dtype"),
        pytest.param(sent(bias=torch.tensor([0.0, torch.nan])), "finite", id="not a number"),
        pytest.param(sent(bias=torch.tensor([0.0, torch.inf])), "finite", id="infinite"),
        pytest.param(sent(weight=1e4 * HEAD["weight"]), "norm", id="huge matrix"),
        pytest.param(sent(bias=torch.tensor([0.0, 1e4])), "norm", id="huge bias"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(payload: bytes, sentence: str) -> None:
    with pytest.raises(HeadError, match=sentence):
        decode(payload, digest(payload), SPEC, "mallory")


def test_a_changed_payload_is_refused_before_it_is_parsed() -> None:
    payload = encode(HEAD)
    changed = payload[:-1] + bytes([payload[-1] ^ 1])
    with pytest.raises(HeadError, match="changed on its way"):
        decode(changed, digest(payload), SPEC, "ann")


CONV: Params = {
    "bias": torch.linspace(-1, 1, 6).view(1, 6),
    "weight": torch.linspace(-3, 3, 6 * 4 * 9).view(1, 6, 4, 3, 3),
}


@pytest.mark.parametrize("leading", [1, 2])
@pytest.mark.parametrize(("dtype", "share"), [("fp32", 0.0), ("fp16", 1e-3), ("int8", 5e-3)])
def test_numbers_arrive_as_exactly_as_their_dtype_allows(
    dtype: WireDtype, share: float, leading: int
) -> None:
    head = (
        CONV if leading == 1 else {n: p[None].expand(1, 2, *p.shape[1:]) for n, p in CONV.items()}
    )
    shapes: dict[str, tuple[int | None, ...]] = {n: tuple(p.shape) for n, p in head.items()}
    payload = encode(head, dtype, leading=leading)
    back = decode(payload, digest(payload), HeadSpec(shapes, dtype=dtype, leading=leading), "ann")
    gap = torch.cat([(back[n] - head[n]).flatten() for n in head]).norm()
    size = torch.cat([p.flatten() for p in head.values()]).norm()
    assert gap <= share * size
    assert lost_precision(head, dtype, leading=leading) == pytest.approx(
        float(gap / size), abs=1e-6
    )
    assert (gap == 0) == (dtype == "fp32")


def test_a_smaller_dtype_makes_a_smaller_file_and_a_bias_stays_exact() -> None:
    head = {"weight": torch.randn(1, 50, 40), "bias": torch.randn(1, 50)}
    sizes = [len(encode(head, dtype)) for dtype in ("fp32", "fp16", "int8")]
    assert sizes[0] > 1.9 * sizes[1] > 2.9 * sizes[2]
    spec = HeadSpec({"weight": (1, 50, 40), "bias": (1, 50)}, dtype="int8")
    payload = encode(head, "int8")
    assert torch.equal(decode(payload, digest(payload), spec, "ann")["bias"], head["bias"])


def test_nothing_loses_nothing() -> None:
    assert lost_precision({"weight": torch.zeros(1, 2, 3)}, "int8") == 0


def test_int8_is_as_exact_for_a_small_channel_as_for_a_large_one() -> None:
    weight = torch.tensor([[[1e-3, -5e-4], [500.0, 250.0]]])
    payload = encode({"weight": weight}, "int8")
    spec = HeadSpec({"weight": (1, 2, 2)}, dtype="int8")
    back = decode(payload, digest(payload), spec, "ann")["weight"]
    torch.testing.assert_close(back, weight, rtol=0.01, atol=0)


def test_a_head_sent_in_another_dtype_than_agreed_is_refused() -> None:
    payload = encode(CONV, "fp16")
    shapes: dict[str, tuple[int | None, ...]] = {n: tuple(p.shape) for n, p in CONV.items()}
    for dtype in ("fp32", "int8"):
        with pytest.raises(HeadError, match="not"):
            decode(payload, digest(payload), HeadSpec(shapes, dtype=dtype), "mallory")


def test_what_overflows_on_the_wire_is_refused() -> None:
    payload = encode({"bias": torch.tensor([[1e6]])}, "fp16")
    with pytest.raises(HeadError, match="finite"):
        decode(payload, digest(payload), HeadSpec({"bias": (1, 1)}, dtype="fp16"), "ann")


def crafted(text: str, body: bytes = b"\0" * 32) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + body


ONE = '"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
TWO = '"bias":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}'


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        pytest.param((1 << 20).to_bytes(8, "little") + b"{" * 900, "limit", id="a long header"),
        pytest.param(crafted("[" * 900), "no safetensors", id="a deep header"),
        pytest.param(crafted("{" + ONE + "," + ONE + "}"), "twice", id="a name twice"),
        pytest.param(crafted("{" + ONE + ',"__metadata__":{}}'), "no safetensors", id="metadata"),
        pytest.param(crafted('{"weight":{"shape":[2,3]}}'), "no safetensors", id="no dtype"),
        pytest.param(
            crafted('{"weight":{"dtype":"F32","shape":[1e999]}}'), "no safetensors", id="endless"
        ),
        pytest.param(
            crafted('{"weight":{"dtype":"F32","shape":[true,-3]}}'),
            "no safetensors",
            id="no length",
        ),
        pytest.param(crafted('{"weight":7}'), "no safetensors", id="no description"),
        pytest.param(crafted("[1]"), "no safetensors", id="no table"),
        pytest.param(
            crafted("{" + ONE + ',"bias":{"dtype":"F32","shape":[2],"data_offsets":[20,28]}}'),
            "no safetensors",
            id="tensors that overlap",
        ),
        pytest.param(crafted("{" + ONE + "," + TWO + "}", b"\0" * 40), "no safetensors", id="tail"),
        pytest.param(
            crafted("{" + ONE + ',"../../etc":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}}'),
            "holds",
            id="a path for a name",
        ),
    ],
)
def test_a_hostile_file_is_refused_before_a_tensor_is_made(payload: bytes, sentence: str) -> None:
    with pytest.raises(HeadError, match=sentence):
        decode(payload, digest(payload), SPEC, "mallory")


def test_a_file_as_crafted_here_is_taken_where_nothing_is_wrong_with_it() -> None:
    payload = crafted("{" + ONE + "," + TWO + "}")
    assert set(decode(payload, digest(payload), SPEC, "ann")) == {"weight", "bias"}


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_fail_otherwise(payload: bytes) -> None:
    with pytest.raises(HeadError):
        decode(payload, digest(payload), SPEC, "mallory")
