"""Networks by name, each split into a body that stays and a head that travels."""

from dflmoe.networks.affine import without_statistics
from dflmoe.networks.anew import from_recipe
from dflmoe.networks.catalogue import build, entire, layers, names, splits
from dflmoe.networks.encoder import encoder
from dflmoe.networks.images import small_cnn
from dflmoe.networks.split import fits, split
from dflmoe.networks.tables import mlp, plain

__all__ = [
    "build",
    "encoder",
    "entire",
    "fits",
    "from_recipe",
    "layers",
    "mlp",
    "names",
    "plain",
    "small_cnn",
    "split",
    "splits",
    "without_statistics",
]
