"""Networks as deep and wide as their papers have them, for a GPU.

GroupNorm stands in the place of BatchNorm, which has as many weights. The convolutions before a
norm have no bias, and nothing acts by chance: there is no dropout. Another width scales all
channels alike. Pictures need not be of the paper's size, nor of a multiple of 32.

Those that name a row end in ``pool`` and ``classifier``, one linear layer, and those that return a
picture in ``refine`` and ``head``, as all of the catalogue do, so light heads of one width fit.
"""

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.networks.blocks import (
    Aggregated,
    ConvBlock,
    Fire,
    Inverted,
    MeanPool,
    Residual,
    Shuffled,
    Standardised,
    Wanted,
    Weighed,
    chain,
    norm_groups,
)
from dflmoe.networks.classifiers import Block, of_blocks
from dflmoe.networks.heads import UnopinionatedConv
from dflmoe.networks.pictures import PlainResidual, SubPixel, correction
from dflmoe.networks.tables import Unopinionated


def _stem(wanted: Wanted, kernel: int) -> nn.Sequential:
    """Return what makes a picture four times smaller."""
    return nn.Sequential(
        ConvBlock(wanted.channels, wanted.width, kernel, stride=2), nn.MaxPool2d(3, 2, 1)
    )


def resnet(
    wanted: Wanted, *, stages: tuple[int, ...], block: Block, wider: int = 1
) -> nn.Sequential:
    """Return a residual network.

    Args:
        wanted: What the network is asked to be.
        stages: Blocks of each stage; from one to the next, features double and the picture halves.
        block: Makes one.
        wider: How many times wider than the stem the first stage comes out.

    References:
        He et al., Deep Residual Learning for Image Recognition, 2016, table 1.
    """
    sizes = [
        (block, wider * wanted.width * 2**k, 2 if k and not n else 1)
        for k, depth in enumerate(stages)
        for n in range(depth)
    ]
    return of_blocks(wanted, _stem(wanted, 7), sizes)


resnet18 = partial(resnet, stages=(2, 2, 2, 2), block=partial(Residual, option="B"))
"""ResNet-18 (He et al., 2016)."""

resnet50 = partial(
    resnet,
    stages=(3, 4, 6, 3),
    block=partial(Aggregated, groups=1, narrower=4, option="B"),
    wider=4,
)
"""ResNet-50 (He et al., 2016); where it shrinks, the 3x3 convolution does, as in most code."""

resnext50 = partial(
    resnet,
    stages=(3, 4, 6, 3),
    block=partial(Aggregated, groups=32, narrower=2, option="B"),
    wider=4,
)
"""ResNeXt-50 32x4d (Xie et al., 2017, table 1)."""

seresnet18 = partial(resnet, stages=(2, 2, 2, 2), block=partial(Weighed, squeeze=16, option="B"))
"""ResNet-18 with squeeze and excitation (Hu et al., 2018, figure 3 and table 8: ratio 16)."""


def mobilenet_v2(wanted: Wanted) -> nn.Sequential:
    """Return MobileNetV2; it has ReLU, where the paper has ReLU6 for arithmetic of few bits.

    References:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, table 2.
    """
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    sizes = [
        (
            partial(Inverted, expand=expand),
            max(1, channels * wanted.width // 32),
            1 if n else stride,
        )
        for expand, channels, repeats, stride in table
        for n in range(repeats)
    ]
    stem = ConvBlock(wanted.channels, wanted.width, stride=2)
    return of_blocks(wanted, stem, sizes, last=40 * wanted.width)


def shufflenet(wanted: Wanted) -> nn.Sequential:
    """Return ShuffleNetV2 1x.

    References:
        Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, 2018,
        table 5.
    """
    sizes = [
        (Shuffled, channels * wanted.width // 24, 1 if n else 2)
        for channels, repeats in ((116, 4), (232, 8), (464, 4))
        for n in range(repeats)
    ]
    return of_blocks(wanted, _stem(wanted, 3), sizes, last=1024 * wanted.width // 24)


class HeConv2d(nn.Conv2d):
    """A convolution drawn so that features stay as large as they were without a norm.

    References:
        He et al., Delving Deep into Rectifiers, 2015, equation 10.
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def squeezenet(wanted: Wanted) -> nn.Sequential:
    """Return SqueezeNet 1.1, which has no norm; its classifier comes after the mean, not before.

    References:
        Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016, table 1,
        and the authors' version 1.1.
    """
    bare = partial(ConvBlock, norm=False, kind=HeConv2d)

    def fire(inputs: int, outputs: int, *, stride: int) -> nn.Module:
        block = Fire(inputs, outputs, squeeze=8, block=bare)
        if stride == 1:
            return block
        return nn.Sequential(nn.MaxPool2d(3, stride, ceil_mode=True), block)

    wider = ((2, 2), (2, 1), (4, 2), (4, 1), (6, 2), (6, 1), (8, 1), (8, 1))
    sizes = [(fire, times * wanted.width, stride) for times, stride in wider]
    return of_blocks(wanted, bare(wanted.channels, wanted.width, stride=2), sizes)


def vgg11(wanted: Wanted) -> nn.Sequential:
    """Return the convolutions of VGG-11, and one linear layer on their means.

    The paper's three linear layers hold 124 of its 133 million weights; no other network could run
    them.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
        2015, table 1, column A.
    """

    def block(inputs: int, outputs: int, *, stride: int) -> nn.Module:
        conv = ConvBlock(inputs, outputs)
        return conv if stride == 1 else nn.Sequential(conv, nn.MaxPool2d(stride, ceil_mode=True))

    wider = ((2, 2), (4, 1), (4, 2), (8, 1), (8, 2), (8, 1), (8, 2))
    sizes = [(block, times * wanted.width, stride) for times, stride in wider]
    return of_blocks(wanted, block(wanted.channels, wanted.width, stride=2), sizes)


class Threefold(nn.Module):
    """A residual block of a series: three convolutions, of kernels 8, 5 and 3.

    References:
        Wang et al., Time Series Classification from Scratch with Deep Neural Networks, 2017.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = chain(
            pad=nn.ConstantPad1d((3, 4), 0.0),
            conv=nn.Conv1d(inputs, outputs, 8, stride, bias=False),
            norm=nn.GroupNorm(norm_groups(outputs), outputs),
            relu=nn.ReLU(),
        )
        self.second = ConvBlock(outputs, outputs, 5, dims=1)
        self.third = ConvBlock(outputs, outputs, 3, dims=1, active=False)
        self.shortcut = (
            nn.GroupNorm(norm_groups(outputs), outputs)
            if inputs == outputs and stride == 1
            else ConvBlock(inputs, outputs, 1, stride=stride, dims=1, active=False)
        )

    def forward(self, x: Float[Tensor, "row channel time"]) -> Float[Tensor, "row feature time"]:
        """Return what the convolutions add to the input, which is projected or normalised."""
        return F.relu(self.third(self.second(self.first(x))) + self.shortcut(x))


def resnet1d(wanted: Wanted) -> nn.Sequential:
    """Return the residual network for series; it sees each channel's shape and its spread.

    References:
        Wang et al., Time Series Classification from Scratch with Deep Neural Networks, 2017,
        figure 1c.
    """
    width = wanted.width
    return chain(
        scale=Standardised(),
        block1=Threefold(2 * wanted.channels, width),
        block2=Threefold(width, 2 * width),
        block3=Threefold(2 * width, 2 * width),
        pool=MeanPool(),
        classifier=Unopinionated(2 * width, wanted.outputs),
    )


class Level(nn.Module):
    """A level of a U-Net: two convolutions, all that lies deeper, and a convolution of both.

    Args:
        inputs: Channels that go in.
        width: Features that come out.
        deeper: From ``width`` features to twice as many, at half the resolution.
    """

    def __init__(self, inputs: int, width: int, deeper: nn.Module) -> None:
        super().__init__()
        self.enter = _twice(inputs, width)
        self.shrink = nn.MaxPool2d(2, ceil_mode=True)
        self.deeper = deeper
        self.enlarge = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.leave = ConvBlock(2 * width, width)

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return features at the resolution of the input."""
        height, width = x.shape[-2:]
        fine = self.enter(x)
        coarse = self.enlarge(self.deeper(self.shrink(fine)))[..., :height, :width]
        features: Tensor = self.leave(torch.cat([fine, coarse], dim=1))
        return features


def _twice(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(inputs, width), ConvBlock(width, width))


def unet(wanted: Wanted) -> nn.Sequential:
    """Return the U-Net of five levels at full resolution, its pictures padded at their edges.

    Its last convolution is 3x3, as in all heads for pictures, where the paper's is 1x1.

    References:
        Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015,
        figure 1.
    """
    width = wanted.width
    deeper: nn.Module = _twice(8 * width, 16 * width)
    for times in (8, 4, 2):
        level = Level(times * width // 2, times * width, deeper)
        deeper = nn.Sequential(level, ConvBlock(times * width, times * width))
    return chain(
        trunk=Level(wanted.channels, width, deeper),
        refine=ConvBlock(width, width),
        head=UnopinionatedConv(width, wanted.outputs),
    )


class Added(nn.Sequential):
    """Layers one after the other, whose output is added to their input."""

    def forward(
        self, x: Float[Tensor, "row feature height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return features of the same shape."""
        out = x
        for layer in self:
            out = layer(out)
        return x + out


def _enlarger(wanted: Wanted, blocks: Iterable[nn.Module]) -> nn.Sequential:
    """Return an enlarger whose blocks work on the small picture, with a skip around them all.

    Its last convolution sees the bicubic picture beside the features and corrects it, after one
    more, ``refine``, as in all enlargers: the papers' networks have neither.
    """
    width = wanted.width
    layers = nn.Sequential(
        nn.Conv2d(wanted.channels, width, 3, padding=1),
        Added(*blocks, nn.Conv2d(width, width, 3, padding=1)),
        *_steps(width, wanted.scale),
    )
    return chain(trunk=SubPixel(layers, wanted.scale), **correction(wanted))


def _steps(width: int, scale: int) -> Iterable[nn.Module]:
    """Yield what enlarges features, two times at a time as far as that goes."""
    while scale > 1:
        times = 2 if scale % 2 == 0 else scale
        yield nn.Conv2d(width, times**2 * width, 3, padding=1)
        yield nn.PixelShuffle(times)
        scale //= times


def edsr(wanted: Wanted) -> nn.Sequential:
    """Return the baseline of EDSR: 16 residual blocks.

    References:
        Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, 2017,
        table 1.
    """
    return _enlarger(wanted, [PlainResidual(wanted.width) for _ in range(16)])


def rcan(wanted: Wanted) -> nn.Sequential:
    """Return RCAN: 10 groups of 20 blocks that weigh their features, each group with a skip.

    References:
        Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks,
        2018, section 4.1.
    """
    width = wanted.width
    groups = [
        Added(
            *(PlainResidual(width, weighed=True, squeeze=16) for _ in range(20)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        for _ in range(10)
    ]
    return _enlarger(wanted, groups)
