"""A roster goes forward by the word of enough approvers, and never back."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tests.security import CHARTER, NOW, agreed_by, asks, card_of, keys_of, roster_of
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from dflmoe.errors import (
    EnvelopeError,
    ExpiredError,
    FederationError,
    ReplayError,
    RosterError,
    SecurityError,
    UnknownKeyError,
)
from dflmoe.security.card import REQUEST_BYTES, Request, requested
from dflmoe.security.keys import fingerprint, new_keys
from dflmoe.security.proposal import (
    OVERLAP_DAYS,
    ROSTER_DAYS,
    founded,
    lacking,
    possessed,
    renewed,
    request,
    signed,
    with_card,
    with_key,
    with_site,
    without_site,
)
from dflmoe.security.roster import (
    GRACE_DAYS,
    ROSTER_BYTES,
    Bundle,
    Roster,
    agreed,
    bundled,
    changes,
    checked,
    proposed,
    root_of,
    trust_of,
)

TWO = roster_of("ann", "bob")
THREE = roster_of("ann", "bob", "cleo")
TRUST = trust_of(THREE.bundle)


def taken(bundle: Bundle, held: Roster = THREE, after_days: int = 0) -> Roster:
    return checked(bundle, trust_of(held.bundle), held=held, now=NOW + timedelta(days=after_days))


@given(st.integers(2, 50))
def test_a_majority_and_never_one_alone_decides(approvers: int) -> None:
    assert agreed(approvers) >= 2
    assert 2 * agreed(approvers) > approvers
    assert agreed(approvers) <= approvers


def test_two_sites_found_a_federation_together_and_it_grows() -> None:
    assert set(TWO.members) == {"ann", "bob"}
    assert set(THREE.members) == {"ann", "bob", "cleo"}
    assert THREE.version == TWO.version + 1
    assert THREE.charter == CHARTER
    assert THREE.threshold == 2
    for site in THREE.members:
        assert THREE.owner[keys_of(site).public.keyid] == site
        assert THREE.keys[keys_of(site).public.keyid] == keys_of(site).public
        assert keys_of(site).pem.encode() in THREE.certificates
        assert THREE.bearer[keys_of(site).pem] == site


def test_a_bundle_comes_back_as_it_was_written() -> None:
    assert bundled(THREE.raw) == THREE.bundle
    assert THREE.digest == hashlib.sha256(THREE.raw).hexdigest() != TWO.digest


def test_a_newcomer_takes_the_whole_chain_from_the_first_root() -> None:
    assert checked(THREE.bundle, TRUST, now=NOW).members == THREE.members


def test_a_site_joins_without_any_other_site_s_file_being_touched() -> None:
    after = taken(agreed_by(with_site(THREE, asks("dan"), NOW, approver=False), "ann", "bob"))
    assert set(after.members) == {*THREE.members, "dan"}
    assert not after.members["dan"].approver
    for site in THREE.members:
        assert after.bundle.cards[site] == THREE.bundle.cards[site]
        assert after.bundle.signed_cards[site] == THREE.bundle.signed_cards[site]


def test_one_approver_alone_mints_no_site() -> None:
    proposal = with_site(THREE, asks("mallory"), NOW, approver=False)
    assert lacking(proposal) == 2
    alone = agreed_by(proposal, "ann")
    assert lacking(alone) == 1
    with pytest.raises(RosterError, match="signed by 1/2 keys"):
        taken(alone)
    with pytest.raises(RosterError, match="signed by 1/2 keys"):
        taken(agreed_by(alone, "ann"))  # twice is not two
    with pytest.raises(RosterError, match="signed by 1/2 keys"):
        taken(agreed_by(alone, "mallory"))
    assert lacking(agreed_by(alone, "bob")) == 0


def test_a_newcomer_does_not_approve_itself() -> None:
    proposal = with_site(TWO, asks("mallory"), NOW)
    with pytest.raises(RosterError, match="signed by"):
        taken(agreed_by(proposal, "ann", "mallory"), TWO)


def test_a_signature_that_comes_late_changes_nothing() -> None:
    late = signed(THREE.bundle, keys_of("cleo").signing)
    assert taken(late).members == THREE.members


def test_a_removed_site_is_gone_and_its_key_with_it() -> None:
    after = taken(agreed_by(without_site(THREE, "cleo", NOW), "ann", "bob"))
    assert set(after.members) == {"ann", "bob"}
    assert keys_of("cleo").public.keyid not in after.keys
    assert keys_of("cleo").pem.encode() not in after.certificates
    back = with_site(after, asks("dan"), NOW)
    with pytest.raises(RosterError):
        taken(agreed_by(back, "cleo", "ann"), after)  # no longer an approver


def test_a_relay_belongs_and_does_not_decide() -> None:
    proposal = with_site(THREE, asks("relay"), NOW, approver=False, relay=True)
    after = taken(agreed_by(proposal, "ann", "cleo"))
    assert after.members["relay"].relay
    assert not after.members["relay"].approver
    left = taken(agreed_by(without_site(after, "relay", NOW), "ann", "bob"), after)
    assert set(left.members) == set(THREE.members)


def test_the_last_two_approvers_stay() -> None:
    with pytest.raises(RosterError, match="let another site approve first"):
        without_site(TWO, "bob", NOW)


def test_an_older_roster_is_not_gone_back_to() -> None:
    newer = taken(agreed_by(with_site(THREE, asks("dan"), NOW, approver=False), "ann", "bob"))
    with pytest.raises(ReplayError, match="version"):
        taken(THREE.bundle, newer)
    with pytest.raises(ReplayError, match="chain of roots"):
        taken(TWO.bundle)


def test_two_rosters_of_one_version_are_told_as_a_theft() -> None:
    one = agreed_by(with_site(THREE, asks("dan"), NOW, approver=False), "ann", "bob")
    other = agreed_by(with_site(THREE, asks("eve"), NOW, approver=False), "ann", "bob")
    with pytest.raises(RosterError, match="stolen"):
        taken(other, taken(one))


def test_another_federation_s_roster_is_refused() -> None:
    bundle = agreed_by(founded(CHARTER, asks("ann"), asks("cleo"), NOW), "ann", "cleo")
    with pytest.raises(FederationError):
        taken(bundle)


def test_an_expired_roster_admits_nothing_new_and_what_is_held_goes_on() -> None:
    proposal = agreed_by(with_site(THREE, asks("dan"), NOW, approver=False), "ann", "bob")
    late = ROSTER_DAYS + 1
    with pytest.raises(ExpiredError, match="federation renew"):
        taken(proposal, after_days=late)
    with pytest.raises(ExpiredError):
        checked(THREE.bundle, TRUST, now=NOW + timedelta(days=late))
    assert taken(THREE.bundle, after_days=late).standing(NOW + timedelta(days=late)) == "grace"
    assert THREE.standing(NOW) == "valid"
    assert THREE.standing(NOW + timedelta(days=ROSTER_DAYS + GRACE_DAYS + 1)) == "lapsed"


def test_a_renewed_roster_says_the_same_for_longer() -> None:
    when = NOW + timedelta(days=100)
    after = taken(agreed_by(renewed(THREE, when), "bob", "cleo"), after_days=100)
    assert after.members == THREE.members
    assert after.expires == when + timedelta(days=ROSTER_DAYS)


def test_a_site_renews_its_certificate_by_itself() -> None:
    keys = new_keys("bob", NOW, keys_of("bob"))
    newer = request(card_of("bob", keys, endpoints=("bob.example:443",)), keys, version=2)
    after = taken(with_card(THREE, newer))
    assert after.members["bob"].card.endpoints == ("bob.example:443",)
    assert after.version == THREE.version
    # and of two peers who each know something newer, each learns from the other
    other_keys = new_keys("ann", NOW, keys_of("ann"))
    other = with_card(THREE, request(card_of("ann", other_keys), other_keys, version=2))
    both = taken(other, after)
    assert both.members["bob"].card == after.members["bob"].card
    assert both.members["ann"].card.certificates == (other_keys.pem,)


def test_nobody_changes_the_card_of_another() -> None:
    forged = request(card_of("bob", keys_of("mallory", 1), certificates=(keys_of("bob").pem,)),
                     keys_of("mallory", 1), version=2)  # fmt: skip
    with pytest.raises(RosterError, match="not signed with its key"):
        taken(with_card(THREE, forged))
    with pytest.raises(RosterError, match="no site"):
        with_card(THREE, asks("mallory"))


def rotated(site: str, days: int = 0) -> tuple[Roster, str]:
    """Return the roster after a site has a new key, and its id."""
    keys = new_keys(site, NOW)
    asked = request(card_of(site, keys), keys, version=2, old=keys_of(site).signing)
    bundle = with_key(THREE, asked, NOW)
    for signer in ("ann", "bob"):
        bundle = signed(bundle, keys_of(signer).signing)
    if site in {"ann", "bob"}:
        bundle = signed(bundle, keys.signing)
    return taken(bundle, after_days=days), keys.public.keyid


@pytest.mark.parametrize("site", ["ann", "cleo"])
def test_two_keys_overlap_while_one_is_rotated_and_the_old_one_retires(site: str) -> None:
    after, new = rotated(site)
    assert set(after.members[site].keys) == {new, keys_of(site).public.keyid}
    assert after.members[site].approver
    later, new = rotated(site, days=OVERLAP_DAYS + 1)
    assert set(later.members[site].keys) == {new}


def test_a_relay_stays_a_relay_when_its_key_is_rotated() -> None:
    proposal = with_site(THREE, asks("relay"), NOW, approver=False, relay=True)
    held = taken(agreed_by(proposal, "ann", "bob"))
    keys = new_keys("relay", NOW)
    asked = request(card_of("relay", keys), keys, version=2, old=keys_of("relay").signing)
    after = taken(agreed_by(with_key(held, asked, NOW), "ann", "cleo"), held)
    assert after.members["relay"].relay
    assert len(after.members["relay"].keys) == 2


def test_a_new_key_needs_the_word_of_the_old_one() -> None:
    keys = new_keys("cleo", NOW)
    with pytest.raises(UnknownKeyError, match="not vouched for"):
        with_key(THREE, request(card_of("cleo", keys), keys, version=2), NOW)


def test_a_site_does_not_count_twice_while_its_key_is_rotated() -> None:
    after, _ = rotated("ann")
    root = root_of(after.bundle.roots[-1]).signed
    assert len(root.roles["root"].keyids) == 3


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param(asks("ann"), RosterError, id="a name that is there"),
        pytest.param(asks("dan", federation="f" * 32), FederationError, id="another federation"),
        pytest.param(asks("snapshot"), RosterError, id="a name of the framework"),
        pytest.param(
            asks("dan").model_copy(update={"key": asks("eve").key}), UnknownKeyError, id="other key"
        ),
        pytest.param(
            asks("dan").model_copy(update={"card": asks("eve").card}),
            EnvelopeError,
            id="other card",
        ),
        pytest.param(
            asks("dan").model_copy(update={"signed_card": "{}"}), EnvelopeError, id="no metadata"
        ),
        pytest.param(
            asks("dan").model_copy(update={"signed_card": asks("eve").signed_card}),
            EnvelopeError,
            id="the signature of another card",
        ),
        pytest.param(
            asks("dan", certificates=(keys_of("eve").pem,)),
            EnvelopeError,
            id="another's certificate",
        ),
        pytest.param(asks("dan", certificates=("-----",)), EnvelopeError, id="no certificate"),
    ],
)
def test_a_request_that_does_not_hold_is_not_proposed(
    asked: Request, error: type[SecurityError]
) -> None:
    with pytest.raises(error):
        with_site(THREE, asked, NOW)


def test_a_request_is_read_as_it_was_written_and_limited() -> None:
    asked = asks("dan")
    assert requested(asked.signed()) == asked
    assert possessed(asked) == asked.shown()
    with pytest.raises(EnvelopeError, match="limit"):
        requested(b" " * (REQUEST_BYTES + 1))
    with pytest.raises(EnvelopeError, match="limit"):
        bundled(b" " * (ROSTER_BYTES + 1))
    with pytest.raises(EnvelopeError, match="cannot be read"):
        bundled(b"{}")


def edited(change: Callable[[dict[str, object]], object]) -> str:
    """Return the targets with something changed that is still signed as before."""
    table = json.loads(THREE.bundle.targets)
    change(table["signed"])
    return json.dumps(table)


def no_charter(signed_part: dict[str, object]) -> None:
    signed_part["targets"] = {}


def no_delegations(signed_part: dict[str, object]) -> None:
    del signed_part["delegations"]


B = THREE.bundle
PATH = "sites/ann.json"


def said_by_ann(text: bytes) -> Bundle:
    """Return the roster with a card that ann signed, whatever it says."""
    file = TargetFile.from_data(PATH, text, ["sha256"])
    own = Metadata(Targets(2, expires=NOW, targets={PATH: file}))
    own.sign(CryptoSigner(keys_of("ann").signing))
    said = {
        "cards": {**B.cards, "ann": text.decode()},
        "signed_cards": {**B.signed_cards, "ann": own.to_bytes().decode()},
    }
    return B.model_copy(update=said)


def without(named: dict[str, str], site: str) -> dict[str, str]:
    return {name: text for name, text in named.items() if name != site}


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(B.model_copy(update={"targets": "{"}), id="targets cut"),
        pytest.param(B.model_copy(update={"roots": ("{}",)}), id="no root"),
        pytest.param(B.model_copy(update={"roots": B.roots[::-1]}), id="roots turned round"),
        pytest.param(B.model_copy(update={"roots": (B.roots[0], B.targets)}), id="targets as root"),
        pytest.param(B.model_copy(update={"targets": B.roots[0]}), id="a root as targets"),
        pytest.param(B.model_copy(update={"roots": (B.roots[0], B.roots[0])}), id="a root twice"),
        pytest.param(B.model_copy(update={"roots": B.roots[:1]}), id="a root missing"),
        pytest.param(B.model_copy(update={"charter": B.charter + " "}), id="charter changed"),
        pytest.param(B.model_copy(update={"targets": edited(no_charter)}), id="no charter"),
        pytest.param(B.model_copy(update={"targets": edited(no_delegations)}), id="nobody"),
        pytest.param(B.model_copy(update={"cards": {}}), id="no cards"),
        pytest.param(
            B.model_copy(
                update={
                    "cards": without(B.cards, "ann"),
                    "signed_cards": without(B.signed_cards, "ann"),
                }
            ),
            id="a card missing",
        ),
        pytest.param(
            B.model_copy(update={"cards": {**B.cards, "ann": B.cards["bob"]}}), id="cards swapped"
        ),
        pytest.param(B.model_copy(update={"cards": {**B.cards, "zoe": "x"}}), id="a card more"),
        pytest.param(
            B.model_copy(update={"signed_cards": {**B.signed_cards, "ann": "{"}}), id="card cut"
        ),
        pytest.param(
            B.model_copy(update={"targets": edited(lambda s: s.update(version=99))}), id="version"
        ),
        pytest.param(
            B.model_copy(
                update={"targets": edited(lambda s: s.update(expires="2099-01-01T00:00:00Z"))}
            ),
            id="expiry",
        ),
    ],
)
def test_an_edited_roster_is_refused(bundle: Bundle) -> None:
    with pytest.raises(SecurityError):
        checked(bundle, TRUST, now=NOW)
    with pytest.raises(SecurityError):
        taken(bundle)


def founding(change: Callable[[dict[str, Any]], object], *signers: str) -> Bundle:
    """Return a first roster of ann and bob whose root was changed before anybody signed it."""
    bundle = founded(CHARTER, asks("ann"), asks("bob"), NOW)
    table = json.loads(bundle.roots[0])
    change(table["signed"])
    return agreed_by(bundle.model_copy(update={"roots": (json.dumps(table),)}), *signers)


def one_decides(root: dict[str, Any]) -> None:
    for role in root["roles"].values():
        role["threshold"] = 1


def one_key_with_two_names(root: dict[str, Any]) -> None:
    ann = keys_of("ann").public
    root["keys"] = {ann.keyid: ann.to_dict(), "f" * 64: ann.to_dict()}
    for role in root["roles"].values():
        role["keyids"] = [ann.keyid, "f" * 64]


def hidden_approver(root: dict[str, Any]) -> None:
    mallory = keys_of("mallory").public
    root["keys"][mallory.keyid] = mallory.to_dict()
    for role in root["roles"].values():
        role["keyids"].append(mallory.keyid)


def key_of_another_kind(root: dict[str, Any]) -> None:
    pem = (
        keys_of("ann")
        .tls.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    key = {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": pem.decode()}}
    root["keys"][keys_of("ann").public.keyid] = key


def others_decide_on_targets(root: dict[str, Any]) -> None:
    root["roles"]["targets"]["keyids"].reverse()
    root["roles"]["targets"]["keyids"].pop()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(one_decides, "1 of 2 keys", id="one decides"),
        pytest.param(one_key_with_two_names, "another name", id="one key with two names"),
        pytest.param(hidden_approver, "of no member", id="an approver that is no member"),
        pytest.param(key_of_another_kind, "no Ed25519 key", id="a key of another kind"),
        pytest.param(others_decide_on_targets, "different matters", id="not all roles alike"),
    ],
)
def test_a_root_that_hides_who_decides_is_refused_and_not_even_shown(
    change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    bundle = founding(change, "ann", "bob")
    with pytest.raises(RosterError, match=sentence):
        proposed(bundle, NOW)
    with pytest.raises(RosterError):
        checked(bundle, trust_of(bundle), now=NOW)


def test_a_retiring_key_signs_no_newer_card() -> None:
    after, _ = rotated("cleo")
    old = keys_of("cleo")
    late = request(card_of("cleo", old), old, version=9)
    with pytest.raises(RosterError, match="not signed with its key"):
        taken(with_card(after, late), after)


def test_a_site_that_comes_back_under_its_name_is_not_held_to_its_old_card() -> None:
    keys = new_keys("cleo", NOW, keys_of("cleo"))
    held = taken(with_card(THREE, request(card_of("cleo", keys), keys, version=7)))
    gone = taken(agreed_by(without_site(held, "cleo", NOW), "ann", "bob"), held)
    anew = new_keys("cleo", NOW)
    asked = request(card_of("cleo", anew), anew)
    back = agreed_by(with_site(gone, asked, NOW, approver=False), "ann", "bob")
    assert set(taken(back, held).members["cleo"].keys) == {anew.public.keyid}


def test_what_a_bundle_is_padded_with_is_not_stored() -> None:
    newer = agreed_by(with_site(THREE, asks("dan"), NOW, approver=False), "ann", "bob")
    padded = newer.model_copy(update={"targets": newer.targets + " " * 100_000})
    padded = agreed_by(padded, "mallory")
    assert len(taken(padded).bundle.signed()) <= len(taken(newer).bundle.signed())
    assert taken(padded).bundle == taken(newer).bundle


def test_a_card_that_would_fill_the_roster_is_refused() -> None:
    text = card_of("ann").signed() + b" " * ROSTER_BYTES
    with pytest.raises(RosterError, match="more than"):
        taken(said_by_ann(text))


def test_a_relay_does_not_decide_whatever_a_proposal_says() -> None:
    with pytest.raises(RosterError, match="would decide"):
        proposed(with_site(THREE, asks("relay"), NOW, approver=True, relay=True), NOW)


def test_two_cards_of_one_version_end_in_one_everywhere() -> None:
    cards = []
    for _ in range(2):
        keys = new_keys("bob", NOW, keys_of("bob"))
        cards.append(with_card(THREE, request(card_of("bob", keys), keys, version=2)))
    one, other = (taken(bundle) for bundle in cards)
    assert taken(other.bundle, one).bundle == taken(one.bundle, other).bundle


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"wrapping": "00" * 32}, id="a wrapping key of low order"),
        pytest.param({"certificates": (keys_of("dan").pem.rstrip(),)}, id="no line's end"),
        pytest.param({"certificates": (keys_of("dan").pem * 2,)}, id="two in one"),
        pytest.param({"certificates": (keys_of("dan").pem[:-60] + "\n",)}, id="cut off"),
    ],
)
def test_a_card_that_would_harm_others_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError):
        with_site(THREE, asks("dan", **more), NOW)


def test_a_root_that_skips_a_version_is_refused() -> None:
    bundle = renewed(THREE, NOW)
    root = Metadata[Root].from_bytes(bundle.roots[-1].encode())
    root.signed.version += 1
    skipped = bundle.model_copy(update={"roots": (*bundle.roots[:-1], root.to_bytes().decode())})
    with pytest.raises(RosterError, match="root 3 of the roster has version 4"):
        taken(agreed_by(skipped, "ann", "bob"))


def test_two_sites_cannot_have_one_key() -> None:
    twin = request(card_of("twin", new_keys("twin", NOW, keys_of("ann"))), keys_of("ann"))
    bundle = with_site(THREE, twin, NOW, approver=False)
    with pytest.raises(RosterError, match="one key"):
        taken(agreed_by(bundle, "ann", "bob"))


def test_a_card_for_another_federation_is_refused() -> None:
    stray = request(card_of("ann", federation="f" * 32), keys_of("ann"), version=2)
    with pytest.raises(RosterError, match="another federation"):
        taken(with_card(THREE, stray))


def test_a_card_that_its_site_did_not_sign_is_refused() -> None:
    own = json.loads(asks("ann").signed_card)
    own["signed"]["targets"] = {}
    with pytest.raises(RosterError):
        checked(
            B.model_copy(update={"signed_cards": {**B.signed_cards, "ann": json.dumps(own)}}),
            TRUST,
            now=NOW,
        )


def test_a_site_cannot_speak_for_another_on_its_own_card() -> None:
    text = card_of("bob").signed()
    with pytest.raises(RosterError, match="the card of ann is of bob"):
        taken(said_by_ann(text))


def test_a_proposal_is_told_in_sentences_before_anybody_signs_it() -> None:
    news = changes(THREE, proposed(with_site(THREE, asks("dan"), NOW), NOW))
    assert any("dan belongs as a site, and approves" in one for one in news)
    assert any(fingerprint(keys_of("dan").public) in one for one in news)
    assert "3 must agree" in news[-1]
    founded_news = changes(None, TWO)
    assert "founded" in founded_news[0]
    gone = changes(THREE, proposed(without_site(THREE, "cleo", NOW), NOW))
    assert "cleo no longer belongs." in gone
    relay = proposed(with_site(THREE, asks("relay"), NOW, approver=False, relay=True), NOW)
    assert any("relay belongs as a relay;" in one for one in changes(THREE, relay))
    other, _ = rotated("cleo")
    assert any("cleo has other keys" in one for one in changes(THREE, other))
    passing = replace(THREE.members["cleo"], relay=True)
    moved = replace(THREE, members={**THREE.members, "cleo": passing})
    assert "cleo becomes a relay." in changes(THREE, moved)
    assert "cleo becomes a site." in changes(moved, THREE)
    quiet = replace(THREE.members["cleo"], approver=False)
    after = replace(THREE, members={**THREE.members, "cleo": quiet})
    assert "cleo no longer approves." in changes(THREE, after)
    assert "cleo approves." in changes(after, THREE)
    ruled = replace(THREE, charter=CHARTER.model_copy(update={"min_rows": 99}))
    assert "The charter is another." in changes(THREE, ruled)
