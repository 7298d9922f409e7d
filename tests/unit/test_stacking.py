import pytest
import torch
from torch import nn

from dflmoe.core.stacking import initial, part_of, stacked_call


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        pytest.param(nn.Linear(4, 3), (4,), id="linear"),
        pytest.param(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)), (4,), id="mlp"),
        pytest.param(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 5, 5), id="convolution"),
    ],
)
def test_a_stacked_call_equals_a_loop_over_modules(
    module: nn.Module, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    drawn = [initial(module, 1, torch.Generator().manual_seed(k)) for k in range(3)]
    params = {name: torch.cat([d[name] for d in drawn]) for name in drawn[0]}
    x = torch.randn(3, 6, *shape, generator=rng)

    batched = stacked_call(module, params, x)

    for k in range(3):
        module.load_state_dict({name: p[k] for name, p in params.items()})
        torch.testing.assert_close(batched[k], module(x[k]))


def test_a_module_without_parameters_runs_once_for_all(rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, generator=rng)
    torch.testing.assert_close(stacked_call(nn.Identity(), {}, x), x)


def test_initial_weights_come_from_the_given_chance_and_leave_the_module_alone() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    first, again, other = (initial(module, 2, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    torch.testing.assert_close(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])
    torch.testing.assert_close(first["weight"][0], first["weight"][1])
    torch.testing.assert_close(module.weight, before)


def test_running_statistics_may_not_travel() -> None:
    with pytest.raises(ValueError, match="GroupNorm"):
        initial(nn.BatchNorm1d(3), 1, torch.Generator())


def test_a_part_is_picked_by_its_name() -> None:
    params = {"body/w": torch.ones(1), "head/w": torch.zeros(1)}
    assert list(part_of(params, "head")) == ["w"]
    assert float(part_of(params, "head")["w"]) == 0
