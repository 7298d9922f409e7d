"""The report says what the intervals say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.made import made_study

from dflmoe.errors import OutputError
from dflmoe.files import writable
from dflmoe.metrics.resampling import Interval
from dflmoe.pilot.cost import Prices
from dflmoe.pilot.plan import Options
from dflmoe.pilot.run import run, steps_of
from dflmoe.report.render import render, write
from dflmoe.report.schema import Report
from dflmoe.report.verdict import SENTENCES, verdict

OPTIONS = Options(folds=2, repeats=2, resamples=200)


@pytest.fixture(scope="module")
def report() -> Report:
    found = run(
        made_study(rows=48),
        OPTIONS,
        prices=Prices(per_decision=50.0, decisions=1000),
        curve=True,
    )
    assert found is not None
    return found


def say(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("gain", "control", "fewest", "word"),
    [
        pytest.param(say(0.01, 0.1), say(0.01, 0.1), 50, "gain", id="above both"),
        pytest.param(say(0.01, 0.1), say(-0.01, 0.1), 50, "capacity, not knowledge", id="control"),
        pytest.param(say(0.01, 0.1), None, 50, "capacity, not knowledge", id="no control"),
        pytest.param(say(-0.01, 0.1), say(0.01, 0.1), 50, "no gain shown", id="includes zero"),
        pytest.param(say(-0.1, -0.01), say(0.01, 0.1), 50, "harm", id="below zero"),
        pytest.param(say(0.01, 0.1), say(0.01, 0.1), 9, "too few cases", id="nine cases"),
        pytest.param(say(-0.1, -0.01), say(0, 0), 9, "too few cases", id="nine harmed"),
    ],
)
def test_a_verdict_is_computed_from_intervals(
    gain: Interval, control: Interval | None, fewest: int, word: str
) -> None:
    assert verdict(gain, control, fewest) == word
    assert word in SENTENCES


def test_the_contract_of_the_numbers(report: Report) -> None:
    numbers = json.loads(report.model_dump_json())
    for field in (
        "schema_version", "task", "metric", "seed", "folds", "repeats", "partial", "sites", "mean",
        "cost", "seconds", "versions",
    ):  # fmt: skip
        assert field in numbers
    for site in [*numbers["sites"], numbers["mean"]]:
        assert set(site["arms"]) == {
            "alone", "federated", "random_heads", "shuffled", "self", "fedavg", "pooled",
        }  # fmt: skip
        for arm in site["arms"].values():
            assert arm["low"] <= arm["value"] <= arm["high"]
        assert site["gain"]["value"] == pytest.approx(
            site["arms"]["federated"]["value"] - site["arms"]["alone"]["value"]
        )
        best = site["best_control"]
        assert site["control_gains"][best] == site["control_gain"]
        assert site["control_gain"]["value"] == pytest.approx(
            site["arms"]["federated"]["value"] - site["arms"][best]["value"]
        )
        assert best == max(
            ("random_heads", "shuffled", "self"), key=lambda a: site["arms"][a]["value"]
        )
        assert sum(site["gate_share"].values()) == pytest.approx(1, abs=1e-5)
        assert site["verdict"] in SENTENCES
    assert numbers["mean"]["arms"]["alone"]["value"] == pytest.approx(
        sum(s["arms"]["alone"]["value"] for s in numbers["sites"]) / 3
    )


def test_no_return_is_promised_without_a_gain(report: Report) -> None:
    money = report.cost.money
    assert money.value_per_site_year is not None
    promised = set(money.return_on_investment or {})
    assert promised == {s.name for s in report.sites if s.verdict == "gain"}
    net = report.sites[0].safety.net_correct_per_100 if report.sites[0].safety else None
    assert net is not None
    assert money.value_per_site_year["site0"].value == pytest.approx(net.value / 100 * 50 * 1000)


def test_decisions_that_change_add_up(report: Report) -> None:
    for site in report.sites:
        safe = site.safety
        assert safe is not None
        assert safe.newly_found is not None
        assert safe.newly_missed is not None
        assert safe.newly_alarmed is not None
        assert safe.newly_cleared is not None
        assert safe.net_correct_per_100 is not None
        net = safe.newly_found - safe.newly_missed + safe.newly_cleared - safe.newly_alarmed
        assert safe.net_correct_per_100.value == pytest.approx(100 * net / site.rows)


def test_the_rehearsal_covers_every_fault_and_every_other_site(report: Report) -> None:
    for site in report.sites[1:]:
        assert site.safety is not None
        assert [r.fault for r in site.safety.rehearsal] == ["silent", "tampered", "poisoned"]
        silent, tampered, _ = site.safety.rehearsal
        assert silent.cost == tampered.cost  # both are one head less
    assert report.sites[0].safety is not None
    assert not report.sites[0].safety.rehearsal


def test_the_curve_has_a_point_for_each_number_of_rows(report: Report) -> None:
    assert [p.train_rows for p in report.rows_curve] == [20, 40, 80, 160]


def test_the_page_is_one_file_that_asks_nobody_for_anything(report: Report) -> None:
    page = render(report)
    assert page.count("<svg") == 5
    assert "<script" not in page
    for asks in ('src="http', 'href="http', "url(http", "@import"):
        assert asks not in page
    for site in [*report.sites, report.mean]:
        assert SENTENCES[site.verdict] in page.replace("&#39;", "'")


def test_a_pilot_that_was_stopped_says_so() -> None:
    done: list[str] = []

    def stop_in_the_second_repeat(arm: str) -> None:
        done.append(arm)
        if done.count("federated") == 2:
            raise KeyboardInterrupt

    found = run(made_study(rows=40), OPTIONS, step=stop_in_the_second_repeat)
    assert found is not None
    assert found.partial
    assert found.repeats_done == 1
    assert any("Stopped early" in w for w in found.warnings)
    assert "Partial" in render(found)


def test_a_pilot_stopped_at_once_has_nothing_to_say() -> None:
    def stop(_arm: str) -> None:
        raise KeyboardInterrupt

    assert run(made_study(rows=40), OPTIONS, step=stop) is None


def test_steps_are_as_many_as_promised() -> None:
    done: list[str] = []
    run(made_study(rows=40, sites=2), OPTIONS, step=done.append)
    assert len(done) == steps_of(OPTIONS, curve=False)


def test_three_classes_have_no_operating_point() -> None:
    found = run(made_study(rows=60, sites=2, classes=3), Options(folds=2, repeats=1, resamples=100))
    assert found is not None
    assert found.metric == "macro AUC"
    assert found.sites[0].safety is not None
    assert found.sites[0].safety.newly_missed is None
    render(found)


def test_a_head_that_helps_nobody_is_named_and_a_good_one_is_not() -> None:
    study = made_study(rows=80, sites=3)
    misled = replace(study.sites[0], y=1 - study.sites[0].y)
    study = replace(study, sites=(misled, *study.sites[1:]))
    found = run(study, Options(folds=2, repeats=1, resamples=100))
    assert found is not None
    useless = [warning for warning in found.warnings if "helped nobody" in warning]
    assert len(useless) == 1
    assert misled.name in useless[0]
    for site in found.sites:
        assert set(site.head_worth) == {peer.name for peer in study.sites} - {site.name}
    assert found.sites[1].head_worth["site2"] > 0 > found.sites[1].head_worth["site0"]


def test_the_published_method_is_played_beside_its_controls() -> None:
    options = Options(folds=2, repeats=1, rounds=2, mode="paper", resamples=100)
    found = run(made_study(rows=40, sites=2), options)
    assert found is not None
    assert found.mode == "paper"
    assert found.sites[0].arms["random_heads"] is not None
    assert found.sites[0].safety is not None
    assert found.sites[0].safety.fallback_share == 0  # the publication has no guard


def test_the_same_seed_gives_the_same_numbers() -> None:
    def numbers(seed: int) -> dict[str, object]:
        options = Options(folds=2, repeats=1, seed=seed, resamples=100)
        found = run(made_study(rows=40, sites=2), options)
        assert found is not None
        plain = json.loads(found.model_dump_json(exclude={"seconds"}))
        del plain["cost"]["compute_hours_per_site"]
        return dict(plain)

    assert numbers(1) == numbers(1)
    assert numbers(1)["mean"] != numbers(2)["mean"]


def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_lost(
    tmp_path: Path, report: Report
) -> None:
    page = tmp_path / "report.html"
    write(report, page)
    before = page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 0
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(OutputError, match="file"):
        write(report, file / "report.html")
    with pytest.raises(OutputError, match="file"):
        writable(file / "folder")
    assert page.read_text() == before
    assert not list(tmp_path.glob(".report*"))
