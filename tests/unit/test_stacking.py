import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dflmoe.core.stacking import call_each, dense_layers, initial, part_of, stacked_call
from dflmoe.types import Params


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


class Linear(nn.Linear):
    """A linear layer that starts otherwise."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Doubling(nn.Linear):
    """A layer that only looks like a linear one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


CHAINS = [
    pytest.param(nn.Linear(4, 3), id="one"),
    pytest.param(nn.Linear(4, 3, bias=False), id="without bias"),
    pytest.param(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Linear(5, 2)), id="chain"),
]
OTHERS = [
    pytest.param(nn.Sequential(nn.Linear(4, 5), Doubling(5, 2)), id="a forward of its own"),
    pytest.param(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)), id="another layer"),
    pytest.param(nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 2))), id="nested"),
]


def drawn(module: nn.Module, models: int, seed: int) -> Params:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(models, *p.shape, generator=rng, requires_grad=True)
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize("module", CHAINS)
def test_a_chain_of_linear_layers_is_bit_for_bit_what_vmap_makes_of_it(
    module: nn.Module, rng: torch.Generator
) -> None:
    params, x = drawn(module, 6, 0), torch.randn(6, 33, 4, generator=rng)
    assert dense_layers(module, params) is not None
    ours = stacked_call(module, params, x)
    theirs = vmap(lambda one, rows: functional_call(module, one, (rows,)))(params, x)
    assert torch.equal(ours, theirs)
    weights = list(params.values())
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), weights),
        torch.autograd.grad(theirs.square().sum(), weights),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("module", OTHERS)
def test_what_is_no_chain_of_linear_layers_is_not_taken_for_one(module: nn.Module) -> None:
    assert dense_layers(module, drawn(module, 2, 0)) is None


def test_a_layer_with_a_hook_or_a_weight_that_does_not_learn_is_left_to_its_module() -> None:
    module = nn.Linear(4, 3)
    params = drawn(module, 2, 0)
    assert dense_layers(module, {"weight": params["weight"]}) is None
    module.register_forward_hook(lambda *_: None)
    assert dense_layers(module, params) is None


@pytest.mark.parametrize("module", [*CHAINS, *OTHERS])
def test_several_stacks_are_called_as_each_is(module: nn.Module, rng: torch.Generator) -> None:
    stacks = [drawn(module, 3, seed) for seed in range(4)]
    xs = [torch.randn(3, 7, 4, generator=rng) for _ in stacks]
    for one, params, x in zip(call_each(module, stacks, xs), stacks, xs, strict=True):
        assert torch.equal(one, stacked_call(module, params, x))
    assert call_each(module, [], []) == []


def test_heads_of_other_widths_are_called_one_by_one(rng: torch.Generator) -> None:
    stacks = [drawn(nn.Linear(width, 3), 2, width) for width in (4, 6)]
    xs = [torch.randn(2, 5, width, generator=rng) for width in (4, 6)]
    for one, params, x in zip(call_each(nn.Linear(4, 3), stacks, xs), stacks, xs, strict=True):
        torch.testing.assert_close(one, x @ params["weight"].mT + params["bias"][:, None])


def test_images_of_one_channel_are_convolved_as_by_the_module(rng: torch.Generator) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    params, x = drawn(module, 2, 0), torch.randn(2, 5, 1, 8, 8, generator=rng)
    said = stacked_call(module, params, x)
    for m in range(2):
        one = functional_call(module, {name: p[m] for name, p in params.items()}, (x[m],))
        torch.testing.assert_close(said[m], one, rtol=1e-4, atol=1e-5)


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
