"""Nothing is believed before it is checked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from dflmoe.errors import HeadError
from dflmoe.types import Params
from dflmoe.wire.payload import HeadSpec, decode, digest, encode

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
