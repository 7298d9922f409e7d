"""A network made anew from what a file says of it, its weights still to be loaded."""

import json
from collections.abc import Callable, Mapping

from dflmoe.core.site import Network
from dflmoe.errors import NetworkError
from dflmoe.networks.catalogue import build, entire
from dflmoe.networks.encoder import blank, encoded_by
from dflmoe.networks.images import small_cnn
from dflmoe.networks.tables import mlp, plain


def from_recipe(made: str) -> Network:
    """Return a network of the same modules.

    Args:
        made: As ``Network.recipe`` tells it.

    Raises:
        NetworkError: It is none of ours, or the user's own cannot be imported here.
        MissingExtraError: It is MONAI's, which is not installed.
    """
    makers: Mapping[str, Callable[..., Network]] = {
        "plain": plain,
        "mlp": mlp,
        "small_cnn": small_cnn,
        "build": build,
        "entire": entire,
        "encoded": _encoded,
    }
    try:
        given = json.loads(made)
        maker = makers[given.pop("made_by")]
        given |= {"shape": tuple(given["shape"])} if "shape" in given else {}
        return maker(**given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError(
            f"a network cannot be made from {made[:200]!r}; the file was written by another "
            f"version, or is damaged"
        ) from error


def _encoded(inner: str, encoder: str, shape: tuple[int, ...], at: str | None) -> Network:
    network = from_recipe(inner)
    return encoded_by(network, blank(encoder, shape, network.width, at=at), encoder, shape, at)
