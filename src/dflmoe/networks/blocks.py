"""The parts that our networks are made of. Nothing here keeps buffers or acts by chance.

Norms are GroupNorms: BatchNorm's running statistics would describe a site's patients.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NORM_GROUPS = 4

SMALLEST_SPREAD = 0.03
"""Added to a series' spread, so that a flat one stays flat."""

_CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}

Option = Literal["B", "C"]
"""Whether a residual block projects its input only where shapes differ (B) or always (C)."""


@dataclass(frozen=True)
class Wanted:
    """What a network is asked to be.

    Attributes:
        shape: Of one input: ``[feature]``, ``[channel, time]`` or ``[channel, height, width]``.
        outputs: Classes, or channels of the picture that comes out.
        width: Channels of its first block; the others follow.
        scale: How many times larger the picture comes out (super-resolution).
    """

    shape: tuple[int, ...]
    outputs: int
    width: int
    scale: int = 1

    @property
    def channels(self) -> int:
        """Channels of the input, or features of a table."""
        return self.shape[0]


def chain(**layers: nn.Module) -> nn.Sequential:
    """Return layers that run one after the other and can be split by name."""
    return nn.Sequential(OrderedDict(layers))


def norm_groups(channels: int) -> int:
    """Return the number of groups of a norm: four, or what of it divides the channels."""
    return math.gcd(NORM_GROUPS, channels)


class ConvBlock(nn.Sequential):
    """Convolution, GroupNorm, ReLU: the size stays, or shrinks by the stride.

    Without the norm the convolution has a bias: where small differences of brightness are what is
    to be learnt, a norm takes them away (Lim et al., EDSR, 2017, section 3.1). Of another kind, it
    may be drawn otherwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        dims: int = 2,
        active: bool = True,
        norm: bool = True,
        kind: type[nn.Conv2d] | None = None,
    ) -> None:
        conv = (kind or _CONV[dims])(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not norm
        )
        layers = OrderedDict[str, nn.Module](conv=conv)
        if norm:
            layers["norm"] = nn.GroupNorm(norm_groups(outputs), outputs)
        if active:
            layers["relu"] = nn.ReLU()
        super().__init__(layers)


def shortcut(
    inputs: int, outputs: int, option: Option, *, stride: int = 1, dims: int = 2
) -> nn.Module:
    """Return what brings a block's input to the shape of its features."""
    if option == "B" and stride == 1 and inputs == outputs:
        return nn.Identity()
    return ConvBlock(inputs, outputs, 1, stride=stride, dims=dims, active=False)


class Residual(nn.Module):
    """A basic residual block: two layers of weights, and a third where it projects its input.

    References:
        He et al., Deep Residual Learning for Image Recognition, 2016, figure 2, options B and C.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dims: int = 2,
        option: Option = "C",
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel, stride=stride, dims=dims)
        self.second = ConvBlock(outputs, outputs, kernel, dims=dims, active=False)
        self.shortcut = shortcut(inputs, outputs, option, stride=stride, dims=dims)

    def forward(self, x: Float[Tensor, "row channel ..."]) -> Float[Tensor, "row feature ..."]:
        """Return what the two convolutions add to the projected input."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Inverted(nn.Module):
    """An inverted residual block: widen, convolve each channel by itself, narrow.

    References:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, figure 3.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expand: int = 2) -> None:
        super().__init__()
        wide = expand * inputs
        self.widen = ConvBlock(inputs, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = ConvBlock(wide, wide, stride=stride, groups=wide)
        self.narrow = ConvBlock(wide, outputs, 1, active=False)
        self.skips = stride == 1 and inputs == outputs

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height_out width_out"]:
        """Return the block's features, added to its input where their shapes are alike."""
        out: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + out if self.skips else out


class Aggregated(nn.Module):
    """A residual block whose middle convolution is of many groups; of one, it is a bottleneck.

    Args:
        inputs: Channels that go in.
        outputs: Features that come out.
        stride: Of the middle convolution.
        groups: Of the middle convolution, at most.
        narrower: How many times fewer features the middle convolution has.
        option: When the input is projected.

    References:
        Xie et al., Aggregated Residual Transformations for Deep Neural Networks, 2017, figure 3c.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        groups: int = 4,
        narrower: int = 1,
        option: Option = "C",
    ) -> None:
        super().__init__()
        few = outputs // narrower
        self.narrow = ConvBlock(inputs, few, 1)
        self.grouped = ConvBlock(few, few, stride=stride, groups=math.gcd(groups, few))
        self.widen = ConvBlock(few, outputs, 1, active=False)
        self.shortcut = shortcut(inputs, outputs, option, stride=stride)

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height_out width_out"]:
        """Return what the groups add to the projected input."""
        return F.relu(self.widen(self.grouped(self.narrow(x))) + self.shortcut(x))


class Weighed(nn.Module):
    """A residual block that weighs its features by what the whole picture shows.

    References:
        Hu et al., Squeeze-and-Excitation Networks, 2018, figure 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        squeeze: int = 4,
        option: Option = "C",
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, stride=stride)
        self.second = ConvBlock(outputs, outputs, active=False)
        self.excite = Excite(outputs, squeeze)
        self.shortcut = shortcut(inputs, outputs, option, stride=stride)

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height_out width_out"]:
        """Return the weighed features, added to the projected input."""
        return F.relu(self.excite(self.second(self.first(x))) + self.shortcut(x))


class Excite(nn.Module):
    """Weighs each feature, 0 to 1, by the means of all.

    Args:
        features: How many there are.
        squeeze: How many times fewer the weights are made from.
    """

    def __init__(self, features: int, squeeze: int = 4) -> None:
        super().__init__()
        few = max(1, features // squeeze)
        self.weigh = nn.Sequential(
            MeanPool(), nn.Linear(features, few), nn.GELU(), nn.Linear(few, features), nn.Sigmoid()
        )

    def forward(
        self, x: Float[Tensor, "row feature height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return the features, weighed."""
        weighed: Tensor = x * self.weigh(x)[..., None, None]
        return weighed


class Fire(nn.Module):
    """Few features, from which many are made by convolutions of two sizes.

    Args:
        inputs: Channels that go in.
        outputs: Features that come out.
        stride: Of the first convolution.
        squeeze: How many times fewer the few are.
        block: Makes each convolution.

    References:
        Iandola et al., SqueezeNet, 2016, figure 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        squeeze: int = 4,
        block: Callable[..., nn.Module] = ConvBlock,
    ) -> None:
        super().__init__()
        few, half = max(1, outputs // squeeze), outputs // 2
        self.squeeze = block(inputs, few, 1, stride=stride)
        self.narrow = block(few, half, 1)
        self.wide = block(few, outputs - half)

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height_out width_out"]:
        """Return what both sizes see."""
        few = self.squeeze(x)
        return torch.cat([self.narrow(few), self.wide(few)], dim=1)


class Shuffled(nn.Module):
    """Half of the features pass, half are convolved channel by channel; then all are mixed.

    Where the picture shrinks, or there are more features after it, both halves are convolved.

    References:
        Ma et al., ShuffleNet V2, 2018, figure 3.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.passes = stride == 1 and inputs == outputs
        half = outputs // 2
        self.kept = inputs - half if self.passes else 0
        first = half if self.passes else inputs
        self.convolved = nn.Sequential(
            ConvBlock(first, half, 1),
            ConvBlock(half, half, stride=stride, groups=half, active=False),
            ConvBlock(half, half, 1),
        )
        self.other = (
            nn.Identity()
            if self.passes
            else nn.Sequential(
                ConvBlock(inputs, inputs, stride=stride, groups=inputs, active=False),
                ConvBlock(inputs, outputs - half, 1),
            )
        )

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height_out width_out"]:
        """Return both halves, channel by channel in turn."""
        left, right = (x[:, : self.kept], x[:, self.kept :]) if self.passes else (x, x)
        both = self.other(left), self.convolved(right)
        if both[0].shape[1] != both[1].shape[1]:
            return torch.cat(both, dim=1)
        return torch.stack(both, dim=2).flatten(1, 2)


class Dilated(nn.Module):
    """A residual block of a series whose convolution looks far: its taps lie apart.

    References:
        Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
        Sequence Modeling, 2018, figure 1b; not causal here, as a whole recording is there.
    """

    def __init__(self, inputs: int, outputs: int, apart: int, kernel: int = 5) -> None:
        super().__init__()
        reach = apart * (kernel // 2)
        self.far = nn.Conv1d(inputs, outputs, kernel, padding=reach, dilation=apart, bias=False)
        self.norm = nn.GroupNorm(norm_groups(outputs), outputs)
        self.shortcut = ConvBlock(inputs, outputs, 1, dims=1, active=False)

    def forward(self, x: Float[Tensor, "row channel time"]) -> Float[Tensor, "row feature time"]:
        """Return what the convolution adds to the projected input."""
        return F.relu(self.norm(self.far(x)) + self.shortcut(x))


class Standardised(nn.Module):
    """Splits a series into its shape, with mean 0 and spread 1, and the logarithm of its spread.

    People differ in their level (resting heart rate) more than their states do, so the level is
    left out: with it a network learns to tell people apart.
    """

    def forward(
        self, x: Float[Tensor, "row channel time"]
    ) -> Float[Tensor, "row twice_channel time"]:
        """Return the shape, followed by the same logarithm at every time."""
        spread = x.std(-1, keepdim=True) + SMALLEST_SPREAD
        shape = (x - x.mean(-1, keepdim=True)) / spread
        return torch.cat([shape, spread.log().expand_as(x)], dim=1)


class MeanPool(nn.Module):
    """The mean of each feature over time or over the picture."""

    def forward(self, x: Float[Tensor, "row feature *space"]) -> Float[Tensor, "row feature"]:
        """Return one number for each feature."""
        return x.flatten(2).mean(-1)


class HalfResolution(nn.Module):
    """Runs a network on 2x2 pixels at a time, four times cheaper, and unfolds its output again.

    Args:
        inner: Takes ``4 * channel`` channels and returns ``4 * feature``, at its input's size.
        multiple: Of which the inner network's height and width must be; the input is padded.
    """

    def __init__(self, inner: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.multiple = 2 * multiple

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return features at the resolution of the input."""
        height, width = x.shape[-2:]
        margin = (0, -width % self.multiple, 0, -height % self.multiple)
        folded = F.pixel_unshuffle(F.pad(x, margin, mode="replicate"), 2)
        return F.pixel_shuffle(self.inner(folded), 2)[..., :height, :width]


class Bicubic(nn.Module):
    """Enlarges a picture by bicubic interpolation: no weights."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row channel scaled_height scaled_width"]:
        """Return the picture, ``scale`` times as high and wide."""
        if self.scale == 1:
            return x
        size = [self.scale * side for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bicubic", align_corners=False)


def contrast(picture: Float[Tensor, "row channel height width"]) -> Tensor:
    """Return how a picture differs from its own mean colour."""
    return picture - picture.mean((2, 3), keepdim=True)


def with_contrast(
    x: Float[Tensor, "row feature height width"], channels: int
) -> tuple[Tensor, Tensor]:
    """Return features whose last channels, the picture, show its contrast; and the picture."""
    picture = x[:, -channels:]
    return torch.cat([x[:, :-channels], contrast(picture)], dim=1), picture


class Carry(nn.Module):
    """Runs layers and carries the picture along: the last channels come out as they went in.

    The layers see how the picture differs from its own mean colour: what sharpens an image does
    not depend on how bright it is.

    Args:
        layers: From all channels to features.
        channels: Of the picture.
    """

    def __init__(self, layers: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers = layers
        self.channels = channels

    def forward(
        self, x: Float[Tensor, "row channel height width"]
    ) -> Float[Tensor, "row feature height width"]:
        """Return the features, followed by the picture."""
        seen, picture = with_contrast(x, self.channels)
        return torch.cat([self.layers(seen), picture], dim=1)
