"""Whatever happens to one link, the others go on, and nothing that was delivered is lost."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from tests.faults import Fault, Proxy
from tests.hospitals import Country, head, says

from dflmoe.demo.founding import free_address
from dflmoe.node.network import Network
from dflmoe.node.store import BLOBS
from dflmoe.security.audit import broken
from dflmoe.types import SiteId
from dflmoe.wire.manifest import now

ROWS = 60
PATIENCE_S = 120.0
GOOD, SPOILT = ("ann", "bob"), "eve"


class Three:
    """Two sites with a good link, and a third whose links to both pass a proxy."""

    def __init__(self, folder: Path) -> None:
        at = {site: free_address() for site in (*GOOD, SPOILT)}
        self.proxy = Proxy(at[SPOILT]).start()
        dialled = {**at, SPOILT: self.proxy.address}
        self.country = Country(folder, *GOOD, SPOILT, dialled=dialled, real_time=True)
        self.nodes = {s: Network(self.country.replicas[s], at[s]) for s in at}
        for node in self.nodes.values():
            node.start()

    def lends(self, number: float) -> None:
        """Let every site lend a head that says a number."""
        for site, node in self.nodes.items():
            self.country.replicas[site].lend(head(number), ROWS)
            node.sync()

    def heard(self, site: SiteId) -> dict[SiteId, float]:
        return {lent.site: says(lent) for lent in self.country.replicas[site].inbox()}

    def hears(self, site: SiteId, peers: tuple[SiteId, ...], number: float) -> bool:
        """Wait until a site holds what some peers said last; returns whether it came."""

        def there() -> bool:
            heard = self.heard(site)
            return all(heard.get(peer) == number for peer in peers if peer != site)

        return self.nodes[site].wait(there, PATIENCE_S)

    def everybody_hears(self, number: float) -> bool:
        return all(self.hears(site, (*GOOD, SPOILT), number) for site in self.nodes)

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()
        self.proxy.stop()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    found = Three(tmp_path)
    found.lends(1)
    assert found.everybody_hears(1)
    yield found
    found.stop()


@pytest.mark.parametrize("fault", ["latency", "trickle", "slicer", "slow close", "loss"])
def test_a_bad_link_brings_everything_late_and_nobody_waits(three: Three, fault: Fault) -> None:
    three.proxy.becomes(fault)
    three.lends(2)
    for site in GOOD:
        assert three.hears(site, GOOD, 2)  # while the bad link is as bad as it is
    assert three.everybody_hears(2)
    assert not any(node.replica.store.refusals() for node in three.nodes.values())


@pytest.mark.parametrize("fault", ["blackhole", "half open", "reset", "refuse"])
def test_a_dead_link_costs_only_its_own_heads_until_it_is_mended(
    three: Three, fault: Fault
) -> None:
    three.proxy.becomes(fault)
    three.lends(2)
    for site in GOOD:
        assert three.hears(site, GOOD, 2)
        assert three.heard(site)[SPOILT] == 1  # what was delivered serves on
    assert three.heard(SPOILT) == dict.fromkeys(GOOD, 1.0)
    three.lends(3)
    three.proxy.becomes("none")
    assert three.everybody_hears(3)


def test_a_site_that_hears_a_link_come_back_late_is_told_the_newest_only(three: Three) -> None:
    three.proxy.becomes("refuse")
    for number in range(2, 7):
        three.lends(number)
        for site in GOOD:
            assert three.hears(site, GOOD, number)
    three.proxy.becomes("none")
    assert three.everybody_hears(6)
    received = three.country.replicas["eve"].store.entries("received")
    assert [entry.told["site"] for entry in received].count("ann") == 2  # the first and the newest


def test_a_clock_that_jumps_costs_no_head_and_stands_in_the_log(three: Three) -> None:
    eve = three.country.replicas[SPOILT]
    eve._clock = lambda: now() + timedelta(hours=3)
    three.lends(2)
    assert three.everybody_hears(2)
    eve._clock = now
    three.lends(3)
    assert three.everybody_hears(3)
    (wrong,) = broken(eve.store.entries(), SPOILT)
    assert "the clock was set back" in wrong


def test_a_clock_that_is_days_ahead_costs_its_own_site_only(three: Three) -> None:
    three.country.replicas[SPOILT]._clock = lambda: now() + timedelta(days=3)
    three.lends(2)
    ann = three.nodes["ann"]

    def told() -> bool:
        return any("of the future" in one for one in ann.sync().refused)

    for site in GOOD:
        assert three.hears(site, GOOD, 2)
        assert three.heard(site)[SPOILT] == 1
    assert three.hears(SPOILT, GOOD, 2)
    assert ann.wait(told, PATIENCE_S)


def test_a_peer_of_whom_nothing_comes_any_more_is_noticed(three: Three) -> None:
    three.proxy.becomes("blackhole")
    node = three.nodes["ann"]
    assert node.wait(lambda: SPOILT in node.failures(), PATIENCE_S)
    assert set(node.reachable()) == {"bob"}
    three.proxy.becomes("none")
    three.lends(2)
    assert three.everybody_hears(2)


def test_round_after_round_takes_no_more_of_the_machine(three: Three, every: int) -> None:
    """Files, threads and memory after many rounds are those after few, and the disk is pruned."""
    me = psutil.Process()

    def taken() -> tuple[int, int, int]:
        pools = sum(one.name.startswith("asyncio_") for one in threading.enumerate())
        return me.num_fds(), me.num_threads() - pools, me.memory_info().rss  # pools are bounded

    rounds = 240 // every
    for number in range(rounds):
        three.lends(float(number))
        assert three.everybody_hears(float(number))
        if number == rounds // 4:
            files, threads, memory = taken()
    after = taken()
    assert after[0] <= files + 4
    assert after[1] <= threads + 2
    assert after[2] - memory < 16 * 2**20
    for site in three.nodes:
        store = three.country.replicas[site].store
        assert len(list((store.folder / BLOBS).iterdir())) <= len(three.nodes)
        assert len(store.receipts()) <= 2 * len(three.nodes)  # of two days, at midnight
