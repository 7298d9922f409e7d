"""Cutting a network in two, what cannot be cut, and networks of one's own."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflmoe.core.site import Network
from dflmoe.errors import MissingExtraError, NetworkError
from dflmoe.networks import (
    build,
    entire,
    fits,
    layers,
    plain,
    split,
)
from dflmoe.networks.blocks import chain


def test_a_network_can_be_split_within_a_layer() -> None:
    def toy() -> nn.Sequential:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 6))
        return chain(first=inner, last=nn.Linear(6, 2))

    x = torch.randn(3, 4)
    whole = toy()(x)
    for at, width in (("first.1", 5), ("first.2", 5), ("last", 6)):
        network = split(toy(), at, shape=(4,), outputs=2)
        assert network.width == width
        features = network.body(x)
        torch.testing.assert_close(network.head(features), whole)
        torch.testing.assert_close(features, network.body(x))


class Named(nn.Module):
    """Runs its layers in the order in which they are written, or the other way round."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.backwards = backwards

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.second, self.first) if self.backwards else (self.first, self.second)
        return second(first(x))  # type: ignore[no-any-return]  # torch's modules return anything


class Extra(nn.Module):
    """Has a weight that no seed decides."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_module_that_runs_its_children_in_order_can_be_split() -> None:
    module = Named()
    x = torch.randn(3, 4)
    network = split(module, "second", shape=(4,), outputs=4)
    torch.testing.assert_close(network.head(network.body(x)), module(x))


def one_layer_twice() -> nn.Sequential:
    layer = nn.Linear(4, 4)
    return chain(first=layer, again=layer)


@pytest.mark.parametrize(
    ("module", "at", "message"),
    [
        pytest.param(
            chain(stem=nn.Linear(4, 4), deep=nn.Sequential(nn.Linear(4, 2))),
            "neck",
            r"no layer 'neck'; split at one of deep, deep\.0$",
            id="unknown layer",
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 4), last=nn.Linear(4, 2)),
            "stem",
            "no layer for the body; split at one of last$",
            id="empty body",
        ),
        pytest.param(
            chain(stem=nn.Identity(), last=nn.Linear(4, 2)), "last", "no layer", id="idle body"
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), last=nn.Linear(4, 2)),
            "last",
            r"'norm\.running_mean'.*use GroupNorm or LayerNorm$",
            id="BatchNorm in the body",
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), last=nn.Linear(4, 2)),
            "norm",
            "use GroupNorm or LayerNorm$",
            id="BatchNorm in the head",
        ),
        pytest.param(
            chain(stem=nn.Linear(5, 4), last=nn.Linear(4, 2)),
            "last",
            r"does not take inputs of shape \[row, 4\]",
            id="other input",
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 4), last=nn.Linear(4, 3)),
            "last",
            r"returns \[row, 3\] where the task expects \[row, 2\]",
            id="other outputs",
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 2), last=nn.Flatten(0)),
            "last",
            "need a channel axis",
            id="flat",
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 2), last=Pair()), "last", "returns a tuple", id="two outputs"
        ),
        pytest.param(
            chain(stem=nn.Linear(4, 2), last=nn.Sequential(Extra())),
            "last",
            r"'last\.0\.weight' are not drawn",
            id="weights that no seed decides",
        ),
        pytest.param(
            Named(backwards=True), "second", r"write it as an nn\.Sequential", id="no chain"
        ),
        pytest.param(
            nn.Bilinear(4, 4, 2),
            "last",
            r"no layer 'last'; write it as an nn\.Sequential",
            id="no layers at all",
        ),
        pytest.param(one_layer_twice(), "again", "weights are shared", id="shared weights"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_sentence(
    module: nn.Module, at: str, message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        split(module, at, shape=(4,), outputs=2)


def test_a_module_whose_parts_do_not_run_is_no_chain() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.rest = nn.ModuleList([nn.Linear(4, 2)])

        def forward(self, x: Tensor) -> Tensor:
            return self.rest[0](self.stem(x))  # type: ignore[no-any-return]  # as above

    with pytest.raises(NetworkError, match=r"write it as an nn\.Sequential"):
        split(Listed(), "rest", shape=(4,), outputs=2)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        pytest.param(plain(4, 3), r"head returns \[row, 3\].*expects \[row, 2\]", id="classes"),
        pytest.param(
            Network(nn.Linear(4, 5), nn.Linear(4, 2), 5, 2), "head does not take", id="head's input"
        ),
        pytest.param(
            Network(nn.Linear(3, 5), nn.Linear(5, 2), 5, 2), "body does not take", id="body's input"
        ),
        pytest.param(
            Network(nn.Linear(4, 5), nn.Linear(5, 2), 6, 2), r"head expects \[row, 6", id="width"
        ),
    ],
)
def test_a_network_that_does_not_fit_its_task_is_refused(network: Network, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        fits(network, (4,), (2,))


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "options", "message"),
    [
        pytest.param("resnet6", (1, 28, 28), 2, {}, "choose one of plain, mlp", id="unknown"),
        pytest.param("resnet5", (4,), 2, {}, "choose plain or mlp$", id="a table for an image"),
        pytest.param("mlp", (1, 28, 28), 2, {}, "choose small_cnn or", id="an image for a table"),
        pytest.param("mlp", (), 2, {}, "another input", id="no input"),
        pytest.param("mlp", (0,), 2, {}, "must be 1 or more", id="no features"),
        pytest.param("mlp", (4,), 2, {"width": 0}, "set it to 1 or more", id="no width"),
        pytest.param("plain", (4,), 2, {"width": 8}, "leave the width out", id="width of plain"),
        pytest.param(
            "unet", (1, 28, 28), 2, {"scale": 2}, "srresnet or rcan or espcn", id="enlarging"
        ),
        pytest.param("srresnet", (1, 8, 8), 3, {"scale": 2}, "same channels", id="colours"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_a_sentence(
    name: str, shape: tuple[int, ...], outputs: int, options: dict[str, int], message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        build(name, shape, outputs, width=options.get("width"), scale=options.get("scale", 1))


@pytest.mark.parametrize(
    ("name", "outputs"), [pytest.param("densenet", 2), pytest.param("segresnet", 2)]
)
def test_without_monai_its_networks_say_what_to_install(
    name: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dflmoe\[bench\]'"):
        build(name, (1, 28, 28), outputs)


# The user's own

OWN = """
from torch import nn

def toy(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 7), nn.GELU(), nn.Linear(7, outputs))

def normed(shape, outputs):
    return nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(4), nn.Linear(4, outputs))

def hasty(shape, outputs):
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, outputs))

def picture(shape, outputs):
    return nn.Sequential(nn.Conv2d(shape[0], 4, 1), nn.Conv2d(4, outputs, 1))

def wrong(shape, outputs):
    return "a network"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def test_a_network_of_ones_own_is_built_by_its_import_path(own: str) -> None:
    network = build(f"{own}:toy", (4,), 3, at="2")
    assert (network.width, network.classes) == (7, 3)
    assert network.head(network.body(torch.randn(5, 4))).shape == (5, 3)
    assert layers(f"{own}:toy", (4,), 3) == ["1", "2"]


def test_a_network_is_lent_as_a_whole_by_name_or_import_path(own: str) -> None:
    for name in ("mlp", "plain", f"{own}:toy", f"{own}:hasty"):
        network = entire(name, (4,), 3)
        x = torch.randn(5, 4)
        before = x.clone()
        assert network.head(network.body(x)).shape == (5, 3)
        assert torch.equal(x, before), name
        assert network.common
    with pytest.raises(NetworkError, match="may not travel"):
        entire(f"{own}:normed", (4,), 3)
    with pytest.raises(NetworkError, match=r"where the task expects \[row, 3\]"):
        entire(f"{own}:picture", (1, 8, 8), 3)


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        pytest.param("{}:toy", None, "split at one of 1, 2$", id="no split"),
        pytest.param("{}:nothing", "2", "AttributeError", id="no such factory"),
        pytest.param("{}_nowhere:toy", "2", "ModuleNotFoundError", id="no such module"),
        pytest.param("{}:wrong", "2", "returns a str", id="no module returned"),
        pytest.param(":toy", "2", "could not be made", id="no path"),
    ],
)
def test_a_wrong_import_path_is_refused_in_a_sentence(
    own: str, name: str, at: str | None, message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        build(name.format(own), (4,), 2, at=at)


def test_a_network_of_ones_own_must_enlarge_if_it_is_asked_to(own: str) -> None:
    assert build(f"{own}:picture", (3, 8, 8), 3, at="1").width == 4
    with pytest.raises(NetworkError, match=r"expects \[row, 3, 16, 16\]"):
        build(f"{own}:picture", (3, 8, 8), 3, at="1", scale=2)
