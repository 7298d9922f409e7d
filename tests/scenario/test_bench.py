"""The bench: it resumes, it never mixes settings, and a run that fails stops nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.made import experiment, planned
from typer.testing import CliRunner

from dflmoe.bench.experiment import RunSetting, load, shipped
from dflmoe.bench.methods import names, title
from dflmoe.bench.page import write_docs
from dflmoe.bench.paper import published
from dflmoe.bench.record import RunRecord, SiteScore, path_of, stored
from dflmoe.bench.runner import pending, plan, run_all
from dflmoe.bench.safety import part_by_part, safety
from dflmoe.bench.summary import summarise
from dflmoe.cli.main import app
from dflmoe.errors import DataFileError, ExperimentError

ROOT = Path(__file__).parents[2]


def command(path: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "dflmoe.cli.main", "bench", "run", str(path),
        "--full", "--jobs", "2", "--out", str(out),
    ]  # fmt: skip


def results(folder: Path, settings: list[RunSetting]) -> dict[str, object]:
    """Return all that a run's record says but for the time it took."""
    records = [stored(folder, setting) for setting in settings]
    return {r.setting.label: r.model_dump(exclude={"seconds"}) for r in records if r is not None}


def test_a_killed_bench_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=("local", "best", "d_psgd", "paper", "fedrep"))
    _, settings = planned(path)
    out = tmp_path / "out"
    process = subprocess.Popen(command(path, out), start_new_session=True)
    while len(list(out.glob("tiny/*.json"))) < 3 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in out.glob("tiny/*.json")}
    assert 3 <= len(before) < len(settings)
    assert len(results(out, settings)) == len(before)  # no record is half written

    subprocess.run(command(path, out), check=True, capture_output=True)
    assert not pending(settings, out)
    assert all(p.stat().st_mtime_ns == written for p, written in before.items())

    undisturbed = tmp_path / "undisturbed"
    assert len(list(run_all(settings, undisturbed, root=None, jobs=1))) == len(settings)
    assert results(out, settings) == results(undisturbed, settings)
    assert (out / "tiny.html").is_file()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(experiment(tmp_path, steps=200), tmp_path / "out"), start_new_session=True
    )
    while not list((tmp_path / "out").glob("tiny/*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_results_of_other_settings_are_never_taken_for_these(tmp_path: Path) -> None:
    _, settings = planned(experiment(tmp_path, methods=("local",)))
    list(run_all(settings, tmp_path, root=None, jobs=1))
    changed, others = planned(experiment(tmp_path, methods=("local",), steps=22))
    assert pending(others, tmp_path) == others
    assert not summarise(changed, others, []).tables

    renamed = path_of(tmp_path, others[0])
    path_of(tmp_path, settings[0]).rename(renamed)
    with pytest.raises(ExperimentError, match="other settings than its name says"):
        stored(tmp_path, others[0])
    renamed.write_text("{")
    with pytest.raises(ExperimentError, match="cannot be read; delete it"):
        stored(tmp_path, others[0])


def test_a_run_with_nan_loss_is_recorded_as_failed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exploding.py").write_text(
        "from collections import OrderedDict\n"
        "from torch import nn\n"
        "class Explosion(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * float('inf')\n"
        "def make(shape, outputs):\n"
        "    layers = OrderedDict(a=nn.Linear(shape[0], 8), b=nn.ReLU(), c=nn.Linear(8, outputs),"
        " d=Explosion())\n"
        "    return nn.Sequential(layers)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = experiment(
        tmp_path, methods=("local", "logistic"), network="exploding:make", lend_from="c"
    )
    path.write_text(path.read_text().replace('title = "Hearts"', 'title = "Hearts"\nsplit = "c"'))
    chosen, settings = planned(path)
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert [r.status for r in records] == ["failed", "done"] * 2
    assert "not a finite number" in records[0].reason
    summary = summarise(chosen, settings, records)
    assert len(summary.failures) == 2
    assert [row.method for row in summary.tables[0].rows] == ["logistic"]


def test_a_rival_of_ones_own_is_the_short_file_that_the_tutorial_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/tutorials/new-baseline.md").read_text()
    shown = re.findall(r"head_gossip.py <<'END'\n(.*?)^END$", page, re.S | re.M)
    assert len(shown) == 1
    assert shown[0].count("\n") < 80
    (tmp_path / "head_gossip.py").write_text(shown[0])
    monkeypatch.syspath_prepend(tmp_path)
    chosen, settings = planned(experiment(tmp_path, methods=("local", "head_gossip:RIVAL")))
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert {r.status for r in records} == {"done"}
    row = summarise(chosen, settings, records).tables[0].rows[1]
    assert row.title == "HeadGossip"
    assert row.site_bytes > 0
    assert row.needs == ("one head",)


def test_rivals_of_the_package_are_short_files_too() -> None:
    shared = {"__init__", "rival", "averaging", "logistic", "alone", "messenger", "aim"}
    for path in (ROOT / "src/dflmoe/baselines").glob("*.py"):
        assert path.stem in shared or len(path.read_text().splitlines()) < 80, path.name


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_experiment_can_be_planned(name: str) -> None:
    chosen = load(name)
    for quick in (True, False):
        settings = plan(chosen, quick=quick)
        assert len({s.digest for s in settings}) == len(settings)
        assert {s.seed for s in settings} == set(range(1 if quick else chosen.seeds))
        assert quick or chosen.seeds >= 5
        assert chosen.reference in {s.method for s in settings}
        assert "local" in {s.method for s in settings}


def test_every_method_has_a_title_of_its_own() -> None:
    assert len({title(name) for name in names()}) == len(names())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        pytest.param(('"heart_disease"', '"hearts"'), "set 'hearts' is unknown", id="set"),
        pytest.param(('tasks = ["tiny"]', 'tasks = ["big"]'), "names task 'big'", id="task"),
        pytest.param(("seeds = 2", "seed = 2"), "seed: Extra inputs", id="misspelt key"),
        pytest.param(("seeds = 2", "seeds = "), "cannot be read", id="no TOML"),
        pytest.param(('"even"', '"resolution"'), "needs factors", id="no factors"),
    ],
)
def test_a_wrong_experiment_is_refused_with_a_sentence(
    tmp_path: Path, changed: tuple[str, str], sentence: str
) -> None:
    path = experiment(tmp_path)
    path.write_text(path.read_text().replace(*changed))
    with pytest.raises(ExperimentError, match=re.escape(sentence)):
        load(str(path))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        pytest.param("fedsomething", "is unknown; there are local", id="unknown"),
        pytest.param("nowhere:RIVAL", "cannot be imported", id="no module"),
        pytest.param("json:loads", "is no Rival but function", id="no rival"),
    ],
)
def test_a_wrong_method_is_refused_with_a_sentence(
    tmp_path: Path, method: str, sentence: str
) -> None:
    with pytest.raises(ExperimentError, match=sentence):
        planned(experiment(tmp_path, methods=(method,)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        pytest.param(('lend_from = "model"', 'split = "nowhere"'), "nowhere", id="split layer"),
        pytest.param(('"even"', '"label"'), "partition.kind", id="partition"),
        pytest.param(("max_rows = 60", "max_rows = 2"), "groups", id="too few patients"),
        pytest.param(('networks = ["mlp"]', 'networks = ["unet"]'), "unet", id="does not fit"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, changed: tuple[str, str], reason: str
) -> None:
    path = experiment(tmp_path, methods=("local",))
    path.write_text(path.read_text().replace(*changed))
    try:
        _, settings = planned(path)
    except ExperimentError as error:
        said = str(error)
    else:
        (record, *_) = run_all(settings, tmp_path, root=None, jobs=1)
        assert record.status == "failed"
        said = record.reason
    assert reason in said
    assert "\n" not in said


def test_a_method_that_averages_weights_refuses_different_networks(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=("fedavg_tuned", "fedmd", "fml"))
    path.write_text(path.read_text().replace('["mlp"]', '["mlp", "plain"]'))
    _, settings = planned(path)
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert [r.status for r in records] == ["failed", "done", "failed"] * 2
    assert "needs one network at all sites" in records[0].reason
    assert "needs a network that all sites agreed on; name the task's charter" in records[2].reason

    path.write_text(path.read_text().replace("max_rows", 'charter = "plain"\nmax_rows'))
    _, settings = planned(path)
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert [r.status for r in records if r.setting.method == "fml"] == ["done"] * 2


def test_what_came_later_leaves_older_results_their_settings() -> None:
    folder = ROOT / "docs" / "bench"
    for name in ("homogeneous", *published().experiments):
        settings = plan(load(name), quick=False)
        records = list((folder / name).glob("*.json"))
        assert len(settings) - len(pending(settings, folder)) == len(records) > 0


def test_the_paper_s_tables_are_planned_for_what_is_at_hand(tmp_path: Path) -> None:
    asked = ["bench", "paper", "--full", "--no-play", "--out", str(tmp_path / "out")]
    nothing = CliRunner().invoke(app, [*asked, "--data", str(tmp_path / "none")])
    assert isinstance(nothing.exception, DataFileError)
    assert "none that stands in; name a folder" in str(nothing.exception)

    (tmp_path / "sets" / "apnea_hr").mkdir(parents=True)
    asked += ["--data", str(tmp_path / "sets")]
    done = CliRunner().invoke(app, [*asked, "--markdown", str(tmp_path / "docs" / "paper.md")])
    assert done.exit_code == 0
    assert "Left out" in done.output
    assert "breast" in done.output
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert told["planned"] > 0
    assert told["played"] == 0
    assert {page.name for page in (tmp_path / "docs").glob("*.md")} == {
        "paper.md",
        *(f"{name}.md" for name in published().experiments),
    }


def test_heads_of_a_charter_are_lent_by_sites_of_different_networks(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=("local", "once", "rounds", "rounds_self"), steps=40)
    text = path.read_text().replace('["mlp"]', '["mlp", "plain"]\nmetric = "auroc"')
    path.write_text(text)
    chosen, settings = planned(path)
    refused = [r for r in run_all(settings, tmp_path, root=None, jobs=1) if r.status == "failed"]
    assert {r.setting.method for r in refused} == {"once", "rounds", "rounds_self"}
    assert "names no charter" in refused[0].reason

    path.write_text(text.replace("metric =", 'charter = "plain"\nmetric ='))
    chosen, settings = planned(path)
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    assert {r.status for r in records} == {"done"}
    (table,) = summarise(chosen, settings, records).tables
    assert table.metric == "AUROC"
    by_method = {row.method: row for row in table.rows}
    assert by_method["rounds"].rounds == 3  # two of averaging, one of heads
    assert by_method["rounds"].site_bytes > by_method["once"].site_bytes
    assert by_method["rounds"].loss_gain is not None
    assert by_method["local"].loss_gain is None


def record_of(
    setting: RunSetting, values: dict[str, float], free: dict[str, float] | None = None
) -> RunRecord:
    """Return a record of made-up scores of one patient a site."""
    sites = tuple(
        SiteScore(
            name=name, network="mlp", train_rows=10, test_rows=1, groups={0: (value, 1)}, scores={},
            sent_bytes=0, heads_used=None if free is None else True,
            unguarded=None if free is None else free[name],
        )
        for name, value in values.items()
    )  # fmt: skip
    return RunRecord(
        digest=setting.digest, setting=setting, status="done", metric="accuracy", sites=sites
    )


def test_no_worse_than_alone_is_counted_site_by_site_and_seed_by_seed(tmp_path: Path) -> None:
    _, settings = planned(experiment(tmp_path, methods=("local", "best")))
    by_method = {m: [s for s in settings if s.method == m] for m in ("local", "best")}
    alone = {"a": 0.5, "b": 0.5}
    records = [record_of(s, alone) for s in by_method["local"]]
    first, second = by_method["best"]
    records.append(record_of(first, {"a": 0.6, "b": 0.45}, {"a": 0.6, "b": 0.45}))
    records.append(record_of(second, {"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.4}))
    found = safety(records, "best")
    assert found is not None
    assert (found.cases, found.sites) == (4, 2)
    assert found.mean == pytest.approx(1.25)  # +10, -5, 0 and 0 points
    assert found.worse == 0.25
    assert found.worse_at_most == 0.5  # all of it at one of two sites
    assert found.gaining == 1  # a, by 15 points over seeds, of which 5 are served
    assert found.kept == pytest.approx(1 / 3, abs=1e-3)
    assert safety(records[:2], "best") is None
    ((where, one),) = part_by_part(records, "best")
    assert one == found
    assert where.task_name == first.task_name


def test_conditions_are_compared_on_the_sites_that_all_of_them_have(tmp_path: Path) -> None:
    path = experiment(tmp_path, methods=("local", "best"))
    two = '[[conditions]]\nname = "all stay"\n[[conditions]]\nname = "one leaves"\ngone = 0.5\n'
    head, tasks = path.read_text().split("[own_tasks", 1)
    path.write_text(f"{head}{two}[own_tasks{tasks}")
    chosen, settings = planned(path)
    records = []
    for s in settings:
        values = {"a": 0.5, "b": 0.5} if s.condition.name == "all stay" else {"a": 0.5}
        lent = {"a": 0.6, "b": 0.1}
        served = {n: lent[n] if s.method == "best" else v for n, v in values.items()}
        records.append(record_of(s, served))
    found = part_by_part(records, "best")
    assert [s.condition.name for s, _ in found] == ["all stay", "one leaves"]
    assert [one.mean for _, one in found] == [pytest.approx(10), pytest.approx(10)]
    assert {one.sites for _, one in found} == {1}
    write_docs(summarise(chosen, settings, records), tmp_path / "page.md", "a command")
    rows = [r for r in (tmp_path / "page.md").read_text().splitlines() if r.startswith("| Hearts")]
    assert rows == [
        "| Hearts | all stay | 2 | +10.0 | +10.0 | 0 % |",
        "| Hearts | one leaves | 2 | +10.0 | +10.0 | 0 % |",
    ]


@pytest.mark.parametrize(("steps", "settled"), [(20, False), (2000, True)])
def test_a_table_says_whether_the_baseline_had_stopped_by_itself(
    tmp_path: Path, steps: int, settled: bool
) -> None:
    chosen, settings = planned(experiment(tmp_path, methods=("local",), steps=steps))
    records = list(run_all(settings, tmp_path, root=None, jobs=1))
    (table,) = summarise(chosen, settings, records).tables
    assert table.settled == (1.0 if settled else 0.0)
