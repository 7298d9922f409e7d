"""A log that was changed says so; one that was cut or written anew is given away by others."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.security import NOW, keys_of, manifest, roster_of

from dflmoe.security.audit import (
    Entry,
    Facts,
    Kind,
    Receipt,
    belonging,
    broken,
    contradicted,
    entry_after,
    moves,
    signed_with,
)
from dflmoe.security.roster import Roster
from dflmoe.wire.envelope import HEAD, seal

ANN = keys_of("ann")
KEYS = {ANN.public.keyid: ANN.public}


def log(length: int = 6, site: str = "ann", first: str = "a") -> list[Entry]:
    entries: list[Entry] = []
    for k in range(length):
        kind: Kind = "round" if k else "begin"
        facts: Facts = {"site": site, "round": k, "first": first}
        last = entries[-1] if entries else None
        entries.append(entry_after(last, kind, facts, NOW + timedelta(hours=k)))
    return entries


def receipt(
    entry: Entry | None, seq: int, *, site: str = "ann", key: str = "ann", holder: str = "bob"
) -> Receipt:
    said = manifest(site=site, seq=seq, audit=entry.digest if entry else None)
    sealed = seal(said.signed(), HEAD, keys_of(key).signing)
    return Receipt(site="ann", holder=holder, envelope=sealed.decode())


def test_what_was_only_appended_to_is_whole_and_no_receipt_contradicts_it() -> None:
    entries = log()
    assert broken(entries, "ann") == []
    receipts = [receipt(entries[k], k) for k in (1, 3, 5)]
    assert contradicted(entries, receipts, KEYS, "ann") == []
    assert contradicted(entries, [receipt(None, 1)], KEYS, "ann") == []  # before there was a log


def edited(entries: list[Entry]) -> list[Entry]:
    one = entries[2].model_copy(update={"facts": entries[2].facts.replace("2", "7")})
    return [*entries[:2], one, *entries[3:]]


def without_one(entries: list[Entry]) -> list[Entry]:
    return [*entries[:2], *entries[3:]]


def swapped(entries: list[Entry]) -> list[Entry]:
    return [*entries[:2], entries[3], entries[2], *entries[4:]]


def two_writers(entries: list[Entry]) -> list[Entry]:
    other = entry_after(entries[2], "round", {"round": 99}, NOW + timedelta(hours=3))
    return [*entries[:4], other, *entries[4:]]


def renumbered(entries: list[Entry]) -> list[Entry]:
    left = [*entries[:2], *entries[3:]]
    return [one.model_copy(update={"number": k}) for k, one in enumerate(left, 1)]


def set_back(entries: list[Entry]) -> list[Entry]:
    return [*entries, entry_after(entries[-1], "round", {}, NOW)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param(edited, "was changed", id="edited"),
        pytest.param(without_one, "is missing", id="deleted"),
        pytest.param(renumbered, "does not follow", id="deleted and numbered anew"),
        pytest.param(swapped, "is missing", id="reordered"),
        pytest.param(two_writers, "stands in its place", id="two writers"),
        pytest.param(set_back, "clock was set back", id="clock set back"),
        pytest.param(lambda entries: entries[1:], "is missing", id="beginning cut off"),
        pytest.param(lambda _: log(site="bob"), "of another site", id="another site's log"),
        pytest.param(lambda _: [], "is empty", id="emptied"),
    ],
)
def test_a_log_that_was_changed_says_so_itself(
    change: Callable[[list[Entry]], list[Entry]], word: str
) -> None:
    assert any(word in sentence for sentence in broken(change(log()), "ann"))


@given(st.integers(0, 5), st.sampled_from(["at", "kind", "facts", "before"]))
def test_no_field_of_any_entry_but_the_last_can_be_changed(which: int, name: str) -> None:
    entries = log(7)
    new: dict[str, object] = {
        "at": entries[which].at + timedelta(seconds=1),
        "kind": "stop",
        "facts": '{"site": "ann"}',
        "before": "1" * 64,
    }
    entries[which] = entries[which].model_copy(update={name: new[name]})
    assert broken(entries, "ann")


def test_a_clock_that_was_corrected_a_little_is_no_offence() -> None:
    entries = log()
    entries.append(entry_after(entries[-1], "round", {}, entries[-1].at - timedelta(seconds=30)))
    assert broken(entries, "ann") == []


def test_a_log_that_was_cut_off_or_written_anew_is_whole_and_others_give_it_away() -> None:
    entries = log()
    receipts = [receipt(entries[k], k) for k in (1, 5)]
    for forged in (entries[:4], log(first="b"), log(9, first="b")):
        assert broken(forged, "ann") == []
        (sentence, *_) = contradicted(forged, receipts, KEYS, "ann")
        assert "bob keeps a head" in sentence
        assert "cut, or written anew" in sentence


def test_two_logs_that_were_written_side_by_side_are_given_away() -> None:
    entries = log()
    receipts = [receipt(entries[5], 10), receipt(entries[2], 11, holder="cleo")]
    (sentence,) = contradicted(entries, receipts, KEYS, "ann")
    assert "cleo keeps a later head with an earlier entry" in sentence


@pytest.mark.parametrize(
    ("forged", "word"),
    [
        pytest.param({"key": "bob"}, "proves nothing", id="signed by another"),
        pytest.param({"site": "bob"}, "is of bob", id="of another site"),
    ],
)
def test_a_receipt_that_nobody_signed_accuses_nobody(forged: dict[str, str], word: str) -> None:
    (sentence,) = contradicted(log(4), [receipt(log()[5], 5, **forged)], KEYS, "ann")
    assert word in sentence
    assert "written anew" not in sentence


def test_receipts_for_other_logs_are_not_looked_at() -> None:
    other = receipt(log()[5], 5).model_copy(update={"site": "bob"})
    assert contradicted(log(4), [other], KEYS, "ann") == []


def test_a_log_knows_who_belongs_and_all_keys_that_ever_signed() -> None:
    two, three = roster_of("ann", "bob"), roster_of("ann", "bob", "cleo")
    entries: list[Entry] = []

    def tells(roster: Roster) -> list[str]:
        events = moves(belonging(entries), roster)
        for kind, facts in events:
            entries.append(entry_after(entries[-1] if entries else None, kind, facts, NOW))
        return [f"{kind} {facts['site']}" for kind, facts in events]

    assert tells(two) == ["join ann", "join bob"]
    assert tells(two) == []
    assert tells(three) == ["join cleo"]
    assert set(belonging(entries)) == {"ann", "bob", "cleo"}
    new = keys_of("bob", 1)
    other = replace(three.members["bob"], keys={new.public.keyid: new.public})
    rekeyed = replace(three, members={**three.members, "bob": other})
    assert tells(rekeyed) == ["key bob"]
    assert set(signed_with(entries, "bob")) == {keys_of("bob").public.keyid, new.public.keyid}
    assert tells(two) == ["leave cleo", "key bob"]
    assert set(belonging([*entries, *log()])) == {"ann", "bob"}


@pytest.mark.parametrize("facts", ["{", "3", "[]", '"ann"'])
def test_facts_are_an_object(facts: str) -> None:
    said = log()[0].model_dump()
    with pytest.raises(ValidationError):
        Entry.model_validate({**said, "facts": facts})


def test_keys_that_are_none_sign_nothing() -> None:
    for keys in ("none", ["a", 3, None], {"a": "b"}):
        facts = json.dumps({"site": "ann", "keys": keys})
        entry = log()[0].model_copy(update={"kind": "join", "facts": facts})
        assert signed_with([entry], "ann") == {}
