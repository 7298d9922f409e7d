"""A newcomer knows a federation by a fingerprint, and by nothing else that a file says."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.security import CHARTER, NOW, keys_of, roster_of

from dflmoe.errors import EnvelopeError, ExpiredError, FederationError, SignatureError
from dflmoe.security.charter import Charter
from dflmoe.security.invitation import INVITATION_DAYS, invite, invited
from dflmoe.security.keys import fingerprint, key_of
from dflmoe.security.roster import trust_of
from dflmoe.wire.envelope import HEAD, INVITATION, seal, unsealed
from dflmoe.wire.manifest import now

ROOT = trust_of(roster_of("ann", "bob").bundle)
RAW = invite(CHARTER, inviter="ann", keys=keys_of("ann"), root=ROOT, site="cleo", now=NOW)


def test_an_invitation_tells_the_rules_and_whose_fingerprint_to_ask_for() -> None:
    one = invited(RAW, site="cleo", now=NOW)
    assert one.charter == CHARTER
    assert one.root == ROOT
    assert fingerprint(key_of(one.key)) == fingerprint(keys_of("ann").public)


def test_an_invitation_is_for_one_site_and_one_month() -> None:
    with pytest.raises(FederationError, match="'cleo'"):
        invited(RAW, site="mallory", now=NOW)
    with pytest.raises(ExpiredError):
        invited(RAW, site="cleo", now=NOW + timedelta(days=INVITATION_DAYS, seconds=1))


def test_nobody_is_invited_by_a_name_that_no_site_can_have() -> None:
    with pytest.raises(EnvelopeError, match="no name of a site"):
        invite(CHARTER, inviter="ann", keys=keys_of("ann"), root=ROOT, site="Oslo Uni", now=NOW)


def test_an_invitation_that_was_changed_is_refused() -> None:
    said = json.loads(unsealed(RAW, INVITATION, "it").payload)
    changed = seal(
        json.dumps({**said, "root": "f" * 64}).encode(), INVITATION, keys_of("bob").signing
    )
    forged = json.loads(changed)
    forged["signatures"][0]["keyid"] = keys_of("ann").public.keyid
    with pytest.raises(SignatureError):
        invited(json.dumps(forged).encode(), site="cleo", now=NOW)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(RAW[: len(RAW) // 2], id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param("é".encode("latin-1"), id="not UTF-8"),
        pytest.param(b" " * 10**6, id="huge"),
        pytest.param(seal(b"{}", HEAD, keys_of("ann").signing), id="another document"),
        pytest.param(seal(b"{}", INVITATION, keys_of("ann").signing), id="says nothing"),
    ],
)
def test_what_is_no_invitation_is_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        invited(raw, site="cleo", now=NOW)


RULES = """
name = "Hearts"
task = "heart disease"
classes = ["no", "yes"]
kind = "table"
shape = [13]
network = "plain"
"""


def test_two_federations_with_the_same_rules_are_two(tmp_path: Path) -> None:
    path = tmp_path / "charter.toml"
    path.write_text(RULES)
    one, other = Charter.found(path), Charter.found(path)
    assert one.federation != other.federation
    assert one.digest != other.digest
    assert one.classes == ("no", "yes")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(RULES.replace('"plain"', "3"), id="a number for a name"),
        pytest.param(RULES + "more = 1", id="a key that nobody knows"),
        pytest.param(RULES + "min_rows = 1", id="too few rows"),
        pytest.param(RULES + "max_norm = inf", id="no bound"),
        pytest.param(RULES + "dtype = 'bf16'", id="an unknown dtype"),
        pytest.param(RULES + "exchange = 'anchored'", id="anchored, and no anchors"),
        pytest.param(RULES + f"anchors = '{'0' * 64}'", id="anchors, and nothing anchored"),
        pytest.param("name = ", id="no TOML"),
        pytest.param("", id="empty"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "charter.toml"
    path.write_text(text)
    with pytest.raises(EnvelopeError, match="charter"):
        Charter.found(path)
    with pytest.raises(EnvelopeError, match="cannot be read"):
        Charter.found(tmp_path / "missing.toml")


def test_this_moment_is_told_to_the_second() -> None:
    assert now().microsecond == 0
