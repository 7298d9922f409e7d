"""From three nodes that ran to one page of all: shared, signed, checked, and read in a browser."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright
from tests.e2e.test_page import QUIET
from tests.nodes import Nodes

from dflmoe.report.consortium import Consortium
from dflmoe.report.money import Assumptions, running

pytestmark = pytest.mark.e2e

SITES = ("budapest", "long-beach", "switzerland")


def dflmoe(*arguments: str | Path, fails: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dflmoe.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == fails, done.stderr
    return done


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """Three sites whose nodes have played three rounds."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), SITES, every=0.0)
    try:
        for site in SITES:
            nodes.starts(site)
        while min(nodes.round(site) for site in SITES) < 3:
            assert all(node.poll() is None for node in nodes.running.values())
        nodes.end()
        yield {site: nodes.folder / site for site in SITES}
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def shared(homes: Mapping[str, Path]) -> list[Path]:
    files = []
    for site, home in homes.items():
        files.append(home.parent / f"{site}.share.json")
        dflmoe("report", "--home", home, "--share", files[-1])
    return files


@pytest.fixture(scope="module")
def found(homes: Mapping[str, Path], shared: list[Path]) -> Path:
    out = homes["budapest"].parent / "out"
    dflmoe("report", "--federation", *shared, "--home", homes["budapest"], "--out", out, "--pdf")
    return out


def opened(page: Page, found: Path, said: list[str], asked: list[str]) -> None:
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((found / "federation.html").as_uri())


def test_a_site_says_what_it_would_share_before_it_does(homes: Mapping[str, Path]) -> None:
    said = dflmoe("report", "--home", homes["budapest"])
    assert "Nothing was sent to anybody" in said.stdout
    told = json.loads(dflmoe("report", "--home", homes["budapest"], "--json").stdout)
    assert told["site"] == "budapest"
    assert told["rounds"] >= 3
    assert told["gain"]["low"] <= told["gain"]["value"] <= told["gain"]["high"]
    assert set(told["worth"]) <= {"long-beach", "switzerland"}
    assert told["seconds"] > 0
    assert told["attack"]["value"] > 0


def test_all_that_was_shared_is_vouched_for_and_counted(found: Path) -> None:
    told = Consortium.model_validate_json((found / "federation.json").read_text())
    assert told.vouched
    assert told.members == list(SITES)
    assert told.silent == []
    assert told.mean_gain is not None
    assert (found / "federation.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desk"])
def test_the_page_is_read_by_everybody_and_asks_nothing(found: Path, width: int) -> None:
    names = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, names), None), args=QUIET)
        page = browser.new_page(viewport={"width": width, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        opened(page, found, said, asked)
        assert page.locator("figure svg").count() >= 1
        violations = Axe().run(page)
        assert violations.violations_count == 0, violations.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert said == []
        assert [one for one in asked if not one.startswith("data:")] == [
            (found / "federation.html").as_uri()
        ]
        picture = os.environ.get("DFLMOE_SCREENSHOT")
        if picture:
            page.screenshot(path=f"{picture}-federation-{width}.png", full_page=True)
        browser.close()


def test_the_page_computes_what_python_does(found: Path) -> None:
    told = Consortium.model_validate_json((found / "federation.json").read_text())
    changed = {"staff_hours": 7.5, "energy_price": 1.25, "idle_watts": 20, "value_of_a_point": 300}
    assumed = Assumptions(**changed)
    names = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, names), None), args=QUIET)
        page = browser.new_page()
        page.goto((found / "federation.html").as_uri())
        for name, value in changed.items():
            page.locator(f"[data-assumed={name}]").fill(str(value))
        for share in told.shares:
            year = running(share, assumed)
            row = page.locator(f"#years tr[data-site='{share.site}']")
            for cell, digits in {"money": 0, "energy": 1, "per_head": 2, "break_even": 2}.items():
                shown = float(row.locator(f"[data-cell={cell}]").inner_text())
                assert shown == pytest.approx(getattr(year, cell), abs=0.51 * 10**-digits)
        browser.close()


def test_what_must_not_be_believed_is_refused_in_a_sentence(
    homes: Mapping[str, Path], shared: list[Path], tmp_path: Path
) -> None:
    forged = json.loads(shared[0].read_text())
    forged["payload"] = json.loads(shared[1].read_text())["payload"]
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(forged))
    home = homes["budapest"]
    said = dflmoe("report", "--federation", path, "--home", home, "--out", tmp_path, fails=21)
    assert "was changed after it was signed" in said.stderr
    twice = dflmoe(
        "report", "--federation", shared[0], shared[0], "--home", home, "--out", tmp_path, fails=37
    )
    assert "two of the reports are of budapest" in twice.stderr
    assert twice.stderr.count("\n") == 1
