"""A node with an encoder of its own, where the charter leaves bodies to the sites."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dflmoe.data.source import OwnEncoder
from dflmoe.errors import NetworkError, SettingsError
from dflmoe.networks import build
from dflmoe.node.agreed import network_of
from dflmoe.node.baseline import _with_own_encoder
from dflmoe.security.charter import Charter

SHAPE = (1, 12, 12)


def charter(**changed: object) -> Charter:
    return Charter.model_validate(
        {
            "federation": "ab" * 16,
            "name": "Films",
            "task": "ill or not",
            "classes": ("well", "ill"),
            "kind": "image",
            "shape": SHAPE,
            "network": "resnet5",
            "exchange": "paper",
            **changed,
        }
    )


def weights(folder: Path) -> Path:
    path = folder / "encoder.safetensors"
    body = build("resnet8", SHAPE, 2).body
    save_file({name: p.detach() for name, p in body.named_parameters()}, path)
    return path


def test_a_site_brings_its_own_encoder_and_lends_the_agreed_head(tmp_path: Path) -> None:
    agreed = network_of(charter())
    own = OwnEncoder(weights=weights(tmp_path), network="resnet8")
    made = _with_own_encoder(agreed, charter(), own)
    assert str(made.head) == str(agreed.head)
    assert made.head(made.body(torch.zeros(3, *SHAPE))).shape == (3, 2)
    assert [name for name, p in made.body.named_parameters() if p.requires_grad] == [
        "map.weight",
        "map.bias",
    ]
    assert _with_own_encoder(agreed, charter(), None) is agreed


@pytest.mark.parametrize("exchange", ["shared", "averaged", "seeded"])
def test_where_bodies_are_not_the_sites_own_it_is_refused(tmp_path: Path, exchange: str) -> None:
    rules = charter(exchange=exchange)
    own = OwnEncoder(weights=weights(tmp_path), network="resnet8")
    with pytest.raises(SettingsError, match=r"leave \[data.encoder\] out"):
        _with_own_encoder(network_of(rules), rules, own)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    own = OwnEncoder(weights=weights(tmp_path), network="vgg")
    with pytest.raises(NetworkError):
        _with_own_encoder(network_of(charter()), charter(), own)
