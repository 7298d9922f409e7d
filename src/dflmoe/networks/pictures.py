"""Networks that return a picture: a class for every pixel, or a larger image.

Their features have the resolution of the output, ``[row, feature, height, width]``, whatever the
input's, so that sites of different scales can run each other's heads. Before the head comes
``refine``, the last block, which also fits between sites.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.networks.blocks import (
    Bicubic,
    Carry,
    ConvBlock,
    Excite,
    HalfResolution,
    Residual,
    Wanted,
    chain,
    contrast,
)
from dflmoe.networks.heads import ResidualHead, UnopinionatedConv


class TwoSteps(nn.Module):
    """Two steps down and two up again, with skips between them that a subclass joins."""

    enter: nn.Module
    down: nn.Module
    deep: nn.Module
    up: nn.Module
    leave: nn.Module
    unfold: nn.Module

    def joined(self, layer: nn.Module, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return what a layer makes of coarse features, twice as large, and of fine ones."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return features at the resolution of the input."""
        fine = self.enter(x)
        middle = self.down(fine)
        deep = self.deep(middle)
        middle = self.joined(self.up, deep, middle)
        features: Tensor = self.unfold(self.joined(self.leave, middle, fine))
        return features


class UNet(TwoSteps):
    """Two steps down and two up again, with skips; height and width are multiples of four.

    References:
        Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = ConvBlock(inputs, width)
        self.down = ConvBlock(width, 2 * width, stride=2)
        self.deep = ConvBlock(2 * width, 4 * width, stride=2)
        self.up = ConvBlock(6 * width, 2 * width)
        self.leave = ConvBlock(3 * width, width)
        self.unfold = nn.Conv2d(width, outputs, 1)

    def joined(self, layer: nn.Module, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return what a layer makes of both, side by side."""
        features: Tensor = layer(torch.cat([_twice(coarse), fine], dim=1))
        return features


class PlainResidual(nn.Module):
    """Two convolutions whose output is added to their input, as it is or weighed by its means.

    References:
        Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks,
        2018, figure 4, for the weighed one.
    """

    def __init__(self, width: int, *, weighed: bool = False, squeeze: int = 4) -> None:
        super().__init__()
        self.first = ConvBlock(width, width, norm=False)
        self.second = ConvBlock(width, width, active=False, norm=False)
        self.excite = Excite(width, squeeze) if weighed else nn.Identity()

    def forward(
        self, x: Float[Tensor, "row feature height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return features of the same shape."""
        added: Tensor = x + self.excite(self.second(self.first(x)))
        return added


class LinkNet(TwoSteps):
    """Two steps down and two up again, whose skips are added; light.

    Height and width are multiples of four.

    References:
        Chaurasia and Culurciello, LinkNet: Exploiting Encoder Representations for Efficient
        Semantic Segmentation, 2017.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = ConvBlock(inputs, width)
        self.down = Residual(width, 2 * width, stride=2)
        self.deep = Residual(2 * width, 4 * width, stride=2)
        self.up = ConvBlock(4 * width, 2 * width)
        self.leave = ConvBlock(2 * width, width)
        self.unfold = nn.Conv2d(width, outputs, 1)

    def joined(self, layer: nn.Module, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the fine features and, added, what a layer makes of the coarse ones."""
        features: Tensor = layer(_twice(coarse)) + fine
        return features


class SubPixel(nn.Module):
    """Features from the small image, as large as the large one, and the bicubic image itself.

    Args:
        layers: From the small image's contrast to the features.
        scale: How many times larger they are.
    """

    def __init__(self, layers: nn.Module, scale: int) -> None:
        super().__init__()
        self.bicubic = Bicubic(scale)
        self.layers = layers

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature scaled_height scaled_width"]:
        """Return learned features, followed by the enlarged image."""
        return torch.cat([self.layers(contrast(x)), self.bicubic(x)], dim=1)


def _at_half(wanted: Wanted, trunk: Callable[[int, int, int], nn.Module]) -> nn.Sequential:
    """Return a segmenter of which a trunk runs at half the resolution."""
    width = wanted.width
    return chain(
        trunk=HalfResolution(trunk(4 * wanted.channels, 4 * width, width), multiple=4),
        refine=ConvBlock(width, width),
        head=UnopinionatedConv(width, wanted.outputs),
    )


def unet(wanted: Wanted) -> nn.Sequential:
    """Return a U-Net at half the resolution, its output unfolded to the full one."""
    return _at_half(wanted, UNet)


def linknet(wanted: Wanted) -> nn.Sequential:
    """Return a LinkNet at half the resolution, its output unfolded to the full one."""
    return _at_half(wanted, LinkNet)


def srresnet(wanted: Wanted) -> nn.Sequential:
    """Return a residual network that corrects the bicubic image; its weights fit every scale.

    It works on the image that is already enlarged, on 2x2 pixels at a time. Features are
    ``[row, width + channel, scaled height, scaled width]``, the enlarged image last.

    References:
        Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
        Network, 2017.
    """
    return _on_bicubic(wanted, weighed=False)


def rcan(wanted: Wanted) -> nn.Sequential:
    """Return a network like :func:`srresnet` whose blocks weigh their features (RCAN)."""
    return _on_bicubic(wanted, weighed=True)


def _on_bicubic(wanted: Wanted, *, weighed: bool) -> nn.Sequential:
    """Return two residual blocks on the enlarged image, on 2x2 pixels at a time."""
    channels, width = wanted.channels, wanted.width
    inner = nn.Sequential(
        ConvBlock(4 * channels, 2 * width, norm=False),
        PlainResidual(2 * width, weighed=weighed),
        PlainResidual(2 * width, weighed=weighed),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
    )
    return chain(
        bicubic=Bicubic(wanted.scale),
        trunk=Carry(HalfResolution(inner), channels),
        **correction(wanted),
    )


def espcn(wanted: Wanted) -> nn.Sequential:
    """Return a network that works on the small image; its body's weights depend on the scale.

    Features and heads are shaped as those of :func:`srresnet`.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        Convolutional Neural Network, 2016.
    """
    width, scale = wanted.width, wanted.scale
    layers = nn.Sequential(
        ConvBlock(wanted.channels, 2 * width, 5, norm=False),
        ConvBlock(2 * width, 2 * width, norm=False),
        nn.Conv2d(2 * width, width * scale**2, 3, padding=1),
        nn.PixelShuffle(scale),
    )
    return chain(trunk=SubPixel(layers, scale), **correction(wanted))


def correction(wanted: Wanted) -> dict[str, nn.Module]:
    """Return the last layers of every enlarger: the last block, and what is added to a picture."""
    features = wanted.width + wanted.channels
    return {
        "refine": Carry(ConvBlock(features, wanted.width, norm=False), wanted.channels),
        "head": ResidualHead(features, wanted.outputs),
    }


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
