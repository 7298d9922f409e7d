"""What a condition changes for all methods alike: a liar, who leaves, public rows and bodies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.made import experiment, planned
from torch import Tensor

from dflmoe.bench import runner
from dflmoe.bench.experiment import RunSetting
from dflmoe.bench.federation import federation
from dflmoe.bench.play import play_run
from dflmoe.bench.record import RunRecord
from dflmoe.bench.runner import run_all
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.errors import ExperimentError
from dflmoe.simulation.machine import Machine
from dflmoe.types import generator


@pytest.mark.parametrize("lie", ["poisoned", "random", "scaled"])
def test_a_hostile_site_is_not_scored_and_the_others_are(tmp_path: Path, lie: str) -> None:
    path = experiment(tmp_path, methods=("local", "best", "fedmd"), steps=40)
    text = path.read_text().replace("[own_tasks", f'[[conditions]]\nhostile = "{lie}"\n[own_tasks')
    path.write_text(text)
    _, settings = planned(path)
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert {record.status for record in records} == {"done"}
    assert {tuple(site.name for site in r.sites) for r in records} == {("site 2", "site 3")}


@pytest.mark.parametrize("method", ["once", "taught"])
def test_a_site_that_left_before_it_lent_anything_tells_nothing(
    tmp_path: Path, method: str
) -> None:
    path = experiment(tmp_path, methods=(method,), steps=40)
    text = path.read_text().replace('["mlp"]', '["mlp", "plain"]\ncharter = "plain"')
    path.write_text(text.replace("[own_tasks", "[[conditions]]\ngone = 0.3\n[own_tasks"))
    _, settings = planned(path)
    for record in run_all(settings, tmp_path, root=None, jobs=1):
        assert record.status == "done"
        assert {site.name for site in record.sites} == {"site 1", "site 2"}
        assert all(0 < site.leaks["loss threshold"].area < 1 for site in record.sites)


def test_a_condition_changes_the_public_rows_and_leaves_the_sites_theirs(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=("local", "anchored"))
    conditions = '[[conditions]]\n[[conditions]]\nname = "few"\nanchors = 5\n'
    conditions += '[[conditions]]\nname = "noise"\nanchors_from = "noise"\n'
    conditions += '[[conditions]]\nname = "elsewhere"\ntasks = ["brain"]\n'
    path.write_text(path.read_text().replace("[own_tasks", f"{conditions}[own_tasks"))
    _, settings = planned(path)
    assert {s.condition.name for s in settings} == {"", "few", "noise"}
    sites = [federation(settings[2 * k], None).data["site 1"] for k in range(3)]
    assert all(torch.equal(sites[0].x, one.x) for one in sites)
    plain, few, noise = (one.anchors for one in sites if one.anchors is not None)
    assert len(few) == 5 < len(plain) == len(noise)

    def are_of(those: Tensor) -> Tensor:
        return torch.tensor([[torch.equal(a, b) for b in plain] for a in those])

    assert are_of(few).any(1).all()
    assert not are_of(noise).any()
    (record, *_) = run_all([settings[3]], tmp_path, root=None, jobs=1)
    assert record.status == "done"

    path.write_text(path.read_text().replace("anchors = 5", "anchors = 500"))
    (record, *_) = run_all([planned(path)[1][2]], tmp_path, root=None, jobs=1)
    assert "500 are asked for" in record.reason
    path.write_text(path.read_text().replace("anchors = 500", 'anchors_from = "heart_disease"'))
    (record, *_) = run_all([planned(path)[1][2]], tmp_path, root=None, jobs=1)
    assert "has the very patients of the sites" in record.reason
    path.write_text(path.read_text().replace('"noise"\n[[', '"static"\n[['))
    with pytest.raises(ExperimentError, match="anchors_from 'static' is no set; there are noise"):
        planned(path)


PICTURES = """
title = "Pictures"
question = "Does a public body serve all?"
tasks = ["tiny"]
methods = ["local", "best", "fedrep"]
seeds = 1
[[conditions]]
public_body = "pneumoniamnist"
[own_tasks.tiny]
set = "busi"
title = "Tiny"
side = 28
partition = { kind = "even", sites = 2 }
networks = ["resnet5"]
max_rows = 24
inner_folds = 2
anchors = 10
learning = { steps = 8, rounds = 2, batch = 8 }
"""


def test_a_public_body_learns_another_set_and_is_one_space_for_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("busi", "pneumoniamnist"):
        (tmp_path / name).mkdir()
        pixels = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
        y, classes = np.arange(60) % 2, np.array(["well", "ill"])
        file = tmp_path / name / f"{name}.npz"
        np.savez(file, x=pixels, x28=pixels, y=y, class_names=classes)
    path = tmp_path / "pictures.toml"
    path.write_text(PICTURES)
    _, settings = planned(path)
    sites = federation(settings[0], tmp_path)
    assert all(network.common for network in sites.shared.values())
    drawn = [initial(network.body, 1, generator(0)) for network in sites.shared.values()]
    assert drawn == [{}, {}]  # frozen weights are part of the architecture
    x = torch.randn(1, 5, 1, 28, 28, generator=generator(0))
    features = [stacked_call(n.body, {}, x) for n in sites.shared.values()]
    torch.testing.assert_close(features[0], features[1])
    own = initial(sites.networks["site 1"].body, 1, generator(7))
    start = stacked_call(sites.networks["site 1"].body, own, x)
    torch.testing.assert_close(start, features[0])  # the site's own begins there and learns on
    records = list(run_all(settings, tmp_path, root=tmp_path, jobs=1))
    assert {record.status for record in records} == {"done"}, [r.reason for r in records]

    path.write_text(PICTURES.replace('public_body = "pneumoniamnist"', 'public_body = "busi"'))
    (record, *_) = run_all(planned(path)[1], tmp_path, root=tmp_path, jobs=1)
    assert "has the very patients of the sites" in record.reason
    path.write_text(
        PICTURES.replace("[[cond", 'reference = "best"\n[[cond').replace(
            "max_rows", 'lend_from = "model"\nmax_rows'
        )
    )
    (record, *_) = run_all(planned(path)[1], tmp_path, root=tmp_path, jobs=1)
    assert "here the whole network is lent" in record.reason
    path.write_text(PICTURES.replace("pneumoniamnist", "sleep"))
    with pytest.raises(ExperimentError, match="public_body 'sleep' is no set"):
        planned(path)


def test_what_another_experiment_or_condition_has_played_is_not_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[RunSetting] = []

    def play(setting: RunSetting, root: Path | None, machine: Machine) -> RunRecord:
        played.append(setting)
        return play_run(setting, root, machine)

    def results(settings: list[RunSetting], folder: Path) -> list[dict[str, Any]]:
        played.clear()
        records = list(run_all(settings, folder, root=None, jobs=1))
        return [
            r.model_dump(include={"status", "sites", "server_bytes", "rounds"}) for r in records
        ]

    monkeypatch.setattr(runner, "play_run", play)
    path = experiment(tmp_path, methods=("local", "d_psgd"))
    lossy = '[[conditions]]\n[[conditions]]\nname = "lossy"\nlost = 0.5\n[own_tasks'
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1").replace("[own_tasks", lossy))
    _, settings = planned(path)
    first = results(settings, tmp_path / "out")
    assert {one["status"] for one in first} == {"done"}
    (alone,) = (s for s in settings if (s.method, s.condition.name) == ("local", "lossy"))
    assert played == [s for s in settings if s != alone]
    assert results([alone], tmp_path / "fresh") == [first[settings.index(alone)]]
    assert played == [alone]

    other = tmp_path / "other.toml"
    other.write_text(path.read_text().replace('"lossy"', '"half lost"'))
    (tmp_path / "out" / "tiny" / "tiny-local-s0-0.json").write_text("{")
    assert results(planned(other)[1], tmp_path / "out") == first
    assert not played

    other.write_text(other.read_text().replace("steps = 20", "steps = 21"))
    results(planned(other)[1], tmp_path / "out")
    assert len(played) == len(settings) - 1
