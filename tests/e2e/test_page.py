"""The page as a browser shows it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import FloatRect, sync_playwright
from tests.made import experiment
from typer.testing import CliRunner

from dflmoe.bench.experiment import load
from dflmoe.bench.page import write as write_bench
from dflmoe.bench.runner import plan, run_all
from dflmoe.bench.summary import summarise
from dflmoe.cli.main import app
from dflmoe.data.tables import embedded_study
from dflmoe.pilot.plan import Options
from dflmoe.pilot.run import run
from dflmoe.report.render import write

pytestmark = pytest.mark.e2e

RECORDS = Path(__file__).parents[2] / "docs" / "bench"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = run(embedded_study(), Options(repeats=1, folds=2, resamples=200))
    assert report is not None
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(report, path)
    return path


@pytest.fixture(scope="module")
def bench_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    path = experiment(folder, methods=("local", "best", "best_random"))
    chosen = load(str(path))
    settings = plan(chosen, quick=False)
    records = list(run_all(settings, folder, root=None, jobs=1))
    return write_bench(summarise(chosen, settings, records), folder)


@pytest.fixture(scope="module")
def paper_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    shutil.copytree(RECORDS / "paper_eight", folder / "records" / "paper_eight")
    for name in ("busi", "brain_tumor_mri"):
        (folder / "sets" / name).mkdir(parents=True)
    asked = ["--full", "--no-play", "--data", f"{folder}/sets", "--out", f"{folder}/records"]
    done = CliRunner().invoke(app, ["bench", "paper", *asked])
    assert done.exit_code == 0, done.output
    return folder / "records" / "paper.html"


@dataclass(frozen=True)
class Seen:
    """What a browser found on a page."""

    said: list[str]
    requests: list[str]
    figures: list[FloatRect | None]
    paths: int
    wide: int
    rows: int


def seen(file: Path, width: int) -> Seen:
    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    said: list[str] = []
    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, found), None), args=QUIET)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        figures = page.locator("figure svg")
        result = Seen(
            said,
            requests,
            [figures.nth(k).bounding_box() for k in range(figures.count())],
            page.evaluate("document.querySelectorAll('figure svg path').length"),
            page.evaluate("document.documentElement.scrollWidth"),
            page.locator("table").first.locator("tbody tr").count(),
        )
        picture = os.environ.get("DFLMOE_SCREENSHOT")
        if picture and width > 1000:
            page.screenshot(path=f"{picture}-{file.stem}.png", full_page=True)
        browser.close()
    return result


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desk"])
@pytest.mark.parametrize(
    ("made", "figures", "rows"),
    [
        pytest.param("page_file", 4, 5, id="report"),
        pytest.param("bench_file", 2, 3, id="bench"),
        pytest.param("paper_file", 1, 10, id="paper"),
    ],
)
def test_a_page_opens_offline_without_errors_or_requests(
    request: pytest.FixtureRequest, made: str, figures: int, rows: int, width: int
) -> None:
    file: Path = request.getfixturevalue(made)
    page = seen(file, width)
    assert not page.said
    assert page.requests == [file.as_uri()]
    assert len(page.figures) == figures
    assert all(box and box["width"] > 200 and box["height"] > 100 for box in page.figures)
    assert page.paths > 50
    assert page.wide <= width
    assert page.rows == rows
