"""The paper's tables: on its own sets where they are, else on others, and as published or not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dflmoe.bench.experiment import Condition, Experiment, RunSetting, load
from dflmoe.bench.federation import Federation, federation
from dflmoe.bench.runner import plan

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
