"""A node that is hit at any moment at which it writes goes on as if nothing had happened."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.faults import Blow, watched
from tests.hospitals import Clock, Country
from tests.made import made_data, made_rows

from dflmoe.core.dflmoe import DFLMoE
from dflmoe.core.dials import Dials
from dflmoe.core.training import Training
from dflmoe.networks import plain
from dflmoe.node.exchange import MemoryExchange
from dflmoe.node.home import Home
from dflmoe.node.node import Node
from dflmoe.node.replica import Replica
from dflmoe.node.store import STORE, Store
from dflmoe.security.audit import broken

SITES = ("ann", "bob")
METHOD = DFLMoE(
    plain(4, 2),
    Dials(restart="consensus"),
    Training(weight_decays=(0.1,), learning_rate=0.02, max_steps=4),
)


def opened(folder: Path, site: str) -> Replica:
    return Replica(Home(folder / site), Store(folder / site / STORE), Clock())


def play(folder: Path, site: str, until: int, *others: str) -> None:
    """Play at a site, with some others in reach, until a round."""
    torch.set_num_threads(1)
    mine = opened(folder, site)
    exchange = MemoryExchange(mine, [opened(folder, other) for other in others])
    data = made_data(made_rows(site, 40, ord(site[0]))).only(0)
    serve = (lambda summary, _: summary.signed()) if site == "ann" else None
    list(Node(mine, exchange, METHOD, data, serve=serve).rounds(until))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites that have played: the one knows the other's first head, and not yet its second."""
    folder = tmp_path_factory.mktemp("before")
    country = Country(folder, *SITES)
    for replica in country.replicas.values():
        replica.store.close()
    assert watched(play, folder, "bob", 1)
    assert watched(play, folder, "ann", 1, "bob")
    assert watched(play, folder, "bob", 2)
    return folder


def result(folder: Path) -> tuple[bytes | None, list[str], int]:
    """Return the state of ann, what came of its rounds, and which head of bob it holds."""
    ann = opened(folder, "ann")
    assert ann.store.check() == []
    assert broken(ann.store.entries(), "ann") == []
    blobs = {path.name for path in (folder / "ann" / STORE / "blobs").iterdir()}
    assert not any(name.startswith(".") for name in blobs), "halves were swept"
    found = ann.store.state(), ann.store.rounds(), ann.store.heads()["bob"].seq
    assert [lent.site for lent in ann.inbox()] == ["bob"]
    ann.store.close()
    return found


@pytest.mark.parametrize("blow", get_args(Blow))
def test_whatever_hits_it_whenever_it_ends_up_the_same_bit_for_bit(
    before: Path, tmp_path: Path, every: int, blow: Blow
) -> None:
    """Killed, or told by the disk that it cannot write, it plays on from there."""
    shutil.copytree(before, tmp_path / "whole")
    moments = watched(play, tmp_path / "whole", "ann", 2, "bob")
    assert isinstance(moments, int)
    assert moments > 20
    whole = result(tmp_path / "whole")
    for at in range(0, moments, every):
        folder = tmp_path / f"{blow} at {at}"
        shutil.copytree(before, folder)
        came = watched(play, folder, "ann", 2, "bob", blow=blow, at=at)
        if blow == "killed":
            assert came is None
        else:  # a sentence, unless the last thing was being committed: then all is well
            assert isinstance(came, str) or at >= moments - 2, came
        assert isinstance(watched(play, folder, "ann", 2, "bob"), int)
        assert result(folder) == whole, f"{blow} at moment {at} of {moments}"
        shutil.rmtree(folder)
