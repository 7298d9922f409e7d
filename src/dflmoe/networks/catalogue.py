"""Networks by name: the catalogue, and the user's own by import path."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Literal

from torch import nn

from dflmoe.core.site import Network
from dflmoe.errors import NetworkError
from dflmoe.networks import classifiers, medical, pictures, published
from dflmoe.networks.blocks import Wanted, chain
from dflmoe.networks.recipe import recipe
from dflmoe.networks.split import (
    fits,
    prefix_before,
    split,
    split_points,
    undivided,
    where_to_split,
)
from dflmoe.networks.tables import Unopinionated, plain

Kind = Literal["table", "series", "image", "segmentation", "super-resolution"]

_INPUTS: dict[Kind, tuple[str, ...]] = {
    "table": ("feature",),
    "series": ("channel", "time"),
    "image": ("channel", "height", "width"),
    "segmentation": ("channel", "height", "width"),
    "super-resolution": ("channel", "height", "width"),
}


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Attributes:
        kind: What it takes and what it returns.
        make: Makes the whole of it.
        at: First layer of its light head.
        deep: First layer of the deeper head: the last block and what follows.
        width: Channels of its first block where nothing else is asked for; 0 if it has none.
        published: It is as deep and wide as its paper's, and so meant for a GPU.
    """

    kind: Kind
    make: Callable[[Wanted], nn.Module]
    at: str
    deep: str
    width: int
    published: bool = False


_published = partial(Entry, published=True)


def _plain_layers(wanted: Wanted) -> nn.Module:
    return chain(features=nn.Identity(), classifier=Unopinionated(wanted.channels, wanted.outputs))


CATALOGUE: dict[str, Entry] = {
    "plain": Entry("table", _plain_layers, "classifier", "classifier", 0),
    "mlp": Entry("table", classifiers.mlp_layers, "classifier", "block2", 32),
    "small_cnn": Entry("image", classifiers.small_cnn_layers, "classifier", "block2", 16),
    "resnet5": Entry("image", partial(classifiers.resnet, blocks=1), "classifier", "block1", 8),
    "resnet8": Entry("image", partial(classifiers.resnet, blocks=2), "classifier", "block2", 8),
    "resnet11": Entry("image", partial(classifiers.resnet, blocks=3), "classifier", "block3", 8),
    "resnet17": Entry("image", partial(classifiers.resnet, blocks=5), "classifier", "block5", 8),
    "densenet": Entry("image", medical.densenet, "classifier", "block2", 8),
    "mobilenet": Entry("image", classifiers.mobilenet, "classifier", "block3", 8),
    "resnext": Entry("image", classifiers.resnext, "classifier", "block2", 8),
    "senet": Entry("image", classifiers.senet, "classifier", "block2", 8),
    "shufflenet": Entry("image", classifiers.shufflenet, "classifier", "block3", 8),
    "squeezenet": Entry("image", classifiers.squeezenet, "classifier", "block2", 8),
    "vgg": Entry("image", classifiers.vgg, "classifier", "block2", 8),
    "cnn1d": Entry("series", classifiers.cnn1d, "classifier", "block2", 8),
    "resnet1d": Entry("series", partial(classifiers.resnet, blocks=2), "classifier", "block2", 8),
    "tcn": Entry("series", classifiers.tcn, "classifier", "block2", 8),
    "linknet": Entry("segmentation", pictures.linknet, "head", "refine", 8),
    "unet": Entry("segmentation", pictures.unet, "head", "refine", 8),
    "segresnet": Entry("segmentation", medical.segresnet, "head", "refine", 8),
    "srresnet": Entry("super-resolution", pictures.srresnet, "head", "refine", 8),
    "rcan": Entry("super-resolution", pictures.rcan, "head", "refine", 8),
    "espcn": Entry("super-resolution", pictures.espcn, "head", "refine", 8),
    "resnet18": _published("image", published.resnet18, "classifier", "block8", 64),
    "resnet50": _published("image", published.resnet50, "classifier", "block16", 64),
    "resnext50_32x4d": _published("image", published.resnext50, "classifier", "block16", 64),
    "seresnet18": _published("image", published.seresnet18, "classifier", "block8", 64),
    "densenet121": _published("image", medical.densenet121, "classifier", "block4", 32),
    "mobilenet_v2": _published("image", published.mobilenet_v2, "classifier", "block17", 32),
    "shufflenet_v2_x1_0": _published("image", published.shufflenet, "classifier", "block16", 24),
    "squeezenet1_1": _published("image", published.squeezenet, "classifier", "block8", 64),
    "vgg11": _published("image", published.vgg11, "classifier", "block7", 64),
    "resnet1d64": _published("series", published.resnet1d, "classifier", "block3", 64),
    "unet64": _published("segmentation", published.unet, "head", "refine", 64),
    "edsr_baseline": _published("super-resolution", published.edsr, "head", "refine", 64),
    "rcan_full": _published("super-resolution", published.rcan, "head", "refine", 64),
}


def names(kind: Kind | None = None, *, published: bool | None = None) -> list[str]:
    """Return the networks of the catalogue, or those of one kind, or of published widths or not."""
    return [
        name
        for name, entry in CATALOGUE.items()
        if kind in {None, entry.kind} and published in {None, entry.published}
    ]


def splits(name: str) -> tuple[str, str]:
    """Return where a network of the catalogue is split for its light head and for a deeper one.

    Raises:
        NetworkError: There is no such network.
    """
    entry = _entry(name)
    return entry.at, entry.deep


def layers(
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: int | None = None,
    scale: int = 1,
) -> list[str]:
    """Return the names of the layers at which a network can be split; arguments as of ``build``.

    Raises:
        NetworkError: There is no such network, or it does not take such inputs.
        MissingExtraError: It is MONAI's, which is not installed.
    """
    return split_points(_made(name, Wanted(shape, outputs, _width(name, width), scale)))


def build(
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    at: str | None = None,
    width: int | None = None,
    scale: int = 1,
    common: bool = False,
) -> Network:
    """Return a network by name, split into a body and a head.

    Args:
        name: Of the catalogue, or ``package.module:factory``, where ``factory(shape, outputs)``
            returns the whole network as a module.
        shape: Of one input: ``(feature,)``, ``(channel, time)`` or ``(channel, height, width)``.
        outputs: Classes, or channels of the picture that comes out.
        at: First layer of the head; by default the light head that the catalogue names.
        width: Channels of the first block, by which all others scale; of the catalogue only.
        scale: How many times larger the picture comes out (super-resolution).
        common: The body stays as the federation's seed made it, the same at every site.

    Raises:
        NetworkError: There is no such network or layer, or it does not fit the input or the task.
        MissingExtraError: It is MONAI's, which is not installed.
    """
    module = _made(name, Wanted(shape, outputs, _width(name, width), scale))
    if name == "plain" and at in {None, "classifier"}:
        return plain(shape[0], outputs)
    if at is None and ":" in name:
        raise NetworkError(
            f"network {name!r} does not say where its head starts; {where_to_split(module)}"
        )
    first = at if at is not None else CATALOGUE[name].at
    network = split(module, first, shape=shape, outputs=outputs, common=common)
    made = recipe(
        "build", name=name, shape=shape, outputs=outputs, at=first, width=width, scale=scale
    )
    network = replace(network, recipe=made)
    kind = CATALOGUE[name].kind if name in CATALOGUE else None
    if scale > 1 or kind in {"segmentation", "super-resolution"}:
        fits(network, shape, (outputs, *(scale * side for side in shape[1:])))
    elif kind is not None:
        fits(network, shape, (outputs,))
    return network


def body_prefix(name: str, shape: tuple[int, ...], outputs: int, *, at: str | None = None) -> str:
    """Return what the whole network puts before the names of its body's weights, mostly nothing.

    Arguments and errors are those of ``build``.
    """
    module = _made(name, Wanted(shape, outputs, _width(name, None)))
    return prefix_before(module, at if at is not None else CATALOGUE[name].at)


def whole(name: str, shape: tuple[int, ...]) -> nn.Module:
    """Return what the factory of a network of the user's own makes, undivided.

    Raises:
        NetworkError: It makes nothing that takes such inputs.
    """
    return _imported(name, Wanted(shape, 2, 0))


def entire(name: str, shape: tuple[int, ...], outputs: int, *, scale: int = 1) -> Network:
    """Return a network that is lent as a whole: a head behind a body that does nothing.

    Arguments and errors are those of ``build``.
    """
    made = recipe("entire", name=name, shape=shape, outputs=outputs, scale=scale)
    if ":" in name:
        whole = _imported(name, Wanted(shape, outputs, 0, scale))
        return replace(undivided(whole, shape=shape, outputs=outputs), recipe=made)
    network = build(name, shape, outputs, scale=scale)
    head = nn.Sequential(network.body, network.head)
    return Network(nn.Identity(), head, shape[0], outputs, common=True, recipe=made)


def _entry(name: str) -> Entry:
    if name not in CATALOGUE:
        raise NetworkError(
            f"there is no network {name!r}; choose one of {', '.join(CATALOGUE)}, "
            "or name your own as package.module:factory"
        )
    return CATALOGUE[name]


def _width(name: str, width: int | None) -> int:
    """Return the width to build with, the entry's own by default."""
    own = 0 if ":" in name else _entry(name).width
    if width is None:
        return own
    if not own:
        raise NetworkError(f"network {name!r} has no width to set; leave the width out")
    if width < 1:
        raise NetworkError(f"network {name!r} cannot have a width of {width}; set it to 1 or more")
    return width


def _made(name: str, wanted: Wanted) -> nn.Module:
    """Return the whole network, if it is for such inputs."""
    if ":" in name:
        return _imported(name, wanted)
    entry = _entry(name)
    axes = _INPUTS[entry.kind]
    if len(wanted.shape) != len(axes):
        others = [n for n, e in CATALOGUE.items() if len(_INPUTS[e.kind]) == len(wanted.shape)]
        raise NetworkError(
            f"network {name!r} takes inputs [row, {', '.join(axes)}] and not one of shape "
            f"{wanted.shape}; choose {' or '.join(others) or 'another input'}"
        )
    if min(*wanted.shape, wanted.outputs, wanted.scale) < 1:
        raise NetworkError(
            f"network {name!r} cannot have an input of shape {wanted.shape}, {wanted.outputs} "
            f"outputs and scale {wanted.scale}; all of them must be 1 or more"
        )
    if entry.kind == "super-resolution" and wanted.outputs != wanted.channels:
        raise NetworkError(
            f"network {name!r} returns as many channels as it is given, {wanted.channels}, "
            f"and not {wanted.outputs}; let input and target have the same channels"
        )
    if entry.kind != "super-resolution" and wanted.scale != 1:
        raise NetworkError(
            f"network {name!r} cannot enlarge its input {wanted.scale} times; "
            f"choose {' or '.join(names('super-resolution'))}"
        )
    return entry.make(wanted)


def _imported(name: str, wanted: Wanted) -> nn.Module:
    """Return the user's own network."""
    path, _, attribute = name.partition(":")
    try:
        factory = getattr(import_module(path), attribute)
        module = factory(wanted.shape, wanted.outputs)
    except Exception as error:
        raise NetworkError(
            f"network {name!r} could not be made ({type(error).__name__}: {error}); check that "
            "python can import the module and that its factory takes the shape and the outputs"
        ) from error
    if not isinstance(module, nn.Module):
        raise NetworkError(
            f"the factory of network {name!r} returns a {type(module).__name__}; "
            "let it return a torch.nn.Module"
        )
    return module
