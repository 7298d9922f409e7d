"""A head is used once everything that can be checked was, cheapest first."""

from datetime import timedelta

import pytest
import torch
from tests.security import NOW, agreed_by, asks, card_of, keys_of, manifest, roster_of

from dflmoe.errors import (
    EnvelopeError,
    EquivocationError,
    ExpiredError,
    FederationError,
    HeadError,
    ReplayError,
    SecurityError,
    SignatureError,
    UnknownKeyError,
)
from dflmoe.security.admission import announced, received
from dflmoe.security.keys import new_keys
from dflmoe.security.proposal import ROSTER_DAYS, request, with_key, with_site, without_site
from dflmoe.security.roster import GRACE_DAYS, Roster, checked, trust_of
from dflmoe.wire.envelope import HEAD, REQUEST, seal
from dflmoe.wire.manifest import Manifest
from dflmoe.wire.parcel import MAGIC, packed, unpacked
from dflmoe.wire.payload import HeadSpec, digest, encode

ROSTER = roster_of("ann", "bob", "cleo")
SPEC = HeadSpec({"weight": (1, 2)})
PAYLOAD = encode({"weight": torch.ones(1, 2)})


def sent(one: Manifest, by: str = "ann") -> bytes:
    return seal(one.signed(), HEAD, keys_of(by).signing)


def grown(roster: Roster, site: str, *, relay: bool) -> Roster:
    bundle = with_site(roster, asks(site), NOW, approver=False, relay=relay)
    signed = agreed_by(bundle, "ann", "bob")
    return checked(signed, trust_of(signed), held=roster, now=NOW)


def test_a_head_that_is_newer_is_announced() -> None:
    one = manifest()
    assert announced(sent(one), ROSTER, {}, NOW) == one
    assert announced(sent(one), ROSTER, {"ann": manifest(seq=6)}, NOW) == one
    assert announced(sent(one), ROSTER, {"bob": manifest(seq=99)}, NOW) == one


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        pytest.param(b"", EnvelopeError, id="nothing"),
        pytest.param(seal(b"{}", REQUEST, keys_of("ann").signing), EnvelopeError, id="a request"),
        pytest.param(sent(manifest(), "mallory"), UnknownKeyError, id="no member"),
        pytest.param(sent(manifest(), "bob"), SignatureError, id="in another's name"),
        pytest.param(
            seal(manifest().signed(), HEAD, keys_of("ann").signing, keys_of("bob").signing),
            SignatureError,
            id="two sites at once",
        ),
        pytest.param(seal(b"{}", HEAD, keys_of("ann").signing), EnvelopeError, id="no manifest"),
        pytest.param(sent(manifest(federation="f" * 32)), FederationError, id="another federation"),
        pytest.param(sent(manifest(charter="f" * 64)), FederationError, id="another charter"),
        pytest.param(sent(manifest(seq=5)), ReplayError, id="older"),
        pytest.param(sent(manifest(seq=6, round=9)), EquivocationError, id="two of one number"),
        pytest.param(sent(manifest(seq=2**63 - 1)), HeadError, id="a number of the future"),
        pytest.param(sent(manifest(size=2**30)), HeadError, id="too large"),
        pytest.param(sent(manifest(dtype="fp16")), HeadError, id="another dtype"),
    ],
)
def test_the_first_failure_names_itself(
    raw: bytes, error: type[SecurityError] | type[HeadError]
) -> None:
    with pytest.raises(error):
        announced(raw, ROSTER, {"ann": manifest(seq=6)}, NOW)


def test_what_is_held_already_is_no_equivocation() -> None:
    with pytest.raises(ReplayError):
        announced(sent(manifest()), ROSTER, {"ann": manifest()}, NOW)


def test_nothing_is_announced_once_the_roster_has_lapsed() -> None:
    late = NOW + timedelta(days=ROSTER_DAYS + GRACE_DAYS + 1)
    with pytest.raises(ExpiredError, match="federation renew"):
        announced(sent(manifest()), ROSTER, {}, late)
    grace = NOW + timedelta(days=ROSTER_DAYS + 1)
    assert announced(sent(manifest()), ROSTER, {}, grace).site == "ann"


def test_a_relay_lends_nothing() -> None:
    roster = grown(ROSTER, "relay", relay=True)
    with pytest.raises(FederationError, match="relay"):
        announced(sent(manifest(site="relay"), "relay"), roster, {}, NOW)


def test_a_removed_site_lends_nothing_more() -> None:
    bundle = agreed_by(without_site(ROSTER, "cleo", NOW), "ann", "bob")
    roster = checked(bundle, trust_of(bundle), held=ROSTER, now=NOW)
    with pytest.raises(UnknownKeyError):
        announced(sent(manifest(site="cleo"), "cleo"), roster, {}, NOW)


def test_both_keys_serve_while_one_is_rotated() -> None:
    keys = new_keys("cleo", NOW)
    asked = request(card_of("cleo", keys), keys, version=2, old=keys_of("cleo").signing)
    bundle = agreed_by(with_key(ROSTER, asked, NOW), "ann", "bob")
    roster = checked(bundle, trust_of(bundle), held=ROSTER, now=NOW)
    for key in (keys.signing, keys_of("cleo").signing):
        raw = seal(manifest(site="cleo").signed(), HEAD, key)
        assert announced(raw, roster, {}, NOW).site == "cleo"


def test_a_payload_is_decoded_if_it_is_what_was_announced() -> None:
    one = manifest(size=len(PAYLOAD), payload=digest(PAYLOAD))
    assert torch.equal(received(one, PAYLOAD, SPEC)["weight"], torch.ones(1, 2))
    with pytest.raises(HeadError, match="announced"):
        received(one, PAYLOAD + b"x", SPEC)
    with pytest.raises(HeadError, match="changed on its way"):
        received(one, PAYLOAD[:-1] + b"x", SPEC)


def test_a_head_is_one_file() -> None:
    raw = packed(b"envelope", b"payload")
    assert unpacked(raw, "it") == (b"envelope", b"payload")
    assert unpacked(packed(b"e", b""), "it").payload == b""


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(packed(b"envelope", b"payload")[: len(MAGIC) + 9], id="cut off"),
        pytest.param(b"x" + packed(b"envelope", b""), id="something before"),
        pytest.param(MAGIC + b"\xff\xff\xff\xff" + b"x" * 99, id="a length beyond all"),
        pytest.param(MAGIC.replace(b"1", b"2") + b"\0\0\0\0", id="a newer format"),
    ],
)
def test_a_file_that_is_none_of_a_head_is_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unpacked(raw, "it")
