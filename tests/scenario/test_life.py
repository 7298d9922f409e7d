"""A node runs, tells what it does, ends when it is told to, and predicts what it served."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.faults import full_disk
from tests.hospitals import Country
from tests.made import made_rows
from tests.security import CHARTER

from dflmoe.core.algorithm import Outcome
from dflmoe.data.source import SETTINGS, Source
from dflmoe.demo.founding import free_address
from dflmoe.errors import ExchangeError, OutputError, RunningError, SettingsError, StoreError
from dflmoe.model.model import load_model
from dflmoe.networks import build
from dflmoe.node.baseline import Baseline, baseline
from dflmoe.node.exchange import FolderExchange, MemoryExchange, Several, Synced
from dflmoe.node.life import LOCK, Life, alone_in, running, stop
from dflmoe.node.node import RoundSummary
from dflmoe.node.settings import Settings
from dflmoe.node.status import STATUS, Status, answered, status_of
from dflmoe.types import SiteId

SITES = ("ann", "bob", "cleo")
ROWS = 60


def with_rows(country: Country, site: SiteId) -> Settings:
    """Give a site rows and settings."""
    rows = made_rows(site, ROWS, ord(site[0]))
    folder = country.homes[site].folder
    np.savez(folder / "rows.npz", x=rows.x, y=rows.y, patient=rows.patient)
    bind = f'bind = "{country.dialled[site]}"\n' if site in country.dialled else ""
    text = f'{bind}every = 0\nfolder = "../shared"\n[data]\npath = "rows.npz"\n'
    (folder / SETTINGS).write_text(text)
    return Settings.load(folder / SETTINGS)


@pytest.fixture
def country(tmp_path: Path) -> Country:
    return Country(tmp_path, *SITES, dialled={"bob": free_address()}, real_time=True)


def lived(country: Country, site: SiteId, until: int) -> list[tuple[RoundSummary, Outcome]]:
    settings = with_rows(country, site)
    country.replicas[site].store.close()
    with alone_in(country.homes[site].folder):
        life = Life(country.homes[site], settings)
        with life.online():
            return list(life.rounds(until))


def test_nodes_meet_play_and_say_what_they_did(country: Country) -> None:
    done: dict[SiteId, list[tuple[RoundSummary, Outcome]]] = {}
    threads = [
        threading.Thread(target=lambda s=site: done.update({s: lived(country, s, 3)}))
        for site in SITES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.number for summary, _ in done["ann"]] == [1, 2, 3]
    again = lived(country, "ann", 4)  # those whose nodes ended serve on
    assert set(again[-1][0].heard) == {"bob", "cleo"}
    told = Status.read((country.homes["ann"].folder / STATUS).read_bytes(), "the status")
    assert told.pid is None
    assert told.doing == "stopped"
    assert told.last is not None
    assert told.last.number == 4
    states = {peer.site: peer.state for peer in told.peers}
    assert set(states) == {"bob", "cleo"}
    assert set(states.values()) <= {"lending", "used"}
    assert {peer.head_kind for peer in told.peers} == {"head"}
    assert told.sent > 0


def test_what_is_predicted_is_what_the_round_served(country: Country) -> None:
    lived(country, "bob", 1)
    ((_, outcome),) = lived(country, "ann", 1)
    home = country.homes["ann"]
    had = base(country, "ann")
    asked = had.splits.test[0].numpy()
    found = load_model(home.model()).predict(had.rows.x[asked])
    served = outcome.served[0].double()[asked]
    cool = load_model(home.model()).served.temperature.double()
    np.testing.assert_allclose(found.probs, (served / cool).softmax(1).numpy(), atol=1e-5)
    assert set(found.opinions) >= {"ann"}
    assert (found.agreement[:, 0] <= found.agreement[:, 1]).all()


def base(country: Country, site: SiteId) -> Baseline:
    rows = with_rows(country, site).data
    assert rows is not None
    return baseline(country.charter, rows, site, seed=0)


def test_a_site_that_played_nothing_predicts_nothing(country: Country) -> None:
    with pytest.raises(StoreError, match="played no round yet"):
        country.homes["ann"].model()


def test_a_second_node_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        assert running(tmp_path) == os.getpid()
        with pytest.raises(RunningError, match="runs in"), alone_in(tmp_path):
            pass
    assert running(tmp_path) is None
    assert (tmp_path / LOCK).exists()  # a lock that is left behind holds nobody out
    with alone_in(tmp_path):
        pass


def test_a_folder_on_a_full_disk_is_refused_and_held_by_nobody(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OutputError, match="free the disk"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        assert running(tmp_path) == os.getpid()


HOLDS = """
import signal, sys, time
from pathlib import Path
from dflmoe.node.life import alone_in
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDS, str(tmp_path), request.param]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("holder", ["willing"], indirect=True)
def test_a_node_ends_when_it_is_told_to(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    assert running(tmp_path) == holder.pid
    threading.Thread(target=holder.wait).start()
    stop(tmp_path)
    assert running(tmp_path) is None
    with pytest.raises(RunningError, match="no node runs"):
        stop(tmp_path)


@pytest.mark.parametrize("holder", ["deaf"], indirect=True)
def test_a_node_that_does_not_end_is_told_of(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(RunningError, match=f"process {holder.pid}"):
        stop(tmp_path, patience=0.2)


def test_a_node_that_was_killed_leaves_nothing_that_keeps_the_next_one_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path), "willing"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert running(tmp_path) is None


class Closed:
    def sync(self) -> Synced:
        raise ExchangeError("no way")


def test_one_open_way_is_enough(country: Country, tmp_path: Path) -> None:
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    done = Several(Closed(), MemoryExchange(ann, [bob]), FolderExchange(ann, tmp_path / "x")).sync()
    assert done.refused == []
    with pytest.raises(ExchangeError, match="no way; no way"):
        Several(Closed(), Closed()).sync()


def test_a_peer_s_state_is_the_furthest_that_holds(country: Country) -> None:
    said = status_of(country.replicas["ann"], None, pid=1, doing="waiting")
    assert {peer.state for peer in said.peers} == {"known"}
    assert answered("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED")
    assert not answered("Connection refused")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, "is not there", id="missing"),
        pytest.param("every = ", "cannot be read", id="no TOML"),
        pytest.param("evry = 3", "evry", id="unknown"),
        pytest.param("every = -1", "every", id="negative"),
        pytest.param('bind = "everywhere"', "bind", id="no address"),
        pytest.param("[data]\ntest_folds = 1", "test_folds", id="no rows"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / SETTINGS
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        Settings.load(path)


def test_paths_in_settings_begin_at_the_site_s_folder(tmp_path: Path) -> None:
    path = tmp_path / SETTINGS
    path.write_text('folder = "drive"\n[data]\npath = "rows.csv"\npublic_body = "/w.safetensors"\n')
    read = Settings.load(path)
    assert read.folder == tmp_path / "drive"
    assert read.data == Source(path=tmp_path / "rows.csv", public_body=Path("/w.safetensors"))


def test_a_node_without_rows_says_so(country: Country) -> None:
    country.replicas["ann"].store.close()
    life = Life(country.homes["ann"], Settings())
    with life.online(), pytest.raises(SettingsError, match="no section"):
        next(life.rounds(1))


def test_the_public_weights_must_be_those_of_the_charter(country: Country, tmp_path: Path) -> None:
    named = country.charter.model_copy(update={"public_body": "ab" * 32})
    rows = with_rows(country, "ann").data
    assert rows is not None
    with pytest.raises(SettingsError, match="public_body"):
        baseline(named, rows, "ann", seed=0)
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "w.safetensors")
    other = rows.model_copy(update={"public_body": tmp_path / "w.safetensors"})
    with pytest.raises(SettingsError, match="other public weights"):
        baseline(named, other, "ann", seed=0)


def test_public_weights_serve_every_head_that_is_cut_from_their_network(
    country: Country, tmp_path: Path
) -> None:
    path = tmp_path / "body.safetensors"
    whole = build("mlp", (4,), 2).body  # block1 and block2
    save_file({name: p.detach().numpy() for name, p in whole.named_parameters()}, path)
    named = {"network": "mlp", "public_body": hashlib.sha256(path.read_bytes()).hexdigest()}
    rows = with_rows(country, "ann").data
    assert rows is not None
    rows = rows.model_copy(update={"public_body": path})
    for head in ("classifier", "block2"):
        charter = country.charter.model_copy(update={**named, "head_from": head})
        network = baseline(charter, rows, "ann", seed=0).network
        first, *_ = network.body.parameters()
        assert torch.equal(first, next(whole.parameters()))
        assert network.common


@pytest.mark.parametrize("exchange", ["seeded", "anchored", "averaged", "paper"])
def test_a_node_plays_every_exchange_that_a_charter_can_name(tmp_path: Path, exchange: str) -> None:
    anchors = tmp_path / "anchors.npz"
    np.savez(anchors, x=np.random.default_rng(0).normal(size=(30, 4)))
    named = hashlib.sha256(anchors.read_bytes()).hexdigest() if exchange == "anchored" else None
    network = {"network": "mlp", "exchange": exchange, "anchors": named, "dtype": "fp16"}
    country = Country(tmp_path, "ann", "bob", charter=CHARTER.model_copy(update=network))
    for site in ("bob", "ann"):
        country.replicas[site].store.close()
        settings = with_rows(country, site)
        assert settings.data is not None
        rows = settings.data.model_copy(update={"anchors": anchors if named else None})
        life = Life(country.homes[site], settings.model_copy(update={"data": rows}))
        with life.online():
            ((summary, outcome),) = list(life.rounds(1))
    assert summary.heard == ("bob",)
    assert np.isfinite(outcome.served.numpy()).all()
    if named:
        with pytest.raises(SettingsError, match="anchors in"):
            baseline(country.charter, rows.model_copy(update={"anchors": None}), "ann", seed=0)


def test_a_relay_passes_on_until_it_is_told_to_end(country: Country) -> None:
    country.replicas["bob"].store.close()
    settings = with_rows(country, "bob")
    life = Life(country.homes["bob"], settings)
    with life.online():
        relaying = threading.Thread(target=life.relay, daemon=True)
        relaying.start()
        until = time.monotonic() + 30
        while life.doing != "relaying":
            assert time.monotonic() < until
            time.sleep(0.01)
    relaying.join(10)
    assert not relaying.is_alive()
