"""Every small network of the catalogue: what holds for all, and what only some promise."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dflmoe.core.site import Network
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.errors import NetworkError
from dflmoe.networks import (
    build,
    fits,
    layers,
    mlp,
    names,
    plain,
    small_cnn,
    split,
    splits,
)
from dflmoe.networks.blocks import Aggregated, Dilated, Excite, Shuffled, Wanted
from dflmoe.networks.catalogue import CATALOGUE, Kind
from dflmoe.networks.heads import UnopinionatedConv
from dflmoe.networks.tables import Unopinionated

INPUTS: dict[Kind, list[tuple[int, ...]]] = {
    "table": [(1,), (30,)],
    "series": [(1, 187), (12, 300)],
    "image": [(1, 28, 28), (3, 64, 64), (1, 45, 61), (3, 128, 128)],
    "segmentation": [(1, 28, 28), (3, 64, 64), (1, 45, 61)],
    "super-resolution": [(1, 14, 14), (3, 16, 16), (3, 9, 11)],
}
"""Inputs of each kind."""

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
SCALES = (2, 4, 8)
OUTPUTS = 3

every = pytest.mark.parametrize("name", names(published=False))
every_classifier = pytest.mark.parametrize(
    "name",
    [name for kind in ("table", "series", "image") for name in names(kind, published=False)],
)
every_enlarger = pytest.mark.parametrize("name", names("super-resolution", published=False))


def built(
    name: str, shape: tuple[int, ...] | None = None, *, deep: bool = False, scale: int = 2
) -> tuple[Network, Tensor, tuple[int, ...]]:
    """Return a network, two rows for it, and the shape that its task asks for."""
    kind = CATALOGUE[name].kind
    shape = shape or INPUTS[kind][0]
    enlarges = kind == "super-resolution"
    outputs, scale = (shape[0], scale) if enlarges else (OUTPUTS, 1)
    network = build(name, shape, outputs, at=splits(name)[deep], scale=scale)
    space = [scale * side for side in shape[1:]] if enlarges else shape[1:]
    dense = kind in {"segmentation", "super-resolution"}
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return network, x, (outputs, *space) if dense else (outputs,)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in module.named_parameters()}


def weighted(module: nn.Module) -> int:
    return sum(isinstance(part, WEIGHTED) for part in module.modules())


# What holds for every small network of the catalogue


@pytest.mark.parametrize("deep", [False, True], ids=["light head", "deep head"])
@every
def test_a_network_takes_every_size_of_input_and_returns_what_its_task_asks_for(
    name: str, deep: bool
) -> None:
    for shape in INPUTS[CATALOGUE[name].kind]:
        network, x, output_shape = built(name, shape, deep=deep)
        features = network.body(x)
        assert features.shape[:2] == (2, network.width)
        assert network.head(features).shape == (2, *output_shape)


@every
def test_a_body_and_its_head_are_the_whole_network_wherever_it_is_split(
    name: str, rng: torch.Generator
) -> None:
    entry = CATALOGUE[name]
    shape = INPUTS[entry.kind][0]
    outputs, scale = (shape[0], 2) if entry.kind == "super-resolution" else (OUTPUTS, 1)
    whole = entry.make(Wanted(shape, outputs, entry.width, scale))
    with torch.no_grad():
        for p in whole.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    x = torch.randn(2, *shape, generator=rng)
    for at in layers(name, shape, outputs, scale=scale):
        if name == "plain":
            break  # its body has no layer, as only ``build`` may leave it
        network = split(whole, at, shape=shape, outputs=outputs)
        torch.testing.assert_close(network.head(network.body(x)), whole(x))


@pytest.mark.parametrize("deep", [False, True], ids=["light head", "deep head"])
@every
def test_a_network_keeps_no_buffers_and_leaves_nothing_to_chance(name: str, deep: bool) -> None:
    network, x, _ = built(name, deep=deep)
    assert not list(network.body.buffers())
    assert not list(network.head.buffers())
    for part in (network.body, network.head):
        part.train()
    training = network.head(network.body(x))
    for part in (network.body, network.head):
        part.eval()
    torch.testing.assert_close(network.head(network.body(x)), training)


@every
def test_a_head_is_light(name: str) -> None:
    network, _, _ = built(name)
    if name != "plain":
        assert parameters(network.head) < parameters(network.body)
    deeper, _, _ = built(name, deep=True)
    assert parameters(deeper.head) >= parameters(network.head)
    assert parameters(deeper.body) + parameters(deeper.head) == parameters(
        network.body
    ) + parameters(network.head)


@every
def test_a_wider_network_learns_more_weights(name: str) -> None:
    entry = CATALOGUE[name]
    if not entry.width:
        return
    network, x, output_shape = built(name)
    wider = build(
        name,
        tuple(x.shape[1:]),
        output_shape[0],
        width=2 * entry.width,
        scale=2 if entry.kind == "super-resolution" else 1,
    )
    assert parameters(wider.body) > parameters(network.body)
    fits(wider, tuple(x.shape[1:]), output_shape)


@every
def test_a_seed_decides_every_weight(name: str) -> None:
    network, x, _ = built(name, deep=True)
    for part in (network.body, network.head):
        first, again, other = (
            initial(part, 1, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
        )
        for weight, p in first.items():
            torch.testing.assert_close(again[weight], p)
        drawn = {
            f"{layer}.weight"
            for layer, module in part.named_modules()
            if isinstance(module, WEIGHTED)
            and not isinstance(module, Unopinionated | UnopinionatedConv)
        }
        assert not any(torch.equal(first[weight], other[weight]) for weight in drawn)
    if parameters(network.body):
        one, another = (
            stacked_call(
                network.body, initial(network.body, 1, torch.Generator().manual_seed(s)), x[None]
            )
            for s in (1, 2)
        )
        assert not torch.equal(one, another)


@pytest.mark.parametrize("deep", [False, True], ids=["light head", "deep head"])
@every
def test_every_weight_learns_once_the_last_layer_has_left_zero(
    name: str, deep: bool, rng: torch.Generator
) -> None:
    network, x, output_shape = built(name, deep=deep)
    params = [*network.body.parameters(), *network.head.parameters()]
    with torch.no_grad():
        for p in network.head.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    target = torch.randn(2, *output_shape, generator=rng)
    loss = (network.head(network.body(x)) - target).square().sum()
    for gradient in torch.autograd.grad(loss, params):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@every
def test_a_head_leaves_the_features_as_they_are(name: str) -> None:
    network, x, _ = built(name, deep=True)
    features = network.body(x).detach()
    before = features.clone()
    network.head(features)
    torch.testing.assert_close(features, before)


# Heads that others can run


@every_classifier
def test_an_untrained_classifier_has_no_opinion(name: str) -> None:
    network, x, _ = built(name)
    torch.testing.assert_close(network.head(network.body(x)), torch.zeros(2, OUTPUTS))


@pytest.mark.parametrize("lender", ["vgg", "mlp", "resnet17"])
@every_classifier
def test_a_head_runs_the_weights_of_another_network_and_width(name: str, lender: str) -> None:
    own, _, _ = built(name)
    other = build(lender, INPUTS[CATALOGUE[lender].kind][0], OUTPUTS, width=5)
    borrowed = {weight: torch.randn(p.shape) for weight, p in other.head.named_parameters()}
    features = torch.randn(2, other.width)
    torch.testing.assert_close(
        functional_call(own.head, borrowed, (features,)),
        functional_call(other.head, borrowed, (features,)),
    )


@pytest.mark.parametrize("kind", ["segmentation", "super-resolution"])
def test_heads_for_pictures_fit_between_networks_of_one_task(kind: Kind) -> None:
    for deep in (False, True):
        small = names(kind, published=False)
        first, *others = (shapes(built(name, deep=deep)[0].head) for name in small)
        assert others
        assert all(other == first for other in others)


@every_enlarger
def test_heads_fit_between_scales(name: str) -> None:
    heads = [shapes(built(name, scale=scale)[0].head) for scale in SCALES]
    assert heads == [shapes(built("srresnet")[0].head)] * len(SCALES)


def test_a_body_of_srresnet_fits_every_scale_and_one_of_espcn_does_not() -> None:
    two, four, eight = (shapes(built("srresnet", scale=s)[0].body) for s in SCALES)
    assert two == four == eight
    two, four, eight = (shapes(built("espcn", scale=s)[0].body) for s in SCALES)
    assert len({tuple(s.items()) for s in (two, four, eight)}) == len(SCALES)


@pytest.mark.parametrize("scale", [1, *SCALES])
@every_enlarger
def test_an_untrained_enlarger_is_bicubic(name: str, scale: int) -> None:
    for shape in INPUTS["super-resolution"]:
        network, x, _ = built(name, shape, scale=scale)
        bicubic = F.interpolate(x, scale_factor=float(scale), mode="bicubic", align_corners=False)
        torch.testing.assert_close(network.head(network.body(x)), bicubic)


# What the names promise


@pytest.mark.parametrize("depth", [5, 8, 11, 17])
def test_a_resnet_has_as_many_layers_of_weights_as_its_name_says(depth: int) -> None:
    network, _, _ = built(f"resnet{depth}")
    assert weighted(network.body) + weighted(network.head) == depth


def test_a_unit_that_shuffles_lets_half_of_its_features_pass(rng: torch.Generator) -> None:
    x = torch.randn(2, 8, 5, 5, generator=rng)
    out = Shuffled(8, 8)(x)
    torch.testing.assert_close(out[:, ::2], x[:, :4])  # in turn with what was convolved
    assert not torch.allclose(out[:, 1::2], x[:, 4:])
    assert Shuffled(8, 12, stride=2)(x).shape == (2, 12, 3, 3)


def test_excitation_weighs_a_feature_alike_everywhere_and_never_above_one(
    rng: torch.Generator,
) -> None:
    x = torch.rand(2, 8, 5, 5, generator=rng) + 0.1
    weight = (Excite(8)(x) / x).detach()
    torch.testing.assert_close(weight, weight[..., :1, :1].expand_as(weight))
    assert float(weight.min()) > 0
    assert float(weight.max()) < 1


def test_a_dilated_block_sees_as_far_as_its_taps_lie_apart() -> None:
    block, x = Dilated(1, 4, apart=4, kernel=5), torch.zeros(1, 1, 41, requires_grad=True)
    seen = torch.autograd.grad(block.far(x)[0, :, 20].sum(), x)[0][0, 0]
    assert seen.nonzero().flatten().tolist() == [12, 16, 20, 24, 28]


def test_the_groups_of_an_aggregated_block_do_not_see_each_other() -> None:
    block = Aggregated(8, 8, groups=4)
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    (seen,) = torch.autograd.grad(block.grouped.get_submodule("conv")(x)[0, 0].sum(), x)
    assert (seen.abs().sum((0, 2, 3)) > 0).tolist() == [True, True, *[False] * 6]


def test_the_eight_families_of_the_paper_are_in_the_catalogue() -> None:
    families = {"resnet", "shufflenet", "resnext", "squeezenet", "senet", "mobilenet"}
    families |= {"densenet", "vgg"}
    assert all(any(n.startswith(family) for n in names("image")) for family in families)


def test_the_pilots_networks_are_in_the_catalogue() -> None:
    for pilots, name, shape in (
        (mlp(4, OUTPUTS), "mlp", (4,)),
        (small_cnn(1, OUTPUTS), "small_cnn", (1, 28, 28)),
    ):
        at = "classifier" if name == "mlp" else "block2"
        ours = build(name, shape, OUTPUTS, at=at)
        for part, other in ((pilots.body, ours.body), (pilots.head, ours.head)):
            assert [p.shape for p in part.parameters()] == [p.shape for p in other.parameters()]
        assert ours.width == pilots.width


def test_the_least_network_is_common_and_others_are_if_asked_to_be() -> None:
    assert build("plain", (4,), 2).common
    assert isinstance(build("plain", (4,), 2, at="classifier").body, type(plain(4, 2).body))
    assert not build("mlp", (4,), 2).common
    assert build("mlp", (4,), 2, common=True).common


@every
def test_an_unknown_layer_is_answered_with_the_layers_there_are(name: str) -> None:
    shape = INPUTS[CATALOGUE[name].kind][0]
    outputs = shape[0] if name in names("super-resolution") else OUTPUTS
    with pytest.raises(NetworkError, match="no layer 'nowhere'") as caught:
        build(name, shape, outputs, at="nowhere")
    known = layers(name, shape, outputs)
    assert {*splits(name)} <= {*known}
    assert str(caught.value).endswith(", ".join(known))


# Fitting a task
