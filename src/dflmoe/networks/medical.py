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
    width = wanted.width
    built = _monai("DenseNet")(
        spatial_dims=2,
        in_channels=wanted.channels,
        out_channels=wanted.outputs,
        init_features=2 * width,
        growth_rate=width,
        block_config=(2, 2),
        bn_size=2,
        act=("relu", {"inplace": False}),
        norm=("group", {"num_groups": norm_groups(width)}),
    )
    part = dict(built.get_submodule("features").named_children())
    return chain(
        stem=chain(conv=part["conv0"], norm=part["norm0"], relu=part["relu0"], pool=part["pool0"]),
        block1=part["denseblock1"],
        transition=part["transition1"],
        block2=chain(dense=part["denseblock2"], norm=part["norm5"], relu=nn.ReLU()),
        pool=MeanPool(),
        classifier=Unopinionated(4 * width, wanted.outputs),
    )


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
