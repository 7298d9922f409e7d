"""Networks of published widths: as many weights as in the papers, and what heads promise."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dflmoe.core.stacking import initial, stacked_call
from dflmoe.networks import build, from_recipe, names, splits
from dflmoe.networks.blocks import Wanted
from dflmoe.networks.catalogue import CATALOGUE, Kind
from dflmoe.networks.published import Level

INPUTS: dict[Kind, tuple[int, ...]] = {
    "image": (3, 64, 64),
    "series": (3, 187),
    "segmentation": (3, 64, 64),
    "super-resolution": (3, 16, 16),
}
OUTPUTS: dict[Kind, int] = {"image": 1000, "series": 1000, "segmentation": 1, "super-resolution": 3}
ODD: dict[Kind, tuple[int, ...]] = {
    "image": (1, 28, 29),
    "series": (1, 61),
    "segmentation": (1, 27, 30),
    "super-resolution": (1, 9, 11),
}

every = pytest.mark.parametrize("name", names(published=True))


def scale_of(name: str) -> int:
    return 2 if CATALOGUE[name].kind == "super-resolution" else 1


def whole(name: str, width: int | None = None) -> nn.Module:
    """Return a network of shapes alone: nothing is computed."""
    entry = CATALOGUE[name]
    wanted = Wanted(INPUTS[entry.kind], OUTPUTS[entry.kind], width or entry.width, scale_of(name))
    with torch.device("meta"):
        return entry.make(wanted)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(inputs: int, outputs: int, kernel: int, *, dims: int = 2) -> int:
    """Return the weights of a convolution and its bias."""
    taps: int = kernel**dims
    return outputs * (inputs * taps + 1)


def normed(inputs: int, outputs: int, kernel: int, *, dims: int = 2) -> int:
    """Return the weights of a convolution without a bias, and of its norm."""
    return conv(inputs, outputs, kernel, dims=dims) + outputs


@pytest.mark.parametrize(
    ("name", "published"),
    [  # torchvision's, and timm's legacy_seresnet18
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnext50_32x4d", 25_028_904),
        ("seresnet18", 11_778_592),
        ("densenet121", 7_978_856),
        ("mobilenet_v2", 3_504_872),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("squeezenet1_1", 1_235_496),
    ],
)
def test_a_network_for_images_has_as_many_weights_as_the_published_one(
    name: str, published: int
) -> None:
    assert parameters(whole(name)) == published


def test_vgg11_has_the_published_convolutions_and_one_linear_layer() -> None:
    features = 64 + 128 + 2 * 256 + 4 * 512
    published = 9_225_984  # torchvision's vgg11_bn.features, whose convolutions have biases, too
    network = whole("vgg11")
    head = parameters(network.get_submodule("classifier"))
    assert head == 513 * 1000
    assert parameters(network) - head == published - features


def test_the_network_for_series_has_three_blocks_of_kernels_8_5_and_3() -> None:
    def block(inputs: int, outputs: int) -> int:
        kernels = ((inputs, 8), (outputs, 5), (outputs, 3))
        return sum(normed(i, outputs, k, dims=1) for i, k in kernels)

    body = block(6, 64) + normed(6, 64, 1, dims=1)  # shape and spread of three channels
    body += block(64, 128) + normed(64, 128, 1, dims=1)
    body += block(128, 128) + 2 * 128
    assert parameters(whole("resnet1d64")) == body + 129 * 1000


def test_the_unet_has_the_published_weights_but_for_a_larger_last_kernel() -> None:
    published = 31_037_633  # with BatchNorm and one class; by hand:
    ups = ((1024, 512), (512, 256), (256, 128), (128, 64))
    downs = ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024))
    hand = sum(normed(i, o, 3) + normed(o, o, 3) for i, o in (*downs, *ups))
    hand += sum(conv(i, o, 2) for i, o in ups) + conv(64, 1, 1)
    assert hand == published
    assert parameters(whole("unet64")) == published - conv(64, 1, 1) + conv(64, 1, 3)


def test_enlargers_have_the_published_weights_and_one_more_convolution() -> None:
    outside = conv(3, 64, 3) + conv(64, 64, 3) + conv(64, 256, 3) + conv(64, 3, 3)
    edsr = 16 * 2 * conv(64, 64, 3) + outside
    weighed = 2 * conv(64, 64, 3) + conv(64, 4, 1) + conv(4, 64, 1)
    rcan = 10 * (20 * weighed + conv(64, 64, 3)) + outside
    assert (edsr, rcan) == (1_369_859, 15_444_643)
    ours = conv(67, 64, 3) + conv(67, 3, 3) - conv(64, 3, 3)  # the bicubic picture is seen, too
    assert parameters(whole("edsr_baseline")) == edsr + ours
    assert parameters(whole("rcan_full")) == rcan + ours


@every
def test_the_docs_tell_how_many_weights_there_are(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/bench.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.M)
    told = [int(cell.replace(",", "")) for cell in row.split(" | ")[2:4]]
    network = whole(name)
    head = parameters(network.get_submodule(CATALOGUE[name].at))
    assert told == [parameters(network), head // OUTPUTS[CATALOGUE[name].kind]]


@every
def test_a_network_returns_what_its_task_asks_for_and_another_width_scales_it(name: str) -> None:
    kind = CATALOGUE[name].kind
    space = [scale_of(name) * side for side in INPUTS[kind][1:]]
    rows = torch.empty(2, *INPUTS[kind], device="meta")
    out = (2, OUTPUTS[kind], *(space if kind in {"segmentation", "super-resolution"} else ()))
    weights = []
    for times in (1, 2):
        network = whole(name, times * CATALOGUE[name].width)
        assert network(rows).shape == out
        weights.append(parameters(network))
    assert 2 < weights[1] / weights[0] <= 4


@every
def test_a_narrow_one_is_split_keeps_no_buffers_and_learns_everywhere(
    name: str, rng: torch.Generator
) -> None:
    entry, at = CATALOGUE[name], splits(name)
    shape, scale = ODD[entry.kind], scale_of(name)
    outputs = 1 if entry.kind == "super-resolution" else 3
    width = entry.width // 8
    light, deep = (build(name, shape, outputs, at=a, width=width, scale=scale) for a in at)
    assert parameters(light.head) < parameters(light.body)
    assert parameters(light.head) < parameters(deep.head)
    assert not [*light.body.buffers(), *light.head.buffers()]

    x = torch.randn(2, *shape, generator=rng)
    with torch.no_grad():
        said = light.head(light.body(x))
        for weights in light.head.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=rng))
    expected = torch.zeros(2, outputs)
    if entry.kind == "segmentation":
        expected = torch.zeros(2, outputs, *shape[1:])
    if entry.kind == "super-resolution":
        expected = F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)
    torch.testing.assert_close(said, expected)  # untrained, it has no opinion

    params = [*light.body.parameters(), *light.head.parameters()]
    target = torch.randn(said.shape, generator=rng)
    loss = (light.head(light.body(x)) - target).square().sum()
    for gradient in torch.autograd.grad(loss, params):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0

    again = from_recipe(light.recipe)
    drawn = initial(again.body, 1, torch.Generator().manual_seed(1))
    same = initial(light.body, 1, torch.Generator().manual_seed(1))
    assert drawn.keys() == same.keys()
    for weight, p in drawn.items():
        torch.testing.assert_close(same[weight], p)


def test_light_heads_fit_those_of_small_networks_of_one_width() -> None:
    def head(name: str, width: int) -> list[torch.Size]:
        network = whole(name, width).get_submodule(CATALOGUE[name].at)
        return [p.shape for p in network.parameters()]

    assert head("resnet18", 8) == head("vgg11", 8) == head("resnet8", 16)
    assert head("unet64", 64) == head("unet", 64)
    assert head("rcan_full", 64) == head("edsr_baseline", 64) == head("srresnet", 64)


def test_without_a_norm_features_stay_as_large_as_they_were(rng: torch.Generator) -> None:
    body = build("squeezenet1_1", (3, 64, 64), 2).body
    x = torch.randn(1, 2, 3, 64, 64, generator=rng)
    features: Tensor = stacked_call(body, initial(body, 1, rng), x)
    assert 0.05 < float(features.square().mean()) < 20


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (16, 32), (33, 31)])
def test_a_level_of_the_unet_keeps_every_size(shape: tuple[int, int]) -> None:
    deeper = nn.Conv2d(4, 8, 1)
    assert Level(3, 4, deeper)(torch.zeros(2, 3, *shape)).shape == (2, 4, *shape)
