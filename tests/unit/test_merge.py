"""One report of several sites says of each what its own says, and no more of all together."""

import math
from dataclasses import replace

import pytest
from tests.made import made_study

from dflmoe.cli.pilot import result_sentence
from dflmoe.pilot.arms import CONTROLS
from dflmoe.pilot.plan import Options
from dflmoe.pilot.run import run
from dflmoe.report.merge import merged
from dflmoe.report.render import render
from dflmoe.report.schema import Operation, Report

OPTIONS = Options(folds=2, repeats=1, resamples=200, only_split=0)


@pytest.fixture(scope="module")
def whole() -> Report:
    found = run(made_study(rows=120), OPTIONS, arms=tuple(CONTROLS))
    assert found is not None
    return found


def parts(whole: Report) -> list[Report]:
    return [whole.model_copy(update={"sites": [site]}) for site in whole.sites]


def test_one_split_tests_only_its_rows(whole: Report) -> None:
    every = run(made_study(rows=120), replace(OPTIONS, only_split=None), arms=())
    assert every is not None
    for one, all_ in zip(whole.sites, every.sites, strict=True):
        assert one.rows == pytest.approx(all_.rows / 2, abs=2)
        assert one.arms["fedavg"] is None
        assert one.arms["pooled"] is None
        assert one.arms["shuffled"] is not None
        assert one.safety is not None
        assert one.safety.rehearsal == []


def test_sites_stay_as_they_are_and_the_mean_is_theirs(whole: Report) -> None:
    found = merged(parts(whole))
    assert found.sites == whole.sites
    assert whole.mean.gain is not None
    assert found.mean.gain is not None
    assert found.mean.gain.value == pytest.approx(whole.mean.gain.value)
    for arm, value in whole.mean.arms.items():
        mine = found.mean.arms[arm]
        assert (mine is None) == (value is None)
        if mine is not None and value is not None:
            assert mine.value == pytest.approx(value.value)
    assert found.mean.rows == whole.mean.rows


def test_the_interval_of_a_mean_is_about_as_wide_as_that_of_its_rows(whole: Report) -> None:
    mine, theirs = merged(parts(whole)).mean.gain, whole.mean.gain
    assert mine is not None
    assert theirs is not None
    widths = [v.high - v.low for v in (mine, theirs) if v.high is not None and v.low is not None]
    assert widths[0] == pytest.approx(widths[1], rel=0.35)


def test_what_is_not_known_of_one_is_not_said_of_all(whole: Report) -> None:
    first, *others = whole.sites
    lacking = first.model_copy(
        update={
            "arms": {**first.arms, "shuffled": None},
            "control_gains": {k: v for k, v in first.control_gains.items() if k != "shuffled"},
        }
    )
    unsure = [s.model_copy(update={"gain": s.gain.model_copy(update={"low": None, "high": None})})
              for s in others if s.gain]  # fmt: skip
    found = merged(parts(whole.model_copy(update={"sites": [lacking, *unsure]})))
    assert found.mean.arms["shuffled"] is None
    assert "shuffled" not in found.mean.control_gains
    assert found.mean.gain is not None
    assert found.mean.gain.low is None
    assert found.mean.verdict in {"no gain shown", "too few cases"}


def test_what_was_played_otherwise_is_not_put_together(whole: Report) -> None:
    first, *others = parts(whole)
    with pytest.raises(ValueError, match="seed"):
        merged([first, *(one.model_copy(update={"seed": 9}) for one in others)])
    with pytest.raises(ValueError, match="in two"):
        merged([first, first])


def test_a_report_shows_how_its_nodes_ran(whole: Report) -> None:
    ran = Operation(
        site="north",
        rounds=5,
        sent_bytes=12345,
        received_bytes=0,
        peers={"south": "known"},
        missing={"south": "the cable is cut"},
        refused=2,
        outages=["no peer is connected"],
        seconds={"training alone": 1.5},
        audit_head=None,
    )
    told = merged(parts(whole)).model_copy(update={"operation": [ran]})
    shown = render(told)
    assert "A subset: at north nothing of south was there." in result_sentence(told)
    for words in (
        "12,345",
        "A subset.",
        "south (the cable is cut)",
        "Test fold 1 of 2",
        "training alone 1.5",
    ):
        assert words in shown
    assert "Rehearsal" not in shown
    assert not math.isnan(merged(parts(whole)).mean.gate_share["own"])
