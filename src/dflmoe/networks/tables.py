"""Networks for tables."""

from torch import nn

from dflmoe.core.site import Network
from dflmoe.networks.recipe import recipe


class Unopinionated(nn.Linear):
    """A linear layer that starts at zero, where every class is as likely as any other."""

    def reset_parameters(self) -> None:
        """Set weights and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def plain(features: int, classes: int) -> Network:
    """Return the least network: standardised features as they are, and a linear head.

    Where all sites standardise by the same constants, they share one feature space by
    construction, and a head is a logistic regression.
    """
    return Network(
        nn.Identity(),
        Unopinionated(features, classes),
        features,
        classes,
        common=True,
        recipe=recipe("plain", features=features, classes=classes),
    )


def mlp(features: int, classes: int, *, hidden: int = 32) -> Network:
    """Return a multilayer perceptron: two hidden layers as body, a linear head."""
    body = nn.Sequential(
        nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
    )
    made = recipe("mlp", features=features, classes=classes, hidden=hidden)
    return Network(body, Unopinionated(hidden, classes), hidden, classes, recipe=made)
