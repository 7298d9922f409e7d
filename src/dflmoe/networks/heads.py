"""Heads for pictures that come out: a class or a colour for every pixel.

The head for one class per row is :class:`dflmoe.networks.tables.Unopinionated`.
"""

from jaxtyping import Float
from torch import Tensor, nn

from dflmoe.networks.blocks import with_contrast


class UnopinionatedConv(nn.Conv2d):
    """A 3x3 convolution that starts at zero: at every pixel, all classes are as likely."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(features, outputs, 3, padding=1)

    def reset_parameters(self) -> None:
        """Set weights and bias to zero."""
        for weights in self.parameters():
            nn.init.zeros_(weights)


class ResidualHead(nn.Module):
    """Corrects a picture: a 3x3 convolution on all features is added to the last channels.

    The convolution sees how the picture differs from its own mean colour.

    It starts at zero, so an untrained head returns the picture that the body hands it.

    Args:
        features: Channels of the body's output, the picture's among them, which come last.
        outputs: Channels of the picture.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.correct = UnopinionatedConv(features, outputs)

    def forward(
        self, x: Float[Tensor, "row feature height width"]
    ) -> Float[Tensor, "row channel height width"]:
        """Return the corrected picture."""
        seen, picture = with_contrast(x, self.outputs)
        corrected: Tensor = picture + self.correct(seen)
        return corrected
