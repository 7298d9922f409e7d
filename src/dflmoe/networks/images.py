"""Networks for small images."""

from torch import nn

from dflmoe.core.site import Network
from dflmoe.networks.recipe import recipe


def small_cnn(channels: int, classes: int, *, width: int = 16, common: bool = False) -> Network:
    """Return a small convolutional network, its last block and classifier as head.

    Inputs are ``[row, channel, height, width]``. The head is deep enough to hold most of what is
    learnt: in our trials a borrowed classifier alone taught nothing.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Channels of the body.
        common: Keep the body as the federation's seed made it, so that all sites share its
            features.
    """
    body = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(8),
    )
    head = nn.Sequential(
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.GroupNorm(4, 2 * width),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )
    made = recipe("small_cnn", channels=channels, classes=classes, width=width)
    return Network(body, head, width, classes, common=common, recipe=made)
