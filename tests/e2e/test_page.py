"""The page as a browser shows it."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from dflmoe.data.tables import embedded_study
from dflmoe.pilot.plan import Options
from dflmoe.pilot.run import run
from dflmoe.report.render import write

pytestmark = pytest.mark.e2e

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = run(embedded_study(), Options(repeats=1, folds=2, resamples=200))
    assert report is not None
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(report, path)
    return path


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desk"])
def test_the_report_opens_offline_without_errors_or_requests(page_file: Path, width: int) -> None:
    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    errors: list[str] = []
    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, found), None), args=QUIET)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        figures = page.locator("figure svg")
        sizes = [figures.nth(k).bounding_box() for k in range(figures.count())]
        drawn = page.evaluate("document.querySelectorAll('figure svg path').length")
        wide = page.evaluate("document.documentElement.scrollWidth")
        rows = page.locator("table").first.locator("tbody tr").count()
        picture = os.environ.get("DFLMOE_SCREENSHOT")
        if picture and width > 1000:
            page.screenshot(path=picture, full_page=True)
        browser.close()
    assert not errors
    assert requests == [page_file.as_uri()]
    assert len(sizes) == 4
    assert all(box and box["width"] > 200 and box["height"] > 100 for box in sizes)
    assert drawn > 100
    assert wide <= width
    assert rows == 5
