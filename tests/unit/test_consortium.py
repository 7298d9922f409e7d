"""The consortium's report says what the shares say: sums, verdicts, who gives, what it costs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.security import FEDERATION, keys_of, roster_of
from typer.testing import CliRunner

from dflmoe.cli.main import app
from dflmoe.errors import OptionError, OutputError, ShareError, SignatureError, UnknownKeyError
from dflmoe.pilot.sharing import believed
from dflmoe.report.consortium import Absent, consortium
from dflmoe.report.money import Assumptions, running
from dflmoe.report.share import SHARE, Measured, Share, judged_by, large, read_share, weights
from dflmoe.report.together import INPUTS, page_of, printed, write
from dflmoe.wire.envelope import HEAD, seal

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
RUNNER = CliRunner()


def measured(value: float, reach: float = 0.05) -> Measured:
    return Measured(value=value, low=value - reach, high=value + reach)


def shared(site: str, **changed: object) -> Share:
    said: dict[str, object] = {
        "federation": FEDERATION,
        "charter": "c" * 64,
        "site": site,
        "at": NOON,
        "title": "Hearts",
        "task": "heart disease",
        "metric": "AUC",
        "rounds": 10,
        "rows": "100-199",
        "patients": 60,
        "fewest": 25,
        "alone": measured(0.8),
        "mixed": measured(0.85),
        "gain": measured(0.05, 0.04),
        "verdict": "not measured",
        "shares": {site: 1.0},
        "peers": {},
        "sent": 500_000,
        "received": 500_000,
        "head_bytes": 400,
        "days": 10.0,
        "seconds": 360.0,
        "software": "0.1.0",
    }
    return Share.model_validate({**said, **changed})


ANN = shared(
    "ann",
    shares={"ann": 0.6, "bob": 0.3, "cleo": 0.1},
    worth={"bob": 0.02, "cleo": -0.01},
    peers={"bob": "used", "cleo": "used", "dan": "known"},
    missing={"dan": "nothing was heard"},
)
BOB = shared(
    "bob",
    shares={"bob": 0.8, "ann": 0.2, "cleo": 0.0},
    worth={"ann": 0.04, "cleo": 0.0},
    peers={"ann": "used", "cleo": "lending", "dan": "reachable"},
    aside=("cleo",),
    gain=measured(-0.01, 0.02),
)


# --- what is told ---


def test_what_each_head_is_to_the_others_is_a_mean_over_those_who_shared() -> None:
    found = consortium([BOB, ANN])
    given = {one.site: one for one in found.given}
    assert given["ann"].weight == pytest.approx(0.2)
    assert given["ann"].worth == pytest.approx(0.04)
    assert given["cleo"].weight == pytest.approx(0.05)
    assert given["cleo"].worth == pytest.approx(-0.005)
    assert given["cleo"].borrowers == ["ann"]
    assert given["dan"].worth is None
    assert found.flows == {"ann": {"bob": 0.3, "cleo": 0.1}, "bob": {"ann": 0.2}}


def test_who_did_not_contribute_is_named_with_the_reason() -> None:
    found = consortium([ANN, BOB], members=["ann", "bob", "cleo", "dan", "eve"])
    assert found.silent == ["cleo", "dan", "eve"]
    assert found.absent == [
        Absent(site="dan", where="ann", why="nothing was heard"),
        Absent(site="dan", where="bob", why="it got as far as 'reachable'"),
        Absent(site="cleo", where="bob", why="its head was set aside on evidence of harm"),
    ]


def test_the_mean_gain_weighs_sites_alike_and_its_interval_adds_in_quadrature() -> None:
    found = consortium([ANN, BOB])
    assert found.mean_gain is not None
    assert found.mean_gain.value == pytest.approx(0.02)
    reach = (0.04**2 + 0.02**2) ** 0.5 / 2
    assert found.mean_gain.low == pytest.approx(0.02 - reach)
    assert found.mean_gain.high == pytest.approx(0.02 + reach)
    assert found.verdict == "no gain shown"


def test_without_a_control_no_gain_is_called_one() -> None:
    assert judged_by(measured(0.1), None, 50) == "not measured"
    assert judged_by(measured(0.1), measured(0.1), 50) == "gain"
    assert judged_by(measured(0.1), measured(0.0), 50) == "capacity, not knowledge"
    assert judged_by(measured(0.01), None, 50) == "no gain shown"
    assert judged_by(measured(-0.1), None, 50) == "harm"
    assert judged_by(measured(0.1), measured(0.1), None) == "too few cases"
    assert judged_by(None, None, 50) == "not measured"
    both = [shared(s, gain=measured(0.1), verdict="not measured") for s in ("ann", "bob")]
    found = consortium(both)
    assert found.verdict == "not measured"
    assert any("No controls were played" in note for note in found.notes)
    with_control = [s.model_copy(update={"control_gain": measured(0.1)}) for s in both]
    assert consortium(with_control).verdict == "gain"


def test_fairness_names_best_worst_and_whether_givers_gain() -> None:
    gains = {"ann": 0.1, "bob": 0.2, "cleo": 0.3, "dan": -0.1}
    shares = []
    for site, gain in gains.items():
        others = [name for name in gains if name != site]
        borrowed = dict(zip(others, (0.1, 0.1, 0.1), strict=True))
        borrowed |= {"cleo": 0.3} if site != "cleo" else {}
        borrowed |= {"dan": 0.0} if site != "dan" else {}
        shares.append(shared(site, gain=measured(gain), shares={site: 0.5, **borrowed}))
    found = consortium(shares).fairness
    assert found is not None
    assert found.best == ("cleo", 0.3)
    assert found.worst == ("dan", -0.1)
    assert found.spread == pytest.approx(0.4)
    assert found.better == 3
    assert found.givers is not None
    assert found.givers > 0.9
    few = consortium(shares[:3]).fairness
    assert few is not None
    assert few.givers is None
    assert consortium([shared("ann", gain=None)]).fairness is None


# --- small cells ---


@pytest.mark.parametrize("cell", ["patients", "fewest"])
def test_a_cell_of_fewer_than_five_patients_never_leaves_a_site(cell: str) -> None:
    with pytest.raises(ValidationError, match="fewer than 5"):
        shared("ann", **{cell: 4})
    assert shared("ann", **{cell: None}).model_dump()[cell] is None
    assert [large(n) for n in (None, 0, 4, 5)] == [None, None, None, 5]


def test_what_is_a_site_s_own_is_one_weight() -> None:
    told = {"ann": 0.4, "ann (own network)": 0.3, "bob": 0.3}
    assert weights("ann", told, ["bob", "cleo"]) == {"ann": pytest.approx(0.7), "bob": 0.3}


# --- money ---


def test_a_year_is_worked_out_by_hand() -> None:
    """Ten days: 10 heads, 0.1 h of computing, 1 MB; a year is 36.5 times as much."""
    assumed = Assumptions(
        staff_hours=10,
        staff_rate=50,
        machine=100,
        busy_watts=100,
        idle_watts=10,
        overhead=2,
        energy_price=0.5,
        carbon=0.2,
        energy_per_gb=1,
        value_of_a_point=100,
    )
    year = running(ANN, assumed)
    assert year.hours == pytest.approx(3.65)
    assert year.gigabytes == pytest.approx(0.0365)
    assert year.heads == pytest.approx(365)
    energy = 2 * (100 * 3.65 + 10 * 8760) / 1000 + 0.0365
    assert year.energy == pytest.approx(energy)
    assert year.carbon == pytest.approx(0.2 * energy)
    assert year.money == pytest.approx(500 + 100 + energy / 2)
    assert year.per_head == pytest.approx(year.money / 365)
    assert year.break_even == pytest.approx(year.money / 100)
    assert running(ANN, Assumptions()).break_even is None
    assert running(shared("ann", rounds=0), assumed).per_head is None


def test_less_than_a_day_is_told_as_a_day_and_said_so() -> None:
    short = shared("ann", days=0.001)
    assert running(short, Assumptions()).heads == pytest.approx(3650)
    assert any("less than a day" in note for note in consortium([short]).notes)


def test_a_reader_can_change_every_assumption() -> None:
    assert set(INPUTS) == set(Assumptions.model_fields) - {"currency"}


# --- who is believed ---


ROSTER = roster_of("ann", "bob")


def test_what_a_member_signed_is_believed() -> None:
    raw = seal(ANN.signed(), SHARE, keys_of("ann").signing)
    assert believed(raw, ROSTER, "it") == ANN


@pytest.mark.parametrize(
    ("raw", "error", "sentence"),
    [
        pytest.param(
            seal(ANN.signed(), SHARE, keys_of("bob").signing),
            ShareError,
            "says it is of ann, who did not sign it",
            id="forged by a member",
        ),
        pytest.param(
            seal(shared("eve").signed(), SHARE, keys_of("eve").signing),
            UnknownKeyError,
            "may not sign it",
            id="by a stranger",
        ),
        pytest.param(
            seal(shared("ann", federation="f" * 32).signed(), SHARE, keys_of("ann").signing),
            ShareError,
            "is of another federation",
            id="of another federation",
        ),
        pytest.param(
            seal(
                ANN.signed().replace(b"dflmoe-share-1", b"dflmoe-share-2"),
                SHARE,
                keys_of("ann").signing,
            ),
            ShareError,
            "newer than this version of dflmoe; upgrade it",
            id="by a newer version",
        ),
    ],
)
def test_what_must_not_be_believed_is_refused(
    raw: bytes, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        believed(raw, ROSTER, "it")


def test_what_was_changed_on_the_way_is_refused() -> None:
    table = json.loads(seal(ANN.signed(), SHARE, keys_of("ann").signing))
    other = json.loads(seal(BOB.signed(), SHARE, keys_of("ann").signing))
    raw = json.dumps({**table, "payload": other["payload"]}).encode()
    with pytest.raises(SignatureError, match="was changed after it was signed"):
        believed(raw, ROSTER, "it")
    with pytest.raises(Exception, match="another document"):
        believed(seal(ANN.signed(), HEAD, keys_of("ann").signing), ROSTER, "it")
    with pytest.raises(ShareError, match="cannot be read"):
        read_share(b"{}", "it")


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([], "no shared report was given"),
        ([ANN, ANN], "two of the reports are of ann"),
        ([ANN, shared("bob", federation="f" * 32)], "differ in their federation"),
        ([ANN, shared("bob", charter="d" * 64)], "differ in their charter"),
        ([ANN, shared("bob", metric="accuracy")], "differ in their metric"),
    ],
)
def test_reports_that_do_not_belong_together_are_refused(
    shares: list[Share], sentence: str
) -> None:
    with pytest.raises(ShareError, match=sentence):
        consortium(shares)


# --- the files ---


def test_the_page_escapes_what_sites_say() -> None:
    nasty = shared("ann", peers={"bob": "known"}, missing={"bob": "<script>alert(1)</script>"})
    page = page_of(consortium([nasty]))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "Nothing vouches for these numbers" in page


def test_the_command_takes_what_nobody_signed_only_if_told_so(tmp_path: Path) -> None:
    path = tmp_path / "ann.json"
    path.write_bytes(ANN.signed())
    other = tmp_path / "bob.json"
    other.write_bytes(BOB.signed())
    out = str(tmp_path / "out")
    arguments = ["report", "--federation", str(path), str(other), "--unsigned", "--out", out]
    said = RUNNER.invoke(app, [*arguments, "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["vouched"] is False
    told = RUNNER.invoke(app, arguments)
    assert "Mean gain of 2 sites: +0.020" in told.output
    assert json.loads((tmp_path / "out/federation.json").read_text())["schema_version"] == "1.0"


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (["--federation"], ShareError, "no shared report was given"),
        (["--federation", "--unsigned", "none.json"], Exception, "cannot be read"),
        (["--federation", "--unsigned", "README.md"], ShareError, "is no report.json"),
        (["--pdf"], OptionError, "go with --federation"),
        (["some.json"], OptionError, "go with --federation"),
        (["--federation", "--share", "x", "y"], OptionError, "do different things"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    arguments: list[str], error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    said = RUNNER.invoke(app, ["report", *arguments, "--out", str(tmp_path)])
    assert isinstance(said.exception, error)
    assert sentence in str(said.exception)


def test_without_a_browser_there_is_no_pdf_and_the_page_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match="there is none; install it"):
        write(consortium([ANN, BOB]), tmp_path / "out", pdf=True)
    assert (tmp_path / "out/federation.html").exists()
    with pytest.raises(OutputError):
        printed(tmp_path / "out/federation.html", tmp_path / "x.pdf")
