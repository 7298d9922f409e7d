"""Sites exchange heads over mutual TLS: whoever belongs gets them, and nobody else gets in."""

import asyncio
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import torch
from tests.hospitals import Country, head, says

from dflmoe.demo.founding import free_address
from dflmoe.errors import ExchangeError
from dflmoe.node import SUITES
from dflmoe.node.home import KEYS, NEXT, ROSTER
from dflmoe.node.link import HELLO
from dflmoe.node.network import Network
from dflmoe.node.session import PIECES
from dflmoe.security.keys import SiteKeys, load_keys, new_keys, save_keys
from dflmoe.security.proposal import request, signed, with_card, with_key
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now
from dflmoe.wire.wrapper import is_wrapped

ROWS = 60
LONG_S = 30.0


class Net:
    """Hospitals whose nodes' network parts run, each in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[SiteId, Network] = {}

    def found(self, *sites: SiteId, dialled: tuple[SiteId, ...]) -> "Net":
        self.addresses = {site: free_address() for site in (*dialled, "relay", "eve")}
        at = {site: self.addresses[site] for site in (*dialled, "relay")}
        self.country = Country(self.folder, *sites, dialled=at, real_time=True)
        return self

    def start(self, *sites: SiteId) -> None:
        for site in sites:
            bind = self.addresses[site] if site in self.country.dialled else None
            self.running[site] = Network(self.country.replicas[site], bind)
            self.running[site].start()

    def stop(self, *sites: SiteId) -> None:
        for site in sites or tuple(self.running):
            self.running.pop(site).stop()

    def lends(self, site: SiteId, number: float) -> None:
        self.country.replicas[site].lend(head(number), ROWS)
        if site in self.running:
            self.running[site].sync()

    def heard(self, site: SiteId) -> dict[SiteId, float]:
        return {lent.site: says(lent) for lent in self.country.replicas[site].inbox()}

    def hears(self, site: SiteId, said: dict[SiteId, float]) -> None:
        """Wait until a site has heard what others said."""
        eventually(lambda: said.items() <= self.heard(site).items())


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; it is a failure if it never is."""
    until = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    one = Net(tmp_path)
    yield one
    one.stop()


def test_three_sites_hear_each_other_round_after_round(net: Net) -> None:
    sites = ("ann", "bob", "cleo")
    net.found(*sites, dialled=sites).start(*sites)
    for begin in (0.0, 10.0):
        said = {site: begin + k for k, site in enumerate(sites)}
        for site, number in said.items():
            net.lends(site, number)
        for site in sites:
            net.hears(site, {s: n for s, n in said.items() if s != site})
    assert set(net.running["ann"].reachable()) == {"bob", "cleo"}
    net.stop()
    ways = {(way, peer) for _, way, peer in net.country.replicas["ann"].store.traffic()}
    assert ways == {(way, peer) for way in ("sent", "received") for peer in ("bob", "cleo")}
    for site in sites:
        assert net.country.replicas[site].store.refusals() == []


def test_two_sites_that_cannot_reach_each_other_meet_through_a_third(net: Net) -> None:
    net.found("ann", "bob", "cleo", dialled=("bob",)).start("ann", "bob", "cleo")
    net.lends("ann", 1.0)
    net.lends("cleo", 3.0)
    net.hears("ann", {"cleo": 3.0})
    net.hears("cleo", {"ann": 1.0})
    assert set(net.running["ann"].reachable()) == {"bob"}


def test_sites_that_lend_the_very_same_bytes_are_all_heard(net: Net) -> None:
    """Each wish has a number of its own, so a copied head delays nobody's."""
    sites = ("ann", "bob", "cleo")
    net.found(*sites, dialled=("bob",))
    for site in sites:
        net.lends(site, 1.0)
    net.start(*sites)
    for site in sites:
        net.hears(site, {s: 1.0 for s in sites if s != site})


def test_a_newcomer_gets_more_heads_at_once_than_are_given_at_a_time(net: Net) -> None:
    sites = [f"site-{k}" for k in range(PIECES + 3)]
    net.found(*sites, dialled=(sites[0],))
    first = net.country.replicas[sites[0]]
    for k, site in enumerate(sites[1:]):
        net.country.replicas[site].learn(net.country.roster().bundle)
        net.lends(site, float(k))
        mine = net.country.replicas[site].held(site)
        assert mine is not None
        first.take(mine.envelope, mine.payload)
    first.learn(net.country.admit("eve"))
    net.start(sites[0], "eve")
    net.hears("eve", {site: float(k) for k, site in enumerate(sites[1:])})


def numbers_of(net: Net, site: SiteId) -> bytes:
    """Return the numbers of a site's head as they stand in its payload."""
    held = net.country.replicas[site].held(site)
    assert held is not None
    return held.payload[-32:]


def test_a_relay_joins_two_that_only_dial_and_a_newcomer_while_origins_sleep(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    net.found("ann", "bob", dialled=())
    net.country.admit("relay", relay=True)
    for site in ("ann", "bob"):
        net.country.replicas[site].learn(net.country.roster().bundle)
    net.start("relay", "ann", "bob")
    net.lends("ann", 1.0)
    net.lends("bob", 2.0)
    net.hears("ann", {"bob": 2.0})
    net.hears("bob", {"ann": 1.0})
    relay = net.country.replicas["relay"]
    kept = [relay.store.payload(one.blob) for one in relay.store.heads().values()]
    assert len(kept) == 2
    assert all(is_wrapped(raw) for raw in kept)
    numbers, own = numbers_of(net, "ann"), net.country.homes["ann"].folder
    assert any(numbers in path.read_bytes() for path in own.rglob("*") if path.is_file())
    for path in relay.home.folder.rglob("*"):
        assert not path.is_file() or numbers not in path.read_bytes(), path
    assert numbers.hex() not in caplog.text
    net.stop("ann")
    net.country.admit("eve")
    net.country.replicas["bob"].learn(net.country.roster().bundle)
    net.running["bob"].sync()
    net.start("eve")
    net.hears("eve", {"ann": 1.0, "bob": 2.0})


def test_a_site_joins_while_all_others_go_on(net: Net) -> None:
    net.found("ann", "bob", dialled=("ann", "bob")).start("ann", "bob")
    net.lends("ann", 1.0)
    net.hears("bob", {"ann": 1.0})
    before = net.running["ann"].reachable()["bob"]
    bundle = net.country.admit("cleo")
    net.start("cleo")  # dials, and is a stranger until the others have the roster
    net.country.replicas["ann"].learn(bundle)
    net.running["ann"].sync()
    net.lends("cleo", 3.0)
    net.hears("ann", {"cleo": 3.0})
    net.hears("bob", {"cleo": 3.0})
    net.hears("cleo", {"ann": 1.0})
    assert net.running["ann"].reachable()["bob"] == before


def test_a_removed_site_is_cut_off_while_all_others_go_on(net: Net) -> None:
    sites = ("ann", "bob", "cleo")
    net.found(*sites, dialled=sites).start(*sites)
    for k, site in enumerate(sites):
        net.lends(site, float(k))
    net.hears("bob", {"ann": 0.0, "cleo": 2.0})
    eventually(lambda: "bob" in net.running["ann"].reachable())
    before = net.running["ann"].reachable()["bob"]
    net.country.dismiss("cleo")
    net.running["ann"].sync()
    eventually(lambda: "cleo" not in net.country.replicas["bob"].roster.members)
    eventually(lambda: "cleo" not in net.running["bob"].reachable())
    net.lends("ann", 5.0)
    net.hears("bob", {"ann": 5.0})
    assert "cleo" not in net.heard("bob")
    assert net.running["ann"].reachable()["bob"] == before
    time.sleep(1.0)  # it dials again and again, and is refused
    assert "cleo" not in net.running["ann"].reachable()
    assert net.heard("cleo").get("ann") != 5.0


def test_a_node_that_computes_serves_its_peers_meanwhile(net: Net) -> None:
    net.found("ann", "bob", dialled=("ann",)).start("ann", "bob")
    net.lends("ann", 1.0)
    net.lends("bob", 2.0)
    until = time.monotonic() + LONG_S
    while net.heard("bob") != {"ann": 1.0} or net.heard("ann") != {"bob": 2.0}:
        assert time.monotonic() < until
        for _ in range(200):  # without a pause, as training does
            torch.linalg.eigh(torch.ones(40, 40))


def test_a_key_is_rotated_while_all_go_on(net: Net) -> None:
    sites = ("ann", "bob", "cleo")
    net.found(*sites, dialled=sites).start(*sites)
    net.lends("cleo", 1.0)
    net.hears("ann", {"cleo": 1.0})
    before = {site: net.running[site].reachable() for site in sites}
    eventually(lambda: all(len(net.running[site].reachable()) == 2 for site in sites))
    before = {site: net.running[site].reachable() for site in sites}
    asked = net.country.homes["cleo"].rotate(now())
    bundle = with_key(net.country.roster(), asked, now())
    for home in net.country.approvers:
        bundle = signed(bundle, home.keys.signing)
    old = net.country.homes["cleo"].keys.public
    net.country.replicas["ann"].learn(bundle)
    net.running["ann"].sync()
    eventually(lambda: net.country.homes["cleo"].keys.public != old)
    eventually(lambda: len(net.country.replicas["bob"].roster.members["cleo"].keys) == 2)
    net.lends("cleo", 2.0)
    net.hears("ann", {"cleo": 2.0})
    net.hears("bob", {"cleo": 2.0})
    assert {site: net.running[site].reachable() for site in sites} == before


def test_a_roster_that_an_administrator_takes_in_is_known_to_the_running_node(net: Net) -> None:
    net.found("ann", "bob", dialled=("ann",)).start("ann", "bob")
    bundle = net.country.admit("cleo")  # ann's administrator has the roster in her folder
    assert "cleo" not in net.country.replicas["ann"].roster.members
    net.running["ann"].sync()
    eventually(lambda: "cleo" in net.country.replicas["ann"].roster.members)
    eventually(lambda: "cleo" in net.country.replicas["bob"].roster.members)
    (net.country.homes["bob"].folder / ROSTER).write_text("spoilt")
    net.running["bob"].sync()
    eventually(lambda: bool(net.running["bob"].sync().refused))
    assert net.country.replicas["bob"].roster.bundle == bundle


def test_a_site_that_was_away_gets_the_newest_of_all_at_once(net: Net) -> None:
    sites = ("ann", "bob", "cleo")
    net.found(*sites, dialled=sites).start("ann", "bob")
    for number in (1.0, 2.0, 3.0):
        net.lends("ann", number)
    net.hears("bob", {"ann": 3.0})
    net.stop("ann")
    net.start("cleo")
    net.hears("cleo", {"ann": 3.0})


def test_a_port_that_is_taken_is_an_error_that_says_so(net: Net) -> None:
    net.found("ann", "bob", dialled=("ann",)).start("ann")
    other = Network(net.country.replicas["bob"], net.addresses["ann"])
    with pytest.raises(ExchangeError, match="another port"):
        other.start()


# --- who is refused ---


def material(keys: SiteKeys) -> tuple[bytes, bytes]:
    return keys.tls_secret, keys.pem.encode()


def hello(net: Net, keys: SiteKeys, *, name: SiteId = "ann", pins: bytes | None = None) -> str:
    """Knock at ann's door; returns what became of it."""

    async def knock() -> str:
        secret, own = material(keys)
        roots = pins if pins is not None else net.country.roster().certificates
        credentials = grpc.ssl_channel_credentials(roots, secret, own)
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(
            net.addresses["ann"], credentials, options=options
        ) as channel:
            try:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(HELLO)
                await call(b"", timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return "welcome"

    return asyncio.run(knock())


@pytest.fixture
def door(net: Net) -> Net:
    net.found("ann", "bob", "cleo", dialled=("ann",)).start("ann")
    return net


def keys_at(net: Net, site: SiteId) -> SiteKeys:
    return net.country.homes[site].keys


def test_a_member_is_welcome(door: Net) -> None:
    assert hello(door, keys_at(door, "bob")) == "welcome"


STRANGERS = {
    "self-signed and unknown": lambda: new_keys("bob", now()),
    "expired": lambda: new_keys("bob", now() - timedelta(days=200)),
    "not yet valid": lambda: new_keys("bob", now() + timedelta(days=5)),
}


@pytest.mark.parametrize("who", list(STRANGERS))
def test_a_certificate_of_no_member_is_refused_at_the_handshake(door: Net, who: str) -> None:
    assert hello(door, STRANGERS[who]()) == "UNAVAILABLE"
    assert hello(door, keys_at(door, "bob")) == "welcome"


@pytest.mark.parametrize(
    "shift", [timedelta(days=-200), timedelta(days=5)], ids=["expired", "not yet valid"]
)
def test_a_pinned_certificate_out_of_its_time_is_refused_both_ways(
    net: Net, shift: timedelta
) -> None:
    net.found("ann", "bob", "cleo", dialled=("ann",))
    for site in ("ann", "bob"):
        home, roster = net.country.homes[site], net.country.roster()
        keys = replace(new_keys(site, now() + shift), signing=home.keys.signing)
        save_keys(keys, home.folder / KEYS)
        card = request(home.card(roster.charter, keys), keys, version=2)
        net.country.replicas["ann"].learn(with_card(roster, card))
    net.country.replicas["ann"].keys = net.country.homes["ann"].keys
    net.start("ann")
    assert hello(net, keys_at(net, "bob")) == "UNAVAILABLE"  # bob's is out of time
    assert hello(net, keys_at(net, "cleo")) == "UNAVAILABLE"  # and so is ann's own


def test_a_renewed_certificate_is_welcome_beside_the_old_one(door: Net) -> None:
    bob = door.country.homes["bob"]
    roster = bob.renew(now())
    assert roster is not None
    assert hello(door, load_keys(bob.folder / NEXT)) == "UNAVAILABLE"  # ann does not know it yet
    door.country.replicas["ann"].learn(roster.bundle)
    assert hello(door, bob.keys) == "welcome"
    assert hello(door, load_keys(bob.folder / NEXT)) == "welcome"


def test_a_removed_site_is_refused(door: Net) -> None:
    keys = keys_at(door, "cleo")
    assert hello(door, keys) == "welcome"
    door.country.dismiss("cleo")
    assert hello(door, keys) == "UNAVAILABLE"
    assert hello(door, keys_at(door, "bob")) == "welcome"


def test_a_member_of_another_federation_is_refused_both_ways(door: Net, tmp_path: Path) -> None:
    abroad = Country(tmp_path / "abroad", "bob", "zoe", real_time=True)
    assert hello(door, abroad.homes["bob"].keys) == "UNAVAILABLE"
    pins = abroad.roster().certificates
    assert hello(door, keys_at(door, "bob"), pins=pins) == "UNAVAILABLE"


def test_a_server_that_bears_another_name_is_refused(door: Net) -> None:
    assert hello(door, keys_at(door, "bob"), name="cleo") == "UNAVAILABLE"


def test_a_client_without_a_certificate_is_refused(door: Net) -> None:
    async def knock() -> str:
        credentials = grpc.ssl_channel_credentials(door.country.roster().certificates)
        options = [("grpc.ssl_target_name_override", "ann")]
        async with grpc.aio.secure_channel(
            door.addresses["ann"], credentials, options=options
        ) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(HELLO)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(b"", timeout=5)
            return told.value.code().name

    assert asyncio.run(knock()) == "UNAVAILABLE"


def test_plain_text_is_refused(door: Net) -> None:
    async def knock() -> str:
        async with grpc.aio.insecure_channel(door.addresses["ann"]) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(HELLO)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(b"", timeout=5)
            return told.value.code().name

    assert asyncio.run(knock()) == "UNAVAILABLE"
    host, port = door.addresses["ann"].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: ann\r\n\r\n")
        assert b"200" not in one.recv(1000)
    assert hello(door, keys_at(door, "bob")) == "welcome"


def handshake(net: Net, version: ssl.TLSVersion, folder: Path) -> str | None:
    """Shake hands as bob with one version of TLS only; returns the version, or nothing."""
    secret, own = material(keys_at(net, "bob"))
    (folder / "bob.pem").write_bytes(secret + own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(folder / "bob.pem")
    context.load_verify_locations(cadata=net.country.roster().certificates.decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    host, port = net.addresses["ann"].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as one:
        try:
            with context.wrap_socket(one, server_hostname="ann") as secure:
                return secure.version()
        except (ssl.SSLError, OSError):
            return None


def test_an_older_tls_is_refused_by_the_server(door: Net, tmp_path: Path) -> None:
    assert handshake(door, ssl.TLSVersion.TLSv1_3, tmp_path) == "TLSv1.3"
    assert handshake(door, ssl.TLSVersion.TLSv1_2, tmp_path) is None


@pytest.mark.parametrize(
    ("version", "end"),
    [(ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, None)],
    ids=["1.3", "1.2"],
)
def test_an_older_tls_is_refused_by_the_client(
    net: Net, tmp_path: Path, version: ssl.TLSVersion, end: str | None
) -> None:
    net.found("ann", "bob", dialled=("ann",))
    secret, own = material(keys_at(net, "ann"))
    (tmp_path / "ann.pem").write_bytes(secret + own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    context.load_cert_chain(tmp_path / "ann.pem")
    context.set_alpn_protocols(["h2"])
    host, port = net.addresses["ann"].split(":")
    with socket.create_server((host, int(port))) as listener:
        net.start("bob")  # dials ann
        listener.settimeout(LONG_S)
        one, _ = listener.accept()
        one.settimeout(LONG_S)
        try:
            with context.wrap_socket(one, server_side=True) as secure:
                assert secure.version() == end
        except ssl.SSLError:
            assert end is None


def test_a_program_that_imported_grpc_first_is_told_instead_of_speaking_an_older_tls() -> None:
    script = (
        "import grpc\n"
        "from dflmoe.node.network import Network\n"
        "try:\n"
        "    Network(None, None).start()\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != SUITES}
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=bare, check=True
    )
    assert "import dflmoe.node first" in told.stdout
