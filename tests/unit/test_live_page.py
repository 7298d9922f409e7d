"""The live page: who may see it, what it says of a site, and that it only reads."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.hospitals import Country, head

from dflmoe.errors import PageError, StoreError
from dflmoe.node.exchange import MemoryExchange
from dflmoe.node.home import Home
from dflmoe.node.node import RoundSummary
from dflmoe.node.seen import Outage, Past, ago, look, outages, set_aside
from dflmoe.node.status import STATUS, status_of
from dflmoe.node.store import DATABASE, STORE, Store
from dflmoe.security.audit import entry_after
from dflmoe.web.app import HEADERS, application
from dflmoe.web.door import COOKIE, TOKEN, Address, Door
from dflmoe.web.drawn import drawn
from dflmoe.web.serve import served

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def past(
    number: int, *, alone: float | None = 0.8, mixed: float | None = 0.9, **more: object
) -> Past:
    said: dict[str, object] = {
        "number": number,
        "own_loss": 0.5,
        "mixture_loss": 0.4,
        "own_score": alone,
        "mixture_score": mixed,
        "used": True,
        "share": {"ann": 0.7, "bob": 0.3},
        "quarantined": (),
        "heard": ("bob",),
        "outage": None,
    }
    return Past(RoundSummary.model_validate({**said, **more}), NOON + timedelta(minutes=number))


@pytest.fixture
def country(tmp_path: Path) -> Country:
    return Country(tmp_path, "ann", "bob")


def lived(country: Country) -> Home:
    """Let ann have played two rounds with bob's head, and say so."""
    ann, bob = country.replicas["ann"], country.replicas["bob"]
    ann.lend(head(1.0), 40)
    bob.lend(head(2.0), 40)
    MemoryExchange(ann, [bob]).sync()
    for number, missing in ((1, {}), (2, {"bob": "nothing was heard of <b>it</b>"})):
        summary = past(number, missing=missing).summary
        ann.store.keep_round(number, b"state", summary.signed(), NOON + timedelta(minutes=number))
    ann.store.refused("EnvelopeError", "it is no envelope", NOON)
    status_of(ann, None, pid=7, doing="waiting").stored(country.homes["ann"].folder)
    return country.homes["ann"]


def client(home: Home, door: Door | None = None) -> TestClient:
    door = door or Door(Address("127.0.0.1", 8470), None)
    return TestClient(application(home, door), base_url="http://127.0.0.1:8470")


# --- the door ---


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8470", "127.0.0.1", 8470, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),  # noqa: S104 - as a person might type it
        ("ward-3.example:80", "ward-3.example", 80, False),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int, loopback: bool) -> None:
    address = Address.of(text)
    assert (address.host, address.port, address.loopback) == (host, port, loopback)


@pytest.mark.parametrize(
    "text", ["", "8470", "localhost", "::1:80", "a b:1", "a:99999", "http://a:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(PageError, match="is no address; give host:port"):
        Address.of(text)


def test_an_address_that_is_taken_is_refused(country: Country) -> None:
    home = country.homes["ann"]
    with (
        served(home, "127.0.0.1:0") as door,
        pytest.raises(PageError, match="choose another address or port"),
        served(home, f"127.0.0.1:{door.address.port}"),
    ):
        pass


def test_an_address_of_another_machine_is_refused(country: Country) -> None:
    with (
        pytest.raises(PageError, match="cannot be served at 192"),
        served(country.homes["ann"], "192.0.2.1:8470"),
    ):
        pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8470", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_somebody_made_point_here_opens_nothing(country: Country, host: str) -> None:
    answer = client(lived(country)).get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "open it as 127.0.0.1 or localhost" in answer.text
    assert "Hearts" not in answer.text


def test_other_computers_need_the_token(country: Country) -> None:
    home = lived(country)
    door = Door.at(Address("10.0.0.1", 8470), home.folder)
    assert door.token is not None
    assert (home.folder / TOKEN).stat().st_mode & 0o077 == 0
    assert Door.at(Address("10.0.0.1", 8470), home.folder) == door
    page = client(home, door)
    for path in ("/", "/events", "/download/status.json", "/doctor", "/?token=wrong", "/?token="):
        answer = page.get(path, headers={"cookie": f"{COOKIE}=wrong"})
        assert answer.status_code == 401, path
        assert "shown with the token" in answer.text
        assert "Hearts" not in answer.text
    opened = page.get(f"/?token={door.token}", follow_redirects=False)
    assert opened.status_code == 303
    assert opened.headers["location"] == "/"
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert "SameSite=strict" in opened.headers["set-cookie"]
    assert page.get("/").status_code == 200


# --- what is shown ---


def test_the_page_says_what_the_node_says(country: Country) -> None:
    home = lived(country)
    answer = client(home).get("/")
    assert answer.status_code == 200
    for text in (
        "Hearts",
        "of round 1, came just now",
        "The node has stopped",
        "0.900",
        "it is no envelope",
        "EnvelopeError",
    ):
        assert text in answer.text
    assert "nothing was heard of &lt;b&gt;it&lt;/b&gt;" in answer.text
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


def test_nothing_of_rows_or_keys_is_shown(country: Country) -> None:
    home = lived(country)
    page = client(home)
    shown = "".join(
        page.get(path).text
        for path in ("/", "/download/status.json", "/download/rounds.json", "/download/audit.jsonl")
    )
    assert "PRIVATE KEY" not in shown
    for path in ("/keys.pem", "/download/keys.pem", "/assets/../../keys.pem", "/assets/keys.pem"):
        assert page.get(path).status_code in {404, 422}


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_the_page_only_reads(country: Country, method: str) -> None:
    home = lived(country)
    before = {
        p: p.stat().st_mtime_ns for p in home.folder.rglob("*") if p.name != f"{DATABASE}-shm"
    }
    page = client(home)
    for path in ("/", "/doctor", "/download/audit.jsonl"):
        assert getattr(page, method)(path).status_code == 405
        assert page.get(path).status_code == 200
    after = {p: p.stat().st_mtime_ns for p in home.folder.rglob("*") if p.name != f"{DATABASE}-shm"}
    assert before == after


def test_a_site_whose_node_never_ran_says_so(tmp_path: Path) -> None:
    country = Country(tmp_path, "ann", "bob")
    answer = client(country.homes["ann"]).get("/")
    assert "No node has run here yet" in answer.text
    assert "There are no scores yet" in answer.text
    assert "No peers are known yet" in answer.text


def test_a_store_that_cannot_be_read_is_a_sentence(country: Country) -> None:
    home = lived(country)
    country.replicas["ann"].store.close()
    (home.folder / STORE / DATABASE).write_bytes(b"no database, but long enough to be one" * 40)
    answer = client(home).get("/")
    assert answer.status_code == 503
    assert "cannot be opened" in answer.text


# --- the past ---


def test_outages_are_stretches_of_rounds_for_each_peer() -> None:
    gone = {"bob": "no peer is connected"}
    rounds = [
        past(1),
        past(2, missing=gone),
        past(3, missing={"bob": "its head is too old"}),
        past(4),
        past(5, missing=gone, outage="the cable is cut"),
    ]
    found = outages(rounds)
    assert found == [
        Outage("bob", "no peer is connected", 5, 5, rounds[4].at, None),
        Outage("everybody", "the cable is cut", 5, 5, rounds[4].at, None),
        Outage("bob", "its head is too old", 2, 3, rounds[1].at, rounds[3].at),
    ]
    assert outages([]) == []


def test_a_head_is_set_aside_until_it_is_released() -> None:
    one = entry_after(None, "quarantined", {"site": "bob", "why": "evidence of harm"}, NOON)
    two = entry_after(one, "quarantined", {"site": "cleo", "seq": 3, "evidence": "f" * 64}, NOON)
    three = entry_after(two, "released", {"site": "bob"}, NOON)
    assert [(a.site, a.why) for a in set_aside([one, two])] == [
        ("bob", "evidence of harm"),
        ("cleo", "it signed two heads of one number"),
    ]
    assert [a.site for a in set_aside([one, two, three])] == ["cleo"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (90000, "1 day ago")],
)
def test_ages_are_told_in_words_that_seldom_change(seconds: int, words: str) -> None:
    assert ago(NOON, NOON + timedelta(seconds=seconds)) == words


def test_a_picture_leaves_out_what_was_not_scored() -> None:
    assert drawn([]) is None
    assert drawn([past(1, alone=None, mixed=None)]) is None
    found = drawn([past(1), past(2, mixed=None), past(3, mixed=0.7)])
    assert found is not None
    alone, mixed = sorted(found.lines, key=lambda line: line.name)
    assert (len(alone.points), len(mixed.points)) == (1, 2)
    assert (alone.last, mixed.last) == (0.8, 0.7)
    assert [tick.text for tick in found.rounds] == ["1", "3"]
    assert [tick.text for tick in found.scores] == ["0.700", "0.900"]


def test_names_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    found = drawn([past(1, alone=0.5, mixed=0.9), past(2, alone=0.801, mixed=0.8)])
    assert found is not None
    upper, lower = sorted(line.end[1] for line in found.lines)
    assert lower - upper >= 16


# --- reading a store beside its node ---


def test_a_store_that_is_only_read_is_not_changed(country: Country, tmp_path: Path) -> None:
    home = lived(country)
    seen = look(home)
    assert [one.summary.number for one in seen.rounds] == [1, 2]
    assert seen.entries == len(country.replicas["ann"].store.entries())
    store = Store(home.folder / STORE, reads=True)
    with pytest.raises(StoreError, match="cannot be written"):
        store.note("stop", {}, NOON)
    store.close()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "nowhere", reads=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_store_of_another_version_is_left_to_its_node(country: Country) -> None:
    home = country.homes["ann"]
    store = country.replicas["ann"].store
    store._db.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreError, match="another version of dflmoe; start its node once"):
        Store(home.folder / STORE, reads=True)


def test_a_status_of_another_form_is_taken_for_none(country: Country) -> None:
    home = lived(country)
    (home.folder / STATUS).write_text("{}")
    assert look(home).status is None
    assert replace(look(home), status=None).site == "ann"
