"""What happens to a node's process costs the others nothing, and itself no more than the time."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.nodes import Nodes

from dflmoe.security.audit import broken

FELLOWS, STRUCK = ("budapest", "long-beach"), "switzerland"
PATIENCE_S = 180.0


def wait(until: Callable[[], bool], why: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end, f"it never came that {why}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that go on from test to test: each mends what it broke."""
    found = Nodes(tmp_path_factory.mktemp("nodes"), (*FELLOWS, STRUCK), every=0.5)
    for site in found.sites:
        found.starts(site)
    try:
        wait(lambda: found.joined() and all(map(found.round, found.sites)), "all play and meet")
        yield found
    finally:
        found.stop()


def go_on(nodes: Nodes, *sites: str, rounds: int = 3) -> None:
    """Wait until some sites have played more rounds."""
    before = {site: nodes.round(site) for site in sites}
    wait(lambda: all(nodes.round(s) >= before[s] + rounds for s in sites), f"{sites} play on")


def newest(nodes: Nodes, site: str, whose: str) -> int:
    """Return the number of the head that a site holds of another."""
    store = nodes.store(site)
    seq = store.heads()[whose].seq
    store.close()
    return seq


def is_heard(nodes: Nodes, site: str) -> None:
    """Wait until all others get a newer head of a site."""
    before = {peer: newest(nodes, peer, site) for peer in nodes.sites if peer != site}
    wait(
        lambda: all(newest(nodes, peer, site) > seq for peer, seq in before.items()),
        f"all others hear {site}",
    )


def test_a_frozen_process_costs_the_others_no_round_and_is_heard_once_it_thaws(
    nodes: Nodes,
) -> None:
    nodes.sends(STRUCK, signal.SIGSTOP)
    go_on(nodes, *FELLOWS)
    last = nodes.status("budapest")
    assert last is not None
    assert last.last is not None
    assert STRUCK in last.last.heard  # what was delivered serves on
    nodes.sends(STRUCK, signal.SIGCONT)
    is_heard(nodes, STRUCK)


def test_a_full_disk_stops_one_site_s_rounds_until_there_is_room_and_nobody_ends(
    nodes: Nodes,
) -> None:
    nodes.may_write(STRUCK, 0)
    wait(lambda: "cannot be written" in nodes.printed(STRUCK), "the disk is full")
    go_on(nodes, *FELLOWS)
    assert nodes.running[STRUCK].poll() is None
    nodes.may_write(STRUCK)
    go_on(nodes, STRUCK)
    is_heard(nodes, STRUCK)
    for site in nodes.sites:
        store = nodes.store(site)
        assert broken(store.entries(), site) == []
        store.close()


def test_a_killed_process_comes_back_and_is_heard(nodes: Nodes) -> None:
    played = nodes.round(STRUCK)
    nodes.sends(STRUCK, signal.SIGKILL)
    go_on(nodes, *FELLOWS)
    nodes.running[STRUCK].wait()
    nodes.starts(STRUCK)
    is_heard(nodes, STRUCK)
    assert nodes.round(STRUCK) >= played
