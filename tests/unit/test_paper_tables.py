"""The paper's tables: on its own sets where they are, else on others, and as published or not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dflmoe.bench.experiment import Condition, Experiment, RunSetting, load
from dflmoe.bench.federation import Federation, federation
from dflmoe.bench.methods import title
from dflmoe.bench.page import write_paper, write_paper_docs
from dflmoe.bench.paper import PaperSummary, beside, published, standings
from dflmoe.bench.runner import plan
from dflmoe.bench.summary import Figure, MethodRow, Summary, TaskTable, Verdict
from dflmoe.data.published import LAYOUTS

TABLES = ("paper_same", "paper_different", "paper_eight")


def slides(root: Path, patients: int = 12) -> Path:
    """Write some pictures of each patient, named as BreaKHis names them."""
    rng = np.random.default_rng(0)
    for patient in range(patients):
        what = "BM"[patient % 2]
        folder = root / "breakhis/BreaKHis_v1/histology_slides/breast" / what
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            name = f"SOB_{what}_A-14-{patient:05}-40-{number:03}.png"
            Image.fromarray(pixels).save(folder / name)
    return root


@pytest.mark.parametrize("name", TABLES)
def test_where_a_set_is_not_at_hand_another_is_played_and_named(name: str, tmp_path: Path) -> None:
    experiment = load(name)
    for setting in plan(experiment, quick=False, root=tmp_path):
        wanted = experiment.task(setting.task_name)
        assert setting.task.stands_for == wanted.set
        assert setting.task.set != wanted.set
        assert setting.task.stand_in is None


def test_a_set_that_is_at_hand_is_played_as_it_is(tmp_path: Path) -> None:
    slides(tmp_path)
    settings = plan(load("paper_same"), quick=False, root=tmp_path)
    sets = {setting.task_name: setting.task for setting in settings}
    assert (sets["breast"].set, sets["breast"].stands_for) == ("breakhis", None)
    assert (sets["tissue"].set, sets["tissue"].stands_for) == ("breakhis_sr", None)
    assert sets["stages"].stands_for == "sleep_edf"


def dealt(root: Path, condition: Condition) -> Federation:
    experiment = Experiment.model_validate(
        {
            "name": "protocol",
            "title": "Protocol",
            "question": "Who is where?",
            "tasks": ["slides"],
            "methods": ["local"],
            "own_tasks": {
                "slides": {
                    "set": "breakhis",
                    "title": "Slides",
                    "partition": {"kind": "resolution", "factors": [1, 2]},
                    "networks": ["resnet5"],
                    "side": 8,
                    "anchors": 4,
                    "inner_folds": 2,
                    "test_ratio": 0.3,
                }
            },
        }
    )
    task = experiment.task("slides")
    return federation(
        RunSetting(
            experiment="protocol",
            task_name="slides",
            task=task,
            method="local",
            condition=condition,
            seed=0,
            quick=False,
            version="",
        ),
        slides(root),
    )


def test_as_published_every_site_has_all_pictures_and_patients_are_divided(tmp_path: Path) -> None:
    sites = dealt(tmp_path, Condition(as_published=True))
    sharp, coarse = sites.data.values()
    boxes = sharp.x[0].unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    assert boxes.allclose(coarse.x[0, ..., ::2, ::2], atol=1e-6)
    for name, data in sites.data.items():
        tested = data.crossfit.fold[0] < 0
        people = sites.patient[name]
        assert set(people[tested.numpy()]) & set(people[~tested.numpy()])


def test_else_no_patient_is_divided_between_sites_or_within_one(tmp_path: Path) -> None:
    sites = dealt(tmp_path, Condition())
    first, second = sites.patient.values()
    assert not set(first) & set(second)
    for name, data in sites.data.items():
        tested = (data.crossfit.fold[0] < 0).numpy()
        assert not set(sites.patient[name][tested]) & set(sites.patient[name][~tested])


def row(method: str, score: float, verdict: Verdict | None, sent: float) -> MethodRow:
    number = Figure(value=score, low=None, high=None)
    return MethodRow(
        method=method,
        title=title(method),
        paper="",
        needs=(),
        score=number,
        gain=number,
        against=number,
        verdict=verdict,
        scores={},
        site_bytes=sent,
        rounds=1,
        heads_used=None,
        seconds=1.0,
        seeds=5,
    )


def table(*rows: MethodRow, task: str = "breast", stands_for: str | None = None) -> TaskTable:
    return TaskTable(
        task=task,
        title=task,
        condition="",
        metric="accuracy",
        unit=100,
        grouped_by="patient",
        sites=2,
        train_rows=10,
        public_rows=0,
        networks=("mlp",),
        patients=20,
        stands_for=stands_for,
        rows=rows,
    )


def summary(name: str, *tables: TaskTable) -> Summary:
    return Summary(
        name=name,
        title=name,
        question="",
        reference=title("rounds"),
        quick=False,
        planned=sum(len(one.rows) for one in tables) * 5,
        tables=tables,
        failures=(),
        software=(),
        compute_hours=1.0,
    )


def test_methods_are_ranked_by_those_they_score_above_and_controls_are_not() -> None:
    first = table(
        row("local", 70, "worse", 0),
        row("rounds", 80, None, 100),
        row("fedrep", 70, "level", 10_000),
        row("rounds_random", 99, "better", 100),
    )
    second = table(
        row("local", 60, "level", 0),
        row("rounds", 50, None, 400),
        row("fedrep", 65, "better", 1),
        row("ditto", 40, "level", 1),
    )
    stand = standings(summary("paper_same", first, second))
    got = [(one.rank, one.title, one.above, one.wins, one.ties, one.losses) for one in stand.rows]
    assert got == [
        (1, title("rounds"), pytest.approx((1 + 1 / 3) / 2, abs=1e-4), 0, 0, 0),
        (2, title("fedrep"), pytest.approx((1 / 4 + 1) / 2, abs=1e-4), 0, 1, 1),
        (3, title("local"), pytest.approx((1 / 4 + 2 / 3) / 2, abs=1e-4), 1, 1, 0),
        (4, title("ditto"), 0.0, 0, 1, 0),
    ]
    sent = {one.title: one.site_bytes for one in stand.rows}
    assert sent[title("local")] == 0
    assert sent[title("rounds")] == pytest.approx(200)  # the geometric mean


def test_ours_stands_beside_what_was_published_and_what_was_not_played_says_so() -> None:
    played = table(
        row("local", 60, "level", 0),
        row("paper", 63, "level", 9),
        row("rounds", 65, None, 9),
        stands_for="breakhis",
    )
    every = {name: summary(name) for name in published().experiments}
    every["paper_same"] = summary("paper_same", played)
    found = beside(every)
    first, *others = found.beside
    assert first.stands_for == "breakhis"
    local, rival, ours = first.cells
    assert (local.published, local.score) == (72.58, played.rows[0].score)
    assert (rival.method, rival.score, rival.seeds) == (title("mh_pflid"), None, 0)
    assert ours.published_gain == pytest.approx(10.61)
    assert [row.method for row in first.ours] == ["rounds"]
    assert all(other.played is None for other in others)
    assert [one.name for one in found.standings] == ["paper_same"]


def test_every_published_table_is_one_that_an_experiment_plays() -> None:
    for wanted in published().tables:
        experiment = load(wanted.experiment)
        assert wanted.task in experiment.tasks
        assert wanted.condition in {condition.name for condition in experiment.conditions}
        planned = plan(experiment, quick=False, tasks=[wanted.task])
        assert wanted.scores.keys() <= {setting.method for setting in planned}, wanted.title


def test_what_is_left_out_of_a_task_is_played_when_it_is_asked_for() -> None:
    experiment, task = load("paper_same"), "breast"
    assert "rounds_self" in experiment.methods
    planned = {s.method for s in plan(experiment, quick=False, tasks=[task])}
    assert planned == set(experiment.methods) - {"rounds_self"}
    asked = plan(experiment, quick=False, tasks=[task], methods=["rounds_self"])
    assert {s.method for s in asked} == {"rounds_self"}


def test_what_stands_in_never_stands_in_for_itself() -> None:
    for name in published().experiments:
        experiment = load(name)
        for task in experiment.tasks:
            setting = experiment.task(task)
            assert setting.stand_in is not None
            assert setting.stand_in["set"] not in LAYOUTS


def test_the_page_shows_ranks_both_numbers_and_the_remark(tmp_path: Path) -> None:
    every = {name: summary(name) for name in published().experiments}
    rows = (row("local", 60, "level", 0), row("rounds", 65, None, 9))
    every["paper_same"] = summary("paper_same", table(*rows, stands_for="breakhis"))
    found = beside(every)
    page = write_paper(found, tmp_path)
    text = page.read_text(encoding="utf-8")
    counted = "Of 1 comparisons ours wins 0, ties 1 and loses 0"
    for shown in ("7,909", "72.58", "for breakhis", "<svg", "above others", "not played", counted):
        assert shown in text
    assert "<script" not in text
    assert PaperSummary.model_validate_json(page.with_suffix(".json").read_bytes()) == found
    write_paper_docs(found, tmp_path / "docs" / "paper.md", "make it")
    assert (tmp_path / "docs" / "paper-paper_same.svg").is_file()
    document = (tmp_path / "docs" / "paper.md").read_text(encoding="utf-8")
    assert "in place of `breakhis`" in document
    assert counted in document
