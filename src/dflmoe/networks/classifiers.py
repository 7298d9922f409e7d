"""Networks that name a row: layers in a chain that ends in ``pool`` and ``classifier``.

They shrink the input at once and stay narrow, since thousands of steps must run on a CPU. Split
before the classifier, any of them can run the head of any other: a linear layer on pooled features.
"""

from collections.abc import Callable, Iterable

from torch import nn

from dflmoe.networks.blocks import (
    Aggregated,
    ConvBlock,
    Dilated,
    Fire,
    Inverted,
    MeanPool,
    Residual,
    Shuffled,
    Standardised,
    Wanted,
    Weighed,
    chain,
)
from dflmoe.networks.images import small_cnn
from dflmoe.networks.tables import Unopinionated, mlp

Block = Callable[..., nn.Module]
"""Makes a block of its inputs, outputs and stride."""


def mlp_layers(wanted: Wanted) -> nn.Sequential:
    """Return the layers of :func:`dflmoe.networks.tables.mlp`, each hidden one a block."""
    network = mlp(wanted.channels, wanted.outputs, hidden=wanted.width)
    first, gelu, second, again = network.body.children()
    return chain(
        block1=nn.Sequential(first, gelu),
        block2=nn.Sequential(second, again),
        classifier=network.head,
    )


def small_cnn_layers(wanted: Wanted) -> nn.Sequential:
    """Return the layers of :func:`dflmoe.networks.images.small_cnn`; its head is ``block2``."""
    network = small_cnn(wanted.channels, wanted.outputs, width=wanted.width)
    *block, flatten, _ = network.head.children()
    return chain(
        block1=network.body,
        block2=nn.Sequential(*block),
        pool=flatten,
        classifier=Unopinionated(8 * wanted.width, wanted.outputs),
    )


def resnet(wanted: Wanted, *, blocks: int) -> nn.Sequential:
    """Return a residual network for images or series.

    It has ``2 + 3 * blocks`` layers of weights, as every block has a projection: ResNet-5, -8, -11
    and -17 have 1, 2, 3 and 5 blocks. Inputs are ``[row, channel, time]`` or
    ``[row, channel, height, width]``. The later half of the blocks, and always the last, have four
    times the width of the stem, the others twice.
    """
    dims = len(wanted.shape) - 1
    kernel = 3 if dims == 2 else 7  # noqa: PLR2004  # a picture, or a series: wider in time
    width, inputs = wanted.width, wanted.width
    series = dims == 1
    layers: dict[str, nn.Module] = {"scale": Standardised()} if series else {}
    channels = 2 * wanted.channels if series else wanted.channels
    layers["stem"] = ConvBlock(channels, width, kernel, stride=2, dims=dims)
    for k in range(blocks):
        outputs = 4 * width if k >= blocks // 2 else 2 * width
        stride = 2 if k == 0 or outputs > inputs else 1
        layers[f"block{k + 1}"] = Residual(inputs, outputs, kernel, stride=stride, dims=dims)
        inputs = outputs
    return chain(**layers, pool=MeanPool(), classifier=Unopinionated(inputs, wanted.outputs))


def vgg(wanted: Wanted) -> nn.Sequential:
    """Return a VGG-like network: pairs of 3x3 convolutions, each pair followed by max pooling.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
        2015.
    """
    width = wanted.width

    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            ConvBlock(inputs, outputs), ConvBlock(outputs, outputs), nn.MaxPool2d(2, ceil_mode=True)
        )

    return chain(
        stem=ConvBlock(wanted.channels, width, stride=2),
        block1=block(width, 2 * width),
        block2=block(2 * width, 4 * width),
        pool=MeanPool(),
        classifier=Unopinionated(4 * width, wanted.outputs),
    )


def of_blocks(
    wanted: Wanted, stem: nn.Module, sizes: Iterable[tuple[Block, int, int]], last: int = 0
) -> nn.Sequential:
    """Return a stem as wide as asked for, and blocks.

    Args:
        wanted: What the network is asked to be.
        stem: Its first layers.
        sizes: What makes each block from its inputs, outputs and stride; its outputs; its stride.
        last: Features of a 1x1 convolution that follows the blocks, if one does.
    """
    inputs, layers = wanted.width, dict[str, nn.Module]()
    for k, (block, outputs, stride) in enumerate(sizes, 1):
        layers[f"block{k}"] = block(inputs, outputs, stride=stride)
        inputs = outputs
    if last:
        layers["widen"] = ConvBlock(inputs, last, 1)
    classifier = Unopinionated(last or inputs, wanted.outputs)
    return chain(stem=stem, **layers, pool=MeanPool(), classifier=classifier)


def _of_blocks(
    wanted: Wanted, block: Callable[..., nn.Module], *sizes: tuple[int, int]
) -> nn.Sequential:
    """Return a stem and blocks of a kind.

    Args:
        wanted: What the network is asked to be.
        block: Makes one from its inputs, outputs and stride.
        sizes: Of each block, how many times wider than the stem it is, and its stride.
    """
    width = wanted.width
    stem = ConvBlock(wanted.channels, width, stride=2)
    return of_blocks(wanted, stem, [(block, wider * width, stride) for wider, stride in sizes])


TWO, THREE = ((2, 2), (4, 2)), ((2, 2), (2, 1), (4, 2))
"""Blocks that all shrink the picture, and three of which the middle one does not."""


def mobilenet(wanted: Wanted) -> nn.Sequential:
    """Return a MobileNet-like network of inverted residual blocks."""
    return _of_blocks(wanted, Inverted, *THREE)


def resnext(wanted: Wanted) -> nn.Sequential:
    """Return a ResNeXt-like network: residual blocks whose middle convolution is of groups."""
    return _of_blocks(wanted, Aggregated, *TWO)


def senet(wanted: Wanted) -> nn.Sequential:
    """Return a residual network whose blocks weigh their features (squeeze and excitation)."""
    return _of_blocks(wanted, Weighed, *TWO)


def squeezenet(wanted: Wanted) -> nn.Sequential:
    """Return a SqueezeNet-like network of fire modules."""
    return _of_blocks(wanted, Fire, *TWO)


def shufflenet(wanted: Wanted) -> nn.Sequential:
    """Return a ShuffleNetV2-like network: units that shrink the picture, and one that does not."""
    return _of_blocks(wanted, Shuffled, *THREE)


def tcn(wanted: Wanted) -> nn.Sequential:
    """Return a network for series whose convolutions look farther from block to block."""
    width = wanted.width
    return chain(
        scale=Standardised(),
        stem=ConvBlock(2 * wanted.channels, width, 7, stride=2, dims=1),
        block1=Dilated(width, 2 * width, 2),
        block2=Dilated(2 * width, 4 * width, 4),
        pool=MeanPool(),
        classifier=Unopinionated(4 * width, wanted.outputs),
    )


def cnn1d(wanted: Wanted) -> nn.Sequential:
    """Return a plain convolutional network for series, ``[row, channel, time]``."""
    width = wanted.width
    return chain(
        scale=Standardised(),
        stem=ConvBlock(2 * wanted.channels, width, 7, stride=2, dims=1),
        block1=ConvBlock(width, 2 * width, 5, stride=2, dims=1),
        block2=ConvBlock(2 * width, 4 * width, 5, stride=2, dims=1),
        pool=MeanPool(),
        classifier=Unopinionated(4 * width, wanted.outputs),
    )
