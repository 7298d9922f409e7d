"""Hospitals found a federation, let others in, and part: by files, phone calls and signatures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tests.security import CHARTER, manifest
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.errors import (
    DflmoeError,
    EnvelopeError,
    FederationError,
    FingerprintError,
    HeadError,
    KeyFileError,
    NetworkError,
    ReplayError,
    RosterError,
    SecurityError,
)
from dflmoe.node.agreed import network_of, spec_of
from dflmoe.node.home import NEXT, OVERLAP, Home, read_limited
from dflmoe.security.keys import fingerprint, load_keys
from dflmoe.security.roster import RELAY, bundled
from dflmoe.wire.envelope import HEAD, seal
from dflmoe.wire.manifest import Manifest, now
from dflmoe.wire.parcel import packed
from dflmoe.wire.payload import digest, encode

RULES = """
name = "Hearts"
task = "heart disease"
classes = ["no", "yes"]
kind = "table"
shape = [4]
network = "plain"
"""


@dataclass(frozen=True)
class Country:
    """A few hospitals, each with a folder, and the files that travel between them."""

    folder: Path

    def run(self, site: str, *words: str) -> str:
        """Run a command at a site, in the folder where files are handed over."""
        result = CliRunner().invoke(app, [*words, "--home", str(self.folder / site)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def home(self, site: str) -> Home:
        return Home(self.folder / site)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def told(self, site: str) -> str:
        """What a site says on the phone."""
        return fingerprint(self.home(site).keys.public)

    def invited(self, site: str, by: str) -> str:
        """Invite a site, let it join, and return the file of its request."""
        self.run(by, "federation", "invite", site, "--out", self.file(f"{site}.invitation"))
        told, request = self.told(by), self.file(f"{site}.request")
        invitation = self.file(f"{site}.invitation")
        self.run(site, "federation", "join", invitation, "--fingerprint", told, "--out", request)
        return request

    def approved(self, request: str, site: str, first: str, second: str, *options: str) -> str:
        """Let two approvers sign a request, and return the file of the roster."""
        told = ("--fingerprint", self.told(site))
        proposal, roster = self.file("proposal"), self.file("roster")
        self.run(
            first, "federation", "approve", request, "--yes", "--out", proposal, *told, *options
        )
        self.run(second, "federation", "approve", proposal, "--yes", "--out", roster)
        return roster

    def updated(self, *sites: str) -> None:
        """Hand the roster to sites."""
        for site in sites:
            self.run(site, "federation", "update", self.file("roster"))

    def members(self, site: str) -> list[str]:
        """Who belongs, as a site sees it."""
        shown = json.loads(self.run(site, "federation", "show", "--json"))
        return [member["site"] for member in shown["members"]]


@pytest.fixture
def country(tmp_path: Path) -> Country:
    """Return a federation of ann and bob; cleo is not in it yet."""
    land = Country(tmp_path)
    for site in ("ann", "bob", "cleo"):
        land.run(site, "site", "init", site)
    (tmp_path / "charter.toml").write_text(RULES)
    land.run("ann", "federation", "create", land.file("charter.toml"))
    land.approved(land.invited("bob", "ann"), "bob", "ann", "bob")
    land.updated("ann")
    return land


def stored(home: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {p.name: p.read_bytes() for p in home.iterdir()}


def test_a_third_site_joins_by_the_word_of_both_and_sees_what_they_see(country: Country) -> None:
    untouched = stored(country.folder / "ann").keys()
    country.approved(country.invited("cleo", "bob"), "cleo", "bob", "ann")
    country.updated("bob", "cleo")
    assert [country.members(s) for s in ("ann", "bob", "cleo")] == [["ann", "bob", "cleo"]] * 3
    assert stored(country.folder / "ann").keys() == untouched
    shown = country.run("cleo", "federation", "show")
    assert "dials only" in shown
    assert json.loads(country.run("cleo", "site", "show", "--json"))["federation"] == "Hearts"
    assert "Hearts" in country.run("cleo", "site", "show")


def test_a_site_is_removed_by_two_and_the_third_learns_it(country: Country) -> None:
    country.approved(country.invited("cleo", "ann"), "cleo", "ann", "bob")
    country.updated("ann", "cleo")
    out = country.run(
        "ann", "federation", "remove", "cleo", "--yes", "--out", country.file("proposal")
    )
    assert "cleo no longer belongs." in out
    country.run(
        "bob", "federation", "approve", country.file("proposal"), "--yes",
        "--out", country.file("roster"),
    )  # fmt: skip
    country.updated("ann", "cleo")
    assert country.members("cleo") == ["ann", "bob"]
    with pytest.raises(FederationError, match="no longer belongs"):
        country.home("cleo").renew(now())


def test_a_relay_belongs_without_a_vote(country: Country) -> None:
    country.approved(country.invited("cleo", "ann"), "cleo", "ann", "bob", "--relay")
    country.updated("ann")
    members = json.loads(country.run("ann", "federation", "show", "--json"))["members"]
    assert [(m["role"], m["approves"]) for m in members if m["site"] == "cleo"] == [(RELAY, False)]


def test_a_roster_is_renewed(country: Country) -> None:
    country.run("bob", "federation", "renew", "--yes", "--out", country.file("proposal"))
    country.run(
        "ann", "federation", "approve", country.file("proposal"), "--yes",
        "--out", country.file("roster"),
    )  # fmt: skip
    country.updated("bob")
    roster = country.home("bob").roster(now())
    assert roster is not None
    assert roster.version == 2


def test_who_reads_a_proposal_may_say_no(country: Country) -> None:
    request, home = country.invited("cleo", "ann"), country.folder / "ann"
    words = ["federation", "approve", request, "--fingerprint", country.told("cleo")]
    before = stored(home)
    said_no = CliRunner().invoke(app, [*words, "--home", str(home)], input="n\n")
    assert said_no.exit_code == 1
    assert "cleo belongs as a site, and approves" in said_no.output
    assert stored(home) == before


def test_a_certificate_is_renewed_before_it_serves(country: Country) -> None:
    ann, old = country.home("ann"), country.home("ann").keys
    country.run("ann", "site", "renew", "--out", country.file("roster"))
    country.updated("bob")
    seen = country.home("bob").roster(now())
    assert seen is not None
    old_pem, new_pem = seen.members["ann"].card.certificates
    assert old_pem == old.pem
    assert ann.keys.pem == old_pem
    assert not ann.promote(now())
    assert ann.promote(old.certificate.not_valid_after_utc - OVERLAP + timedelta(seconds=1))
    assert ann.keys.pem == new_pem
    assert ann.keys.public == old.public
    assert not ann.promote(now())


def test_a_certificate_is_renewed_before_anybody_belongs_to_anything(country: Country) -> None:
    country.run("cleo", "federation", "create", country.file("charter.toml"))
    old = country.home("cleo").keys
    assert "next request" in country.run("cleo", "site", "renew")
    assert country.home("cleo").keys.pem != old.pem
    assert country.home("cleo").keys.public == old.public


def test_a_new_identity_serves_once_the_approvers_agreed(country: Country) -> None:
    country.approved(country.invited("cleo", "ann"), "cleo", "ann", "bob")
    country.updated("ann", "cleo")
    old = country.home("cleo").keys
    said = country.run("cleo", "site", "rotate", "--out", country.file("rotation"))
    assert country.home("cleo").keys.public == old.public
    told = said.split("Fingerprint: ")[1].strip()
    country.run(
        "ann", "federation", "approve", country.file("rotation"), "--yes",
        "--fingerprint", told, "--out", country.file("proposal"),
    )  # fmt: skip
    country.run(
        "bob", "federation", "approve", country.file("proposal"), "--yes",
        "--out", country.file("roster"),
    )  # fmt: skip
    country.updated("ann", "cleo")
    assert country.told("cleo") == told
    assert country.home("cleo").keys.pem == old.pem  # connections go on as they are
    roster = country.home("ann").roster(now())
    assert roster is not None
    assert set(roster.members["cleo"].keys) >= {old.public.keyid}
    assert len(roster.members["cleo"].keys) == 2


def test_a_fingerprint_that_does_not_match_stops_both_sides(country: Country) -> None:
    country.run("ann", "federation", "invite", "cleo", "--out", country.file("i"))
    before = stored(country.folder / "cleo")
    with pytest.raises(FingerprintError):
        country.run(
            "cleo", "federation", "join", country.file("i"), "--fingerprint", country.told("bob")
        )
    assert stored(country.folder / "cleo") == before
    request = country.invited("cleo", "ann")
    with pytest.raises(FingerprintError):
        country.run("ann", "federation", "approve", request, "--fingerprint", country.told("bob"))
    with pytest.raises(FingerprintError, match="call cleo"):
        country.run("ann", "federation", "approve", request)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(cut, id="cut off"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda raw: raw.replace(b"-1", b"-2"), id="a newer schema"),
        pytest.param(lambda raw: b"\xff" + raw, id="not UTF-8"),
        pytest.param(lambda raw: raw + b" " * 5 * 1024**2, id="huge"),
        pytest.param(lambda raw: raw.replace(b'"', b"'"), id="no JSON"),
    ],
)
@pytest.mark.parametrize("name", ["invitation", "request", "roster"])
def test_a_spoilt_file_is_refused_and_what_is_stored_stays(
    country: Country, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    request = country.invited("cleo", "ann")
    country.approved(request, "cleo", "ann", "bob")
    country.run("cleo", "federation", "update", country.file("roster"))
    path = {
        "invitation": country.file("cleo.invitation"),
        "request": request,
        "roster": country.file("roster"),
    }[name]
    Path(path).write_bytes(spoil(Path(path).read_bytes()))
    words, site = {
        "invitation": (("join", path, "--fingerprint", country.told("ann")), "dora"),
        "request": (("approve", path, "--fingerprint", country.told("cleo")), "ann"),
        "roster": (("update", path), "ann"),
    }[name]
    country.run("dora", "site", "init", "dora")
    before = stored(country.folder / site)
    with pytest.raises(SecurityError):
        country.run(site, "federation", *words)
    assert stored(country.folder / site) == before


def test_a_file_that_is_missing_is_refused(country: Country) -> None:
    with pytest.raises(EnvelopeError, match="cannot be read"):
        country.run("ann", "federation", "update", country.file("nowhere"))
    with pytest.raises(EnvelopeError, match="cannot be read"):
        read_limited(country.folder, "the folder")


def test_an_older_roster_is_refused_and_the_newer_stays(country: Country) -> None:
    old = Path(country.file("roster")).read_bytes()
    country.approved(country.invited("cleo", "ann"), "cleo", "ann", "bob")
    country.updated("ann")
    Path(country.file("roster")).write_bytes(old)
    with pytest.raises(ReplayError):
        country.updated("ann")
    assert country.members("ann") == ["ann", "bob", "cleo"]


def test_a_proposal_that_lacks_a_signature_is_no_roster(country: Country) -> None:
    request = country.invited("cleo", "ann")
    told, proposal = country.told("cleo"), country.file("proposal")
    country.run(
        "ann", "federation", "approve", request, "--fingerprint", told, "--yes", "--out", proposal
    )
    with pytest.raises(RosterError, match="1 more must approve"):
        country.run("bob", "federation", "update", proposal)


def test_nobody_founds_a_federation_alone_or_with_a_stranger(country: Country) -> None:
    for site in ("dora", "emil"):
        country.run(site, "site", "init", site)
    country.run("dora", "federation", "create", country.file("charter.toml"))
    dora = country.home("dora")
    with pytest.raises(RosterError, match="your own request"):
        dora.approve(dora.request().signed(), now())
    # emil founds with somebody else than the inviter, and offers that to the one who was invited
    country.invited("emil", "dora")
    stranger = country.home("ann").roster(now())
    assert stranger is not None
    with pytest.raises(RosterError, match="does not name the inviter"):
        country.home("emil").approve(stranger.bundle.signed(), now())
    with pytest.raises(RosterError, match="does not name the inviter"):
        country.home("emil").install(stranger.bundle, now())


def test_a_first_roster_counts_only_once_the_site_itself_has_signed(country: Country) -> None:
    country.run("dora", "site", "init", "dora")
    country.run("emil", "site", "init", "emil")
    country.run("dora", "federation", "create", country.file("charter.toml"))
    request = country.invited("emil", "dora")
    country.run(
        "dora", "federation", "approve", request, "--fingerprint", country.told("emil"), "--yes",
        "--out", country.file("proposal"),
    )  # fmt: skip
    proposal = bundled(Path(country.file("proposal")).read_bytes())
    with pytest.raises(RosterError, match="has not approved the first roster"):
        country.home("emil").install(proposal, now())


def test_a_site_belongs_to_one_federation(country: Country) -> None:
    with pytest.raises(FederationError, match="folder of its own"):
        country.run("ann", "federation", "create", country.file("charter.toml"))
    with pytest.raises(FederationError, match="belongs to no federation"):
        country.run("cleo", "federation", "show")
    with pytest.raises(FederationError, match="no federation"):
        country.home("cleo").rotate(now())
    country.run("cleo", "federation", "create", country.file("charter.toml"))
    with pytest.raises(FederationError, match="no roster yet"):
        country.run("cleo", "federation", "show")
    with pytest.raises(FederationError, match="no roster yet"):
        country.home("cleo").rotate(now())


def test_keys_are_never_replaced_and_a_folder_without_a_site_says_so(country: Country) -> None:
    before = stored(country.folder / "ann")
    with pytest.raises(KeyFileError, match="never replaced"):
        country.run("ann", "site", "init", "ann")
    assert stored(country.folder / "ann") == before
    with pytest.raises(KeyFileError, match="site init"):
        country.run("nowhere", "site", "show")


@pytest.mark.parametrize("name", ["../ann", "Ann", "", "a" * 64, "ann\n", "-ann", "été"])
def test_a_name_that_no_certificate_can_bear_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnvelopeError, match="small letters"):
        Home.made(tmp_path / "new", name, (), now())
    assert not (tmp_path / "new").exists()


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvelopeError, match="host:port"):
        Home.made(tmp_path / "new", "ann", ("fl.example.org",), now())


# --- heads ---

WEIGHTS = {"weight": torch.ones(1, 2, 4), "bias": torch.zeros(1, 2)}


def lent(country: Country, site: str, **changed: object) -> Path:
    """Write the file of a head that a site lends."""
    payload = encode(WEIGHTS)
    charter = country.home("ann").charter
    said = {
        "federation": charter.federation,
        "charter": charter.digest,
        "site": site,
        "size": len(payload),
        "payload": digest(payload),
    }
    one = manifest(**{**said, **changed})
    path = country.folder / "lent.head"
    path.write_bytes(packed(seal(one.signed(), HEAD, country.home(site).keys.signing), payload))
    return path


def test_a_head_is_shown_to_people_and_verified(country: Country) -> None:
    path = lent(country, "ann")
    shown = CliRunner().invoke(app, ["head", "show", str(path)])
    assert "not verified" in shown.output
    told = json.loads(CliRunner().invoke(app, ["head", "show", str(path), "--json"]).output)
    assert told["verified"] is False
    assert told["payload_matches"] is True
    assert [t["name"] for t in told["tensors"]] == ["bias", "weight"]
    assert Manifest.read(json.dumps(told["manifest"]).encode(), "it").site == "ann"
    assert "ann lent this head" in country.run("bob", "head", "verify", str(path))


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        pytest.param({"size": 9}, HeadError, id="another size"),
        pytest.param({"payload": "00" * 32}, HeadError, id="another digest"),
        pytest.param({"dtype": "int8"}, HeadError, id="another dtype"),
        pytest.param({"federation": "f" * 32}, FederationError, id="another federation"),
        pytest.param({"kind": "fits"}, HeadError, id="another kind"),
    ],
)
def test_a_head_that_is_not_what_it_says_is_refused(
    country: Country, changed: dict[str, object], error: type[DflmoeError]
) -> None:
    with pytest.raises(error):
        country.run("bob", "head", "verify", str(lent(country, "ann", **changed)))


def test_a_head_cannot_be_verified_without_a_roster(country: Country) -> None:
    path = lent(country, "ann")
    country.run("cleo", "federation", "create", country.file("charter.toml"))
    with pytest.raises(FederationError, match="no roster"):
        country.run("cleo", "head", "verify", str(path))


def test_a_charter_names_a_network_of_the_catalogue_and_brings_no_code() -> None:
    assert spec_of(CHARTER, manifest()).shapes == {"weight": (1, 2, 4), "bias": (1, 2)}
    averaged = CHARTER.model_copy(update={"exchange": "averaged"})
    assert spec_of(averaged, manifest(kind="fits")).shapes["1.bias"] == (1, 6, 2)
    assert spec_of(averaged, manifest(kind="fits")).leading == 2
    with pytest.raises(NetworkError):
        network_of(CHARTER.model_copy(update={"network": "nothing"}))


def test_a_name_that_no_site_can_have_is_not_invited(country: Country) -> None:
    with pytest.raises(EnvelopeError, match="no name of a site"):
        country.run("ann", "federation", "invite", "Oslo Uni", "--out", country.file("i"))


def test_a_new_identity_that_waits_is_not_lost_to_a_new_certificate(country: Country) -> None:
    country.run("bob", "site", "rotate", "--out", country.file("rotation"))
    for command in ("renew", "rotate"):
        with pytest.raises(KeyFileError, match="waits for the approvers"):
            country.run("bob", "site", command, "--out", country.file("again"))


def test_a_certificate_that_waits_stays_when_the_identity_is_rotated(country: Country) -> None:
    bob = country.home("bob")
    country.run("bob", "site", "renew", "--out", country.file("roster"))
    waiting = load_keys(bob.folder / NEXT)
    asked = bob.rotate(now())
    assert load_keys(bob.folder / NEXT).pem == waiting.pem
    assert asked.shown().certificates == (bob.keys.pem, waiting.pem)
