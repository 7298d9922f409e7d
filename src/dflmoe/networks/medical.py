"""MONAI's networks with our norms and our names: DenseNet and SegResNet.

MONAI takes seconds to load and is not needed by anything else, so it is imported when asked for.
"""

from importlib import import_module

from torch import nn

from dflmoe.errors import MissingExtraError
from dflmoe.networks.blocks import ConvBlock, HalfResolution, MeanPool, Wanted, chain, norm_groups
from dflmoe.networks.heads import UnopinionatedConv
from dflmoe.networks.tables import Unopinionated


def densenet(wanted: Wanted) -> nn.Sequential:
    """Return MONAI's DenseNet with two dense blocks.

    References:
        Huang et al., Densely Connected Convolutional Networks, 2017.

    Raises:
        MissingExtraError: MONAI is not installed.
    """
    part = _dense(wanted, (2, 2), bottleneck=2)
    return chain(
        stem=_stem(part),
        block1=part["denseblock1"],
        transition=part["transition1"],
        block2=chain(dense=part["denseblock2"], norm=part["norm5"], relu=nn.ReLU()),
        pool=MeanPool(),
        classifier=Unopinionated(4 * wanted.width, wanted.outputs),
    )


def densenet121(wanted: Wanted) -> nn.Sequential:
    """Return MONAI's DenseNet-121, of any size of picture; each later block shrinks it first.

    References:
        Huang et al., Densely Connected Convolutional Networks, 2017, table 1.

    Raises:
        MissingExtraError: MONAI is not installed.
    """
    part = _dense(wanted, (6, 12, 24, 16), bottleneck=4)
    blocks = {"block1": part["denseblock1"]}
    for k in (2, 3, 4):
        shrink = part[f"transition{k - 1}"]
        shrink.get_submodule("pool").ceil_mode = True  # type: ignore[assignment]  # no tensor
        blocks[f"block{k}"] = chain(shrink=shrink, dense=part[f"denseblock{k}"])
    return chain(
        stem=_stem(part),
        **blocks,
        norm=part["norm5"],
        relu=nn.ReLU(),
        pool=MeanPool(),
        classifier=Unopinionated(32 * wanted.width, wanted.outputs),
    )


def _dense(wanted: Wanted, blocks: tuple[int, ...], *, bottleneck: int) -> dict[str, nn.Module]:
    """Return the parts of a DenseNet that grows by its width from layer to layer.

    Args:
        wanted: What the network is asked to be.
        blocks: Layers of each dense block.
        bottleneck: How many times the width a layer's first convolution makes.
    """
    built = _monai("DenseNet")(
        spatial_dims=2,
        in_channels=wanted.channels,
        out_channels=wanted.outputs,
        init_features=2 * wanted.width,
        growth_rate=wanted.width,
        block_config=blocks,
        bn_size=bottleneck,
        act=("relu", {"inplace": False}),
        norm=("group", {"num_groups": norm_groups(wanted.width)}),
    )
    return dict(built.get_submodule("features").named_children())


def _stem(part: dict[str, nn.Module]) -> nn.Sequential:
    return chain(conv=part["conv0"], norm=part["norm0"], relu=part["relu0"], pool=part["pool0"])


def segresnet(wanted: Wanted) -> nn.Sequential:
    """Return MONAI's SegResNet at half the resolution, its output unfolded to the full one.

    References:
        Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, 2018.

    Raises:
        MissingExtraError: MONAI is not installed.
    """
    width = wanted.width
    inner = _monai("SegResNet")(
        spatial_dims=2,
        init_filters=width,
        in_channels=4 * wanted.channels,
        out_channels=4 * width,
        act=("relu", {"inplace": False}),
        norm=("group", {"num_groups": norm_groups(width)}),
        blocks_down=(1, 1, 1),
        blocks_up=(1, 1),
    )
    return chain(
        trunk=HalfResolution(inner, multiple=4),
        refine=ConvBlock(width, width),
        head=UnopinionatedConv(width, wanted.outputs),
    )


def _monai(network: str) -> type[nn.Module]:
    try:
        found: type[nn.Module] = getattr(import_module("monai.networks.nets"), network)
    except ImportError as error:
        raise MissingExtraError(
            f"{network} is a network of MONAI, which is not installed: pip install 'dflmoe[bench]'"
        ) from error
    return found
