"""Networks by name, each split into a body that stays and a head that travels."""

from dflmoe.networks.images import small_cnn
from dflmoe.networks.tables import mlp, plain

__all__ = ["mlp", "plain", "small_cnn"]
