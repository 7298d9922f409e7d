import pytest
import torch

from dflmoe.core.site import Expert, SiteState
from dflmoe.errors import StoreError
from dflmoe.simulation.group import Seat
from dflmoe.wire.state import state_bytes, state_of

STATE = SiteState(
    "ann",
    3,
    {"head": {"weight": torch.tensor([[0.1, -0.0], [1e-40, 3.0]])}, "mixture": {}},
    {"bob": Expert({"bias": torch.ones(1, 2).half()}, 2, 1, anchors=torch.zeros(1, 2, 3))},
)


def same(one: SiteState, other: SiteState) -> bool:
    return state_bytes(one) == state_bytes(other)


def test_a_state_comes_back_with_its_order_and_every_bit() -> None:
    back = state_of(state_bytes(STATE))
    assert same(back, STATE)
    assert list(back.params) == ["head", "mixture"]
    assert torch.equal(back.params["head"]["weight"], STATE.params["head"]["weight"])
    assert back.experts["bob"].head["bias"].dtype == torch.float16
    assert back.experts["bob"].opinion is None


@pytest.mark.parametrize("raw", [b"", b"no state", state_bytes(STATE)[:-1]])
def test_what_is_no_state_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        state_of(raw)


def test_a_seat_comes_back_with_its_chance() -> None:
    rng = torch.Generator().manual_seed(5)
    torch.rand(3, generator=rng)
    seat = Seat(STATE, rng.get_state())
    back = Seat.of_bytes(seat.as_bytes())
    assert same(back.state, STATE)
    again = torch.Generator()
    again.set_state(back.chance)
    assert torch.equal(torch.rand(4, generator=again), torch.rand(4, generator=rng))
