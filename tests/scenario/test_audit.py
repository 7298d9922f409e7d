"""What happens at a site is written down, and peers remember what they were shown."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.hospitals import Country, head
from tests.security import NOW
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.demo.founding import free_address
from dflmoe.errors import HeadError, OptionError, PolicyError, StoreError, TamperedError
from dflmoe.node.audit import ask, checked, export, exported, kept
from dflmoe.node.network import Network
from dflmoe.node.replica import Replica
from dflmoe.node.store import DATABASE, REFUSALS_A_DAY, STORE, Store
from dflmoe.security.policy import POLICY

ROWS = 60


@pytest.fixture
def country(tmp_path: Path) -> Country:
    return Country(tmp_path, "ann", "bob", "cleo")


def lends(country: Country, site: str, number: float) -> None:
    """Let a site lend, and all others take its head."""
    country.replicas[site].lend(head(number), ROWS)
    held = country.replicas[site].held(site)
    assert held is not None
    for name, other in country.replicas.items():
        if name != site:
            other.take(held.envelope, held.payload)


def told(replica: Replica) -> list[str]:
    return [f"{e.kind} {e.told.get('site', '')}".strip() for e in replica.store.entries()]


def test_the_log_says_what_a_security_officer_asks_for(country: Country) -> None:
    ann = country.replicas["ann"]
    lends(country, "ann", 1)
    lends(country, "bob", 2)
    country.replicas["bob"].lend(head(3), ROWS)
    again = country.replicas["bob"].held("bob")
    assert again is not None
    with pytest.raises(HeadError):
        ann.take(again.envelope, again.payload + b"x")
    country.dismiss("cleo")
    assert told(ann) == [
        "begin ann", "join ann", "join bob", "join cleo", "charter", "policy",
        "lent", "received bob", "refused", "leave cleo",
    ]  # fmt: skip
    refused = ann.store.entries("refused")[-1].told
    assert refused["reason"] == "HeadError"
    assert "bob announced" in str(refused["why"])


def test_a_log_is_whole_however_often_its_node_starts(country: Country) -> None:
    lends(country, "ann", 1)
    before = country.replicas["ann"].store.entries()
    country.replicas["ann"].store.close()
    after = country.replica("ann").store.entries()
    assert after == before  # nobody joined, nothing changed
    assert checked(after, [], "ann").wrong == []


def test_a_head_bears_the_entry_that_says_that_it_was_lent(country: Country) -> None:
    lends(country, "ann", 1)
    ann, bob = (country.replicas[s].store for s in ("ann", "bob"))
    (receipt,) = kept(bob, "bob", "ann")
    assert receipt.holder == "bob"
    (lent,) = ann.entries("lent")
    held = country.replicas["bob"].held("ann")
    assert held is not None
    assert held.manifest.audit == lent.digest
    assert lent.told["payload"] == held.manifest.payload
    came = checked(ann.entries(), [receipt], "ann")
    assert came.wrong == []
    assert came.receipts == {"bob": 1}


# --- what somebody with the disk in his hands may do ---


def opened(store: Store) -> sqlite3.Connection:
    """Open a database as an intruder would: without what keeps a node from changing its log."""
    db = sqlite3.connect(store.folder / DATABASE)
    db.execute("DROP TRIGGER audit_stays")
    db.execute("DROP TRIGGER audit_is_kept")
    return db


def edit(db: sqlite3.Connection) -> None:
    db.execute("UPDATE audit SET facts = replace(facts, 'ann', 'eve') WHERE number = 2")


def delete(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM audit WHERE number = 3")


def reorder(db: sqlite3.Connection) -> None:
    db.execute("UPDATE audit SET number = -1 WHERE number = 3")
    db.execute("UPDATE audit SET number = 3 WHERE number = 4")
    db.execute("UPDATE audit SET number = 4 WHERE number = -1")


def truncate(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM audit WHERE number >= (SELECT max(number) FROM audit) - 1")


def set_back(db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE audit SET at = '2020-01-01T00:00:00+00:00' "
        "WHERE number = (SELECT max(number) FROM audit)"
    )


@pytest.mark.parametrize("change", [edit, delete, reorder, truncate, set_back])
def test_whatever_is_done_to_a_log_is_found(
    country: Country, change: Callable[[sqlite3.Connection], None]
) -> None:
    for number in (1, 2):
        lends(country, "ann", number)
    receipts = kept(country.replicas["cleo"].store, "cleo", "ann")
    store = country.replicas["ann"].store
    assert checked(store.entries(), receipts, "ann").wrong == []
    with opened(store) as db:
        change(db)
    assert checked(store.entries(), receipts, "ann").wrong


def test_a_node_itself_cannot_change_what_it_wrote(country: Country) -> None:
    db = sqlite3.connect(country.replicas["ann"].store.folder / DATABASE)
    for statement in ("UPDATE audit SET at = ''", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="only appended to"):
            db.execute(statement)


def test_an_older_copy_of_the_whole_store_is_given_away_by_peers(
    country: Country, tmp_path: Path
) -> None:
    lends(country, "ann", 1)
    ann = country.replicas["ann"].store
    ann.backup(tmp_path / "old")
    lends(country, "ann", 2)
    ann.close()
    shutil.rmtree(ann.folder)
    shutil.copytree(tmp_path / "old", ann.folder)
    swapped = Store(ann.folder)
    assert checked(swapped.entries(), kept(swapped, "ann", "ann"), "ann").wrong == []  # by itself
    receipts = kept(country.replicas["bob"].store, "bob", "ann")
    (sentence,) = checked(swapped.entries(), receipts, "ann").wrong
    assert "bob keeps a head" in sentence


def test_two_writers_of_copies_are_given_away_by_peers(country: Country, tmp_path: Path) -> None:
    lends(country, "ann", 1)
    country.replicas["ann"].store.backup(tmp_path / "copy")
    double = Replica(country.homes["ann"], Store(tmp_path / "copy"), country.clock)
    lends(country, "ann", 2)
    double.lend(head(3), ROWS)
    held = double.held("ann")
    assert held is not None
    country.replicas["bob"].take(held.envelope, held.payload)
    for mine, other in ((country.replicas["ann"].store, "bob"), (double.store, "cleo")):
        receipts = kept(country.replicas[other].store, other, "ann")
        assert checked(mine.entries(), receipts, "ann").wrong


def test_another_sites_log_is_not_ones_own(country: Country) -> None:
    entries = country.replicas["bob"].store.entries()
    assert any("another site" in one for one in checked(entries, [], "ann").wrong)


def test_a_row_that_no_node_writes_is_named(country: Country) -> None:
    store = country.replicas["ann"].store
    with opened(store) as db:
        db.execute("UPDATE audit SET kind = 'party' WHERE number = 2")
    with pytest.raises(StoreError, match="changed by hand"):
        store.entries()


def test_a_flood_of_refusals_fills_no_disk(country: Country) -> None:
    store = country.replicas["ann"].store
    for k in range(REFUSALS_A_DAY + 50):
        store.refused("HeadError", f"sentence {k}", NOW)
    for _ in range(100):
        store.refused("HeadError", "the same", NOW)
    assert len(store.entries("refused")) == REFUSALS_A_DAY
    quiet = country.replicas["bob"].store
    for _ in range(100):
        quiet.refused("HeadError", "the same", NOW)
    assert [entry.told["times"] for entry in quiet.entries("refused")] == [1, 10, 100]


def test_no_number_of_a_head_is_in_the_log(country: Country) -> None:
    lends(country, "ann", 0.123456789)
    for name in ("ann", "bob"):
        store = country.replicas[name].store
        held = country.replicas[name].held("ann")
        assert held is not None
        written = "".join(entry.facts for entry in store.entries())
        assert "0.1234" not in written
        assert held.payload[-16:].hex() not in written
        secret = country.homes[name].keys.signing.private_bytes_raw().hex()
        assert secret not in written


# --- by command, and over the network ---


@pytest.fixture
def met(tmp_path: Path) -> Iterator[Country]:
    """Three hospitals of whom two can be dialled; one head of ann is with bob."""
    at = {site: free_address() for site in ("ann", "bob")}
    found = Country(tmp_path, "ann", "bob", "cleo", dialled=at, real_time=True)
    bob = Network(found.replicas["bob"], at["bob"])
    bob.start()
    lends(found, "ann", 1)
    yield found
    bob.stop()


def test_peers_are_asked_for_what_they_keep(met: Country) -> None:
    receipts, silent = ask(met.replicas["ann"])
    assert [one.holder for one in receipts] == ["bob"]
    assert set(silent) == {"cleo"}
    assert "no address" in silent["cleo"]
    assert checked(met.replicas["ann"].store.entries(), receipts, "ann").wrong == []


def typed(*words: str, home: Path) -> str:
    done = CliRunner().invoke(app, [*words, "--home", str(home)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_log_is_shown_exported_and_verified_by_command(met: Country, tmp_path: Path) -> None:
    ann, bob = (met.homes[site].folder for site in ("ann", "bob"))
    assert "begin" in typed("audit", "show", home=ann)
    only = json.loads(typed("audit", "show", "--kind", "lent", "--json", home=ann))
    assert [entry["kind"] for entry in only] == ["lent"]
    with pytest.raises(OptionError, match="is none of"):
        typed("audit", "show", "--kind", "party", home=ann)
    assert "only peers can tell" in typed("audit", "verify", home=ann)
    assert "Nothing was changed" in typed("audit", "verify", "--peers", home=ann)
    files = {site: str(tmp_path / f"{site}.jsonl") for site in ("ann", "bob")}
    typed("audit", "export", files["ann"], home=ann)
    typed("audit", "export", files["bob"], home=bob)
    by_officer = ("audit", "verify", "--log", files["ann"], "--receipts", files["bob"])
    assert "receipts: 1 of bob" in typed(*by_officer, home=bob)
    met.replicas["ann"].store.close()
    with opened(Store(ann / STORE)) as db:
        truncate(db)
    with pytest.raises(TamperedError, match="cut, or written anew"):
        typed("audit", "verify", "--peers", home=ann)
    lines = Path(files["ann"]).read_text().splitlines()
    Path(files["ann"]).write_text("\n".join(lines[:2] + lines[3:]))
    with pytest.raises(TamperedError, match="is missing"):
        typed(*by_officer, home=bob)


def test_what_is_no_log_is_refused(tmp_path: Path, country: Country) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"entry": {"number": 1}}\n')
    with pytest.raises(Exception, match="line 1"):
        exported(path)
    assert export(country.replicas["ann"].store, "ann", path) == 6


# --- the site's policy ---


def with_policy(country: Country, site: str, text: str) -> Replica:
    (country.homes[site].folder / POLICY).write_text(text)
    country.replicas[site].store.close()
    country.replicas[site] = country.replica(site)
    return country.replicas[site]


def test_a_policy_that_cannot_be_followed_keeps_the_site_from_running(country: Country) -> None:
    with pytest.raises(PolicyError, match="does not start"):
        with_policy(country, "ann", "lenders = 3")


def test_a_change_of_policy_is_in_the_log(country: Country) -> None:
    ann = with_policy(country, "ann", "min_rows = 5")
    assert [e.told["digest"] for e in ann.store.entries("policy")][-1] == ann.policy.digest
    assert len(ann.store.entries("policy")) == 2


def test_whom_a_policy_does_not_name_is_refused_here_and_nowhere_else(country: Country) -> None:
    ann = with_policy(country, "ann", 'lenders = ["cleo"]')
    country.replicas["bob"].lend(head(1), ROWS)
    held = country.replicas["bob"].held("bob")
    assert held is not None
    with pytest.raises(PolicyError, match="no head of bob"):
        ann.take(held.envelope, held.payload)
    assert country.replicas["cleo"].take(held.envelope, held.payload)
    assert ann.store.refusals()[0].reason == "PolicyError"
    assert ann.missing([])["bob"] == "no head of it came"


def test_a_head_that_came_before_the_policy_is_not_used(country: Country) -> None:
    lends(country, "bob", 1)
    assert [lent.site for lent in country.replicas["ann"].inbox()] == ["bob"]
    ann = with_policy(country, "ann", "max_norm = 0.5")
    assert ann.inbox() == []
    assert ann.missing([])["bob"] == "its head cannot be used"


def test_a_policy_binds_the_site_s_own_lending_too(country: Country) -> None:
    ann = with_policy(country, "ann", "min_rows = 61")
    with pytest.raises(PolicyError, match="60 rows"):
        ann.lend(head(1), ROWS)


def test_two_heads_of_one_number_are_in_the_log_until_somebody_releases(country: Country) -> None:
    ann = country.replicas["ann"]
    with pytest.raises(Exception, match="no evidence"):
        typed("head", "release", "bob", home=country.homes["ann"].folder)
    ann.store.keep_evidence("bob", 7, b"one", NOW)
    ann.store.keep_evidence("bob", 7, b"other", NOW)
    typed("head", "release", "bob", home=country.homes["ann"].folder)
    assert told(ann)[-3:] == ["quarantined bob", "quarantined bob", "released bob"]
    assert ann.store.convicted() == frozenset()


def test_bytes_beyond_a_day_s_allowance_wait_for_tomorrow(tmp_path: Path) -> None:
    at = {"ann": free_address()}
    country = Country(tmp_path, "ann", "bob", "cleo", dialled=at, real_time=True)
    with_policy(country, "bob", "bytes_per_day = 500")
    nodes = [Network(country.replicas[site], at.get(site)) for site in ("ann", "bob", "cleo")]
    for node in nodes:
        node.start()
    try:
        country.replicas["ann"].lend(head(1), ROWS)
        nodes[0].sync()
        bob, cleo = country.replicas["bob"], country.replicas["cleo"]
        assert nodes[2].wait(lambda: "ann" in cleo.store.heads(), 30)
        assert nodes[1].wait(lambda: bool(bob.store.refusals()), 30)
        assert "waits until tomorrow" in bob.store.refusals()[0].sentence
        assert bob.inbox() == []
    finally:
        for node in nodes:
            node.stop()
