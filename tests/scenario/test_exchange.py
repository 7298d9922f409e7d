"""Heads reach every site that belongs, by any way, and nothing that was delivered is lost."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import pytest
import torch
from safetensors.torch import load
from tests.hospitals import Clock, Country, head, says
from tests.security import CHARTER, NOW
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.errors import (
    EnvelopeError,
    EquivocationError,
    ExchangeError,
    ExpiredError,
    FederationError,
    HeadError,
    KeyFileError,
    OutputError,
    SecurityError,
    StoreError,
    UnknownKeyError,
)
from dflmoe.node.exchange import ROSTER, Exchange, FolderExchange, MemoryExchange
from dflmoe.node.home import Home
from dflmoe.node.replica import Replica
from dflmoe.node.store import BLOBS, DATABASE, Store
from dflmoe.security.proposal import ROSTER_DAYS
from dflmoe.security.roster import GRACE_DAYS
from dflmoe.types import SiteId
from dflmoe.wire.envelope import HEAD, seal
from dflmoe.wire.parcel import packed, unpacked
from dflmoe.wire.payload import digest, encode
from dflmoe.wire.wrapper import is_wrapped, recipients

ROWS = 60
Ways = Callable[[Country], dict[SiteId, Exchange]]


def by_memory(country: Country) -> dict[SiteId, Exchange]:
    """Everybody reaches everybody."""
    every = country.replicas
    return {
        site: MemoryExchange(one, [r for r in every.values() if r is not one])
        for site, one in every.items()
    }


def by_folder(country: Country) -> dict[SiteId, Exchange]:
    """Everybody reaches one folder."""
    return {
        site: FolderExchange(one, country.folder / "shared")
        for site, one in country.replicas.items()
    }


def in_a_line(country: Country) -> dict[SiteId, Exchange]:
    """Each reaches the next only."""
    every = list(country.replicas.values())
    return {
        one.name: MemoryExchange(one, [after])
        for one, after in zip(every, [*every[1:], every[-2]], strict=True)
    }


WAYS = pytest.mark.parametrize("ways", [by_memory, by_folder, in_a_line])


@pytest.fixture
def country(tmp_path: Path) -> Country:
    return Country(tmp_path, "ann", "bob", "cleo", "dan")


def heard(replica: Replica) -> dict[SiteId, float]:
    return {lent.site: says(lent) for lent in replica.inbox()}


def all_lend(country: Country, begin: float = 1.0) -> dict[SiteId, float]:
    """Let every site lend a number of its own."""
    said = {}
    for k, (site, replica) in enumerate(country.replicas.items()):
        replica.lend(head(begin + k), ROWS)
        said[site] = begin + k
    return said


def synced(exchanges: dict[SiteId, Exchange], times: int = 3) -> None:
    for _ in range(times):
        for exchange in exchanges.values():
            exchange.sync()


@WAYS
def test_every_site_hears_the_newest_of_every_other(country: Country, ways: Ways) -> None:
    exchanges = ways(country)
    for begin in (1.0, 10.0):
        said = all_lend(country, begin)
        synced(exchanges)
        for site, replica in country.replicas.items():
            assert heard(replica) == {s: n for s, n in said.items() if s != site}


@WAYS
def test_again_changes_nothing(country: Country, ways: Ways) -> None:
    all_lend(country)
    exchanges = ways(country)
    synced(exchanges)
    for exchange in exchanges.values():
        done = exchange.sync()
        assert (done.taken, done.given, done.refused, done.roster) == ([], [], [], False)


@WAYS
def test_a_newcomer_hears_all_at_once_while_everybody_else_sleeps(
    country: Country, ways: Ways
) -> None:
    said = all_lend(country)
    synced(ways(country))
    country.admit("eve")
    country.replicas["dan"].learn(country.roster().bundle)
    exchanges = ways(country)
    exchanges["dan"].sync()  # the only one awake, and of no head the origin but its own
    exchanges["eve"].sync()
    assert heard(country.replicas["eve"]) == said


@WAYS
def test_a_site_that_was_removed_is_heard_no_more(country: Country, ways: Ways) -> None:
    said = all_lend(country)
    synced(ways(country))
    country.dismiss("dan")
    exchanges = ways(country)
    synced(exchanges, 2)
    for site in ("ann", "bob", "cleo"):
        assert heard(country.replicas[site]) == {
            s: n for s, n in said.items() if s not in {site, "dan"}
        }
    with pytest.raises(FederationError, match="no longer belongs"):
        country.replicas["dan"].lend(head(9.0), ROWS)


def test_a_removed_site_reads_nothing_that_is_laid_down_later(country: Country) -> None:
    all_lend(country)
    exchanges = by_folder(country)
    synced(exchanges)
    country.dismiss("dan")
    synced({site: exchanges[site] for site in ("ann", "bob")}, 2)
    files = [p for p in (country.folder / "shared").glob("*.head") if "dan" not in p.name]
    assert len(files) == 3
    for path in files:
        payload = unpacked(path.read_bytes(), "it").payload
        assert country.replicas["ann"].for_members(payload)
        assert "dan" not in recipients(payload, "it")


def test_a_folder_shows_its_owner_nothing_and_keeps_the_newest_only(country: Country) -> None:
    exchanges = by_folder(country)
    for begin in (1.0, 5.0):
        all_lend(country, begin)
        synced(exchanges, 2)
    shared = country.folder / "shared"
    files = sorted(shared.glob("*.head"))
    assert [p.name.rsplit("-", 1)[0] for p in files] == ["ann", "bob", "cleo", "dan"]
    for path in files:
        assert is_wrapped(unpacked(path.read_bytes(), "it").payload)
        for replica in country.replicas.values():
            for stored in replica.store.heads().values():
                assert replica.store.payload(stored.blob) not in path.read_bytes()


def test_a_relay_passes_on_what_it_cannot_read(country: Country) -> None:
    bundle = country.admit("relay", relay=True)
    for site in ("bob", "cleo", "dan"):
        country.replicas[site].learn(bundle)
    relay = country.replicas["relay"]
    said = all_lend_but(country, "relay")
    for _ in range(2):
        for site in said:
            MemoryExchange(country.replicas[site], [relay]).sync()
    for site in said:
        assert heard(country.replicas[site]) == {s: n for s, n in said.items() if s != site}
    for stored in relay.store.heads().values():
        kept = relay.store.payload(stored.blob)
        assert is_wrapped(kept)
        assert encode(head(1.0).tensors)[-32:] not in kept
    with pytest.raises(FederationError, match="relay"):
        relay.lend(head(1.0), ROWS)


def test_a_relay_takes_no_more_bytes_than_were_announced_and_only_wrapped_ones(
    country: Country,
) -> None:
    country.admit("relay", relay=True)
    relay, ann = country.replicas["relay"], country.replicas["ann"]
    ann.learn(relay.roster.bundle)
    ann.lend(head(1.0), ROWS)
    held = ann.held("ann")
    assert held is not None
    with pytest.raises(EnvelopeError, match="no wrapped payload"):
        relay.take(held.envelope, held.payload)
    with pytest.raises(HeadError, match="announced"):
        relay.take(held.envelope, held.payload + bytes(2**20))
    assert relay.take(held.envelope, ann.fit_to_pass(held))


def all_lend_but(country: Country, site: SiteId) -> dict[SiteId, float]:
    """Let every site but one lend a number of its own."""
    said = {}
    for k, (name, replica) in enumerate(country.replicas.items()):
        if name != site:
            replica.lend(head(float(k)), ROWS)
            said[name] = float(k)
    return said


def test_what_a_folder_does_to_a_file_costs_that_head_only(country: Country) -> None:
    said = all_lend(country)
    exchanges = by_folder(country)
    for site in ("ann", "bob", "cleo"):
        exchanges[site].sync()
    shared = country.folder / "shared"
    (whole,) = shared.glob("ann-*.head")
    raw = whole.read_bytes()
    whole.write_bytes(raw[: len(raw) // 2])  # still on its way
    done = exchanges["dan"].sync()
    assert sorted(done.taken) == ["bob", "cleo"]
    assert len(done.refused) == 1
    (bob,) = shared.glob("bob-*.head")
    bob.write_bytes(bob.read_bytes()[:-1] + b"x")
    exchanges["ann"].sync()  # writes its own again, and what was spoilt
    assert exchanges["dan"].sync().taken == ["ann"]
    assert heard(country.replicas["dan"]) == {s: n for s, n in said.items() if s != "dan"}


def test_a_file_that_was_spoilt_within_is_written_anew_by_whoever_holds_the_head(
    country: Country,
) -> None:
    said = all_lend(country)
    exchanges = by_folder(country)
    synced({site: exchanges[site] for site in ("ann", "bob")}, 2)
    (path,) = (country.folder / "shared").glob("ann-*.head")
    raw = path.read_bytes()
    for spoilt in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1])):
        path.write_bytes(spoilt)
        exchanges["bob"].sync()
    exchanges["dan"].sync()
    assert heard(country.replicas["dan"])["ann"] == said["ann"]


def test_a_spoilt_roster_or_store_costs_a_folder_s_round_and_not_the_node(
    country: Country,
) -> None:
    exchange = FolderExchange(country.replicas["ann"], country.folder / "shared")
    all_lend(country)
    exchange.sync()
    bundle = country.replicas["ann"].roster.bundle
    for text in ("{", bundle.model_copy(update={"roots": ("{}",)}).signed().decode()):
        (country.folder / "shared" / ROSTER).write_text(text)
        assert len(exchange.sync().refused) == 1


def test_when_the_roster_has_lapsed_nobody_lends_or_takes(country: Country) -> None:
    all_lend(country)
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    held = bob.held("bob")
    assert held is not None
    assert isinstance(country.clock, Clock)
    country.clock.now = NOW + timedelta(days=ROSTER_DAYS + GRACE_DAYS + 1)
    with pytest.raises(ExpiredError, match="federation renew"):
        ann.take(held.envelope, held.payload)
    with pytest.raises(ExpiredError):
        ann.lend(head(1.0), ROWS)


def test_a_head_of_a_kind_or_width_that_the_charter_does_not_lend_is_refused(
    country: Country,
) -> None:
    ann = country.replicas["ann"]
    tensors = {name: p[None] for name, p in head(1.0).tensors.items()}
    with pytest.raises(HeadError, match="does not know"):
        ann.lend(replace(head(1.0), kind="fits", tensors=tensors), ROWS)
    with pytest.raises(HeadError, match="reads 5 features"):
        ann.lend(replace(head(1.0), width=5), ROWS)


def test_links_and_strange_names_in_a_folder_are_left_alone(country: Country) -> None:
    shared = country.folder / "shared"
    shared.mkdir()
    secret = country.folder / "secret"
    secret.write_text("untouched")
    (shared / "ann-1.head").symlink_to(secret)
    (shared / "../escape-1.head").resolve().write_text("untouched")
    (shared / "Ann-1.head").write_text("x")
    (shared / "bob-1.head").mkdir()
    (shared / ROSTER).symlink_to(secret)
    country.replicas["cleo"].lend(head(1.0), ROWS)
    done = FolderExchange(country.replicas["cleo"], shared).sync()
    assert done.given == ["cleo"]
    assert done.refused == []
    assert secret.read_text() == "untouched"


def test_a_forged_roster_in_a_folder_is_refused_and_mended(country: Country) -> None:
    shared = country.folder / "shared"
    exchange = FolderExchange(country.replicas["ann"], shared)
    exchange.sync()
    (shared / ROSTER).write_text("{}")
    assert len(exchange.sync().refused) == 1
    assert exchange.sync().refused == []


def test_a_folder_that_is_not_there_is_an_error_and_costs_nothing(country: Country) -> None:
    (country.folder / "file").write_text("")
    with pytest.raises(ExchangeError, match="mounted"):
        FolderExchange(country.replicas["ann"], country.folder / "file").sync()


def test_a_peer_that_forges_is_counted_and_costs_its_own_head(country: Country) -> None:
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    all_lend(country)
    held = bob.held("bob")
    assert held is not None
    forged = seal(
        held.manifest.model_copy(update={"site": "cleo"}).signed(), HEAD, bob.keys.signing
    )
    with pytest.raises(SecurityError, match="signed by another site"):
        ann.take(forged, held.payload)
    with pytest.raises(HeadError, match="changed on its way"):
        ann.take(held.envelope, held.payload[:-1] + b"x")
    assert [r.reason for r in ann.store.refusals()] == ["HeadError", "SignatureError"]
    assert ann.take(held.envelope, held.payload)
    assert not ann.take(held.envelope, held.payload)


def test_two_heads_of_one_number_are_kept_as_evidence_and_none_is_used(country: Country) -> None:
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    all_lend(country)
    held = bob.held("bob")
    assert held is not None
    ann.take(held.envelope, held.payload)
    other = encode(head(99.0).tensors)
    twin = held.manifest.model_copy(update={"payload": digest(other), "size": len(other)})
    envelope = seal(twin.signed(), HEAD, bob.keys.signing)
    with pytest.raises(EquivocationError, match="two heads"):
        ann.take(envelope, other)
    assert ann.store.convicted() == {"bob"}
    assert "bob" not in heard(ann)
    assert any(one == held.envelope for one in ann.offers())  # and still passed on
    assert ann.store.release("bob", NOW) == 2
    assert "bob" in heard(ann)


def test_a_site_lends_only_what_its_charter_allows(country: Country) -> None:
    ann = country.replicas["ann"]
    with pytest.raises(FederationError, match="fewer than 20"):
        ann.lend(head(1.0), 19)
    wide = replace(head(1.0), tensors={"weight": torch.ones(1, 3, 4), "bias": torch.ones(1, 2)})
    with pytest.raises(HeadError):
        ann.lend(wide, ROWS)
    assert ann.offers() == []


def test_numbers_go_up_even_when_the_clock_goes_back(country: Country) -> None:
    ann = country.replicas["ann"]
    first = ann.lend(head(1.0), ROWS)
    assert isinstance(country.clock, Clock)
    country.clock.now = NOW.replace(year=2020)
    second = ann.lend(head(2.0), ROWS)
    assert second.seq == first.seq + 1
    assert second.parent == first.payload


def test_a_charter_s_dtype_is_what_travels(tmp_path: Path) -> None:
    charter = CHARTER.model_copy(update={"dtype": "int8"})
    country = Country(tmp_path, "ann", "bob", charter=charter)
    ann = country.replicas["ann"]
    assert ann.lend(head(3.0), ROWS).rounding == 0  # one number a channel is kept as it is
    synced(by_folder(country))
    assert heard(country.replicas["bob"]) == {"ann": pytest.approx(3.0)}
    uneven = {"weight": torch.linspace(-1, 1, 8).view(1, 2, 4), "bias": torch.zeros(1, 2)}
    assert 0 < ann.lend(replace(head(1.0), tensors=uneven), ROWS).rounding < 0.01
    uneven["weight"][0, 0, 0] = float("nan")
    with pytest.raises(HeadError, match="not finite"):
        ann.lend(replace(head(1.0), tensors=uneven), ROWS)


def test_a_roster_travels_with_the_heads_and_an_old_one_does_no_harm(country: Country) -> None:
    newer = country.admit("eve")
    bob, cleo = country.replicas["bob"], country.replicas["cleo"]
    old = cleo.roster.bundle
    assert bob.learn(newer)
    assert MemoryExchange(cleo, [bob]).sync().roster
    assert "eve" in cleo.roster.members
    assert not cleo.learn(newer)
    with pytest.raises(SecurityError):
        cleo.learn(old)
    assert "eve" in cleo.roster.members


def test_a_roster_that_does_not_hold_costs_nothing_else(country: Country) -> None:
    all_lend(country)
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    newer = country.admit("eve")
    ann.learn(newer)
    done = MemoryExchange(ann, [bob]).sync()  # bob has the old roster, and learns
    assert done.refused  # ann does not go back
    assert done.taken == ["bob"]
    assert "eve" in bob.roster.members


def test_a_stranger_s_head_is_refused(country: Country, tmp_path: Path) -> None:
    abroad = Country(tmp_path / "abroad", "zoe", "yan")
    abroad.replicas["zoe"].lend(head(1.0), ROWS)
    held = abroad.replicas["zoe"].held("zoe")
    assert held is not None
    with pytest.raises(UnknownKeyError):
        country.replicas["ann"].take(held.envelope, held.payload)
    done = MemoryExchange(country.replicas["ann"], [abroad.replicas["zoe"]]).sync()
    assert len(done.refused) >= 2
    assert heard(country.replicas["ann"]) == {}


# --- the store ---


def reopened(country: Country, site: SiteId) -> Replica:
    country.replicas[site].store.close()
    country.replicas[site] = country.replica(site)
    return country.replicas[site]


def test_what_was_delivered_is_there_after_a_restart(country: Country) -> None:
    said = all_lend(country)
    synced(by_memory(country))
    assert heard(reopened(country, "ann")) == {s: n for s, n in said.items() if s != "ann"}


def test_files_that_nobody_names_are_swept_and_the_rest_stays(country: Country) -> None:
    ann = country.replicas["ann"]
    for number in (1.0, 2.0):
        ann.lend(head(number), ROWS)
    blobs = ann.store.folder / BLOBS
    assert len(list(blobs.iterdir())) == 1  # the newer replaced the older
    (blobs / ".half").write_text("half")
    (blobs / ("ab" * 32)).write_text("whole, and named by nothing")
    assert reopened(country, "ann").store.check() == []
    assert len(list(blobs.iterdir())) == 1


def test_a_payload_that_was_changed_on_disk_is_found_and_left_out(country: Country) -> None:
    said = all_lend(country)
    synced(by_memory(country))
    ann = country.replicas["ann"]
    path = ann.store.folder / BLOBS / ann.store.heads()["bob"].blob
    path.write_bytes(b"rotten")
    assert heard(ann) == {s: n for s, n in said.items() if s in {"cleo", "dan"}}
    (sentence,) = ann.store.check()
    assert "changed on disk" in sentence
    synced(by_memory(country), 1)  # and it is asked for again
    assert ann.store.check() == []
    assert heard(ann) == {s: n for s, n in said.items() if s != "ann"}
    path.unlink()
    (sentence,) = ann.store.check()
    assert "cannot be read" in sentence


def test_a_full_disk_refuses_the_new_and_keeps_the_old(country: Country) -> None:
    said = all_lend(country)
    synced(by_memory(country))
    ann = country.replicas["ann"]
    soft, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (100, hard))  # no file may grow beyond this: a full disk
    try:
        with pytest.raises(StoreError, match="still there"):
            ann.store.refused("reason", "sentence", NOW)
        with pytest.raises((StoreError, OutputError)):
            ann.lend(head(9.0), ROWS)
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))
    assert heard(reopened(country, "ann")) == {s: n for s, n in said.items() if s != "ann"}
    assert says_own(country.replicas["ann"]) == said["ann"]
    assert country.replicas["ann"].lend(head(9.0), ROWS).seq > 0


def says_own(replica: Replica) -> float:
    """Return the number that the site's own head says, as it is stored."""
    held = replica.held(replica.name)
    assert held is not None
    return float(load(held.payload)["weight"].mean())


def test_a_site_without_a_roster_has_nobody_to_lend_to(tmp_path: Path) -> None:
    home = Home.made(tmp_path / "ann", "ann", (), NOW)
    home.create(CHARTER)
    with pytest.raises(FederationError, match="nobody to lend to"):
        Replica(home, Store(tmp_path / "store"))


def test_a_backup_is_a_store(country: Country, tmp_path: Path) -> None:
    all_lend(country)
    synced(by_memory(country))
    ann = country.replicas["ann"].store
    ann.backup(tmp_path / "backup")
    copy = Store(tmp_path / "backup")
    assert copy.heads() == ann.heads()
    assert copy.check() == []
    with pytest.raises(StoreError, match="not empty"):
        ann.backup(tmp_path / "backup")
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreError, NotADirectoryError)):
        ann.backup(tmp_path / "file" / "backup")


def test_a_store_is_checked_and_copied_by_a_command_while_the_node_runs(
    country: Country, tmp_path: Path
) -> None:
    all_lend(country)
    synced(by_memory(country))
    home = ["--home", str(country.folder / "ann")]
    said = CliRunner().invoke(app, ["store", "check", *home])
    assert "newest heads of 4 sites, 0 rounds" in said.output
    target = tmp_path / "copy"
    assert CliRunner().invoke(app, ["store", "backup", str(target), *home]).exit_code == 0
    assert not list(target.rglob("*.pem"))
    ann = country.replicas["ann"].store
    (ann.folder / BLOBS / ann.heads()["bob"].blob).write_bytes(b"rotten")
    told = CliRunner().invoke(app, ["store", "check", *home])
    assert isinstance(told.exception, StoreError)
    nowhere = CliRunner().invoke(app, ["store", "check", "--home", str(tmp_path / "nowhere")])
    assert isinstance(nowhere.exception, KeyFileError)


def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer version"):
        Store(tmp_path)


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database at all" * 99)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)


def test_bytes_are_counted_by_day_way_and_peer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for count in (3, 4):
        store.moved("sent", "bob", count, NOW)
    assert store.traffic() == {("2026-11-26", "sent", "bob"): 7}


def test_a_file_of_a_folder_can_be_shown_to_people(country: Country) -> None:
    all_lend(country)
    synced(by_folder(country))
    (path,) = (country.folder / "shared").glob("ann-*.head")
    parcel = unpacked(path.read_bytes(), "it")
    assert packed(parcel.envelope, parcel.payload) == path.read_bytes()
