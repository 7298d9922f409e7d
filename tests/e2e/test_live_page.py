"""The live page in a browser: three nodes run, one stops, is killed, and comes back."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from tests.e2e.test_page import QUIET
from tests.nodes import Nodes

from dflmoe.node.home import Home
from dflmoe.web.serve import address_of, served

pytestmark = pytest.mark.e2e

SITES = ("budapest", "long-beach", "switzerland")
WITHIN_MS = 5000
"""So soon the page shows what happened."""

WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, found), None), args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that have met."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), SITES, every=2.0)
    try:
        for site in SITES:
            nodes.starts(site)
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def url(nodes: Nodes) -> Iterator[str]:
    with served(Home(nodes.folder / SITES[0]), "127.0.0.1:0") as door:
        yield address_of(door)


class Watched:
    """A page, and what the browser said and asked for."""

    def __init__(
        self, browser: Browser, url: str, width: int = 1280, scheme: str = "light"
    ) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def ends_clean(self, url: str) -> None:
        """Close the page; nothing was complained of, and nothing asked of others."""
        self.page.close()
        assert self.said == []
        assert all(asked.startswith((url, "data:")) for asked in self.asked), self.asked


def connection(page: Page, site: str) -> Locator:
    return page.locator(f"tr[data-peer='{site}'] td").first


def test_the_page_shows_a_peer_that_stops_is_killed_and_comes_back(
    nodes: Nodes, browser: Browser, url: str
) -> None:
    seen = Watched(browser, url)
    peer = connection(seen.page, "switzerland")
    expect(peer).to_have_text("connected", timeout=90_000)
    expect(seen.page.locator("#scores svg")).to_be_visible(timeout=90_000)
    for how in (signal.SIGTERM, signal.SIGKILL):
        nodes.sends("switzerland", how)
        expect(peer).to_contain_text("away", timeout=WITHIN_MS)
        nodes.running["switzerland"].wait()
        nodes.starts("switzerland")
        nodes_up(nodes, "switzerland")
        expect(peer).to_have_text("connected", timeout=WITHIN_MS)
    seen.ends_clean(url)


def nodes_up(nodes: Nodes, site: str) -> None:
    """Wait until a node says that it has its streams."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        told = nodes.status(site)
        alive = told is not None and told.pid == nodes.running[site].pid
        if alive and told is not None and all(p.connected for p in told.peers):
            return
        time.sleep(0.1)
    raise AssertionError(nodes.printed(site))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_can_be_read_by_everybody(
    browser: Browser, url: str, width: str, scheme: str
) -> None:
    seen = Watched(browser, url, WIDTHS[width], scheme)
    expect(seen.page.locator("#scores svg")).to_be_visible(timeout=90_000)
    expect(seen.page.locator("#doctor li").first).to_be_visible(timeout=60_000)
    found = Axe().run(seen.page)
    assert found.violations_count == 0, found.generate_report()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    picture = os.environ.get("DFLMOE_SCREENSHOT")
    if picture:
        seen.page.screenshot(path=f"{picture}-live-{width}-{scheme}.png", full_page=True)
    seen.ends_clean(url)


def test_the_page_is_used_without_a_mouse(browser: Browser, url: str) -> None:
    seen = Watched(browser, url)
    expect(seen.page.locator("#scores summary")).to_be_visible(timeout=90_000)
    expect(seen.page.locator("#doctor li").first).to_be_visible(timeout=60_000)
    reached: list[str] = []
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        reached.append(
            seen.page.evaluate(
                "(e => e.getAttribute('href') || e.getAttribute('aria-label') || e.innerText)"
                "(document.activeElement)"
            )
        )
    assert reached[0] == "#main"
    wanted = {
        "The same as a table",
        "Peers",
        "Audit log",
        "/download/status.json",
        "/download/rounds.json",
        "/download/audit.jsonl",
    }
    assert wanted <= set(reached)
    seen.page.locator("#scores summary").focus()
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#scores table")).to_be_visible()
    seen.ends_clean(url)


def test_what_did_not_change_is_left_alone(browser: Browser, nodes: Nodes, url: str) -> None:
    """Nothing flickers: the part that a reader has opened stays open while others are swapped."""
    nodes.end()
    seen = Watched(browser, url)
    seen.page.wait_for_timeout(1500)
    seen.page.evaluate("document.querySelector('#scores svg').dataset.kept = 'yes'")
    seen.page.wait_for_timeout(3000)
    assert seen.page.evaluate("document.querySelector('#scores svg').dataset.kept") == "yes"
    assert "The node has stopped" in seen.page.locator("#now").inner_text()
    seen.ends_clean(url)


def test_downloads_are_what_they_say(browser: Browser, url: str) -> None:
    context = browser.new_context()
    for name, begins in (("status.json", "{"), ("rounds.json", "["), ("audit.jsonl", '{"entry"')):
        answer = context.request.get(f"{url}download/{name}")
        assert answer.ok
        assert answer.text().startswith(begins)
        assert f"{SITES[0]}-{name}" in answer.headers["content-disposition"]
    context.close()


def test_a_node_and_the_demonstration_serve_the_page_beside_them(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.end()
    node = ["node", "run", "--once", "--home", str(nodes.folder / SITES[2])]
    demo = ["demo", "--sites", "2", "--rounds", "1", "--out", str(tmp_path)]
    for command in (node, demo):
        asked = [sys.executable, "-m", "dflmoe.cli.main", *command, "--page", "127.0.0.1:0"]
        with subprocess.Popen(
            asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            told = next(line for line in process.stderr if line.startswith("Page: http://127.0.0"))
            with urllib.request.urlopen(told.split()[1]) as answer:  # noqa: S310 - our own page
                assert "Heart disease" in answer.read().decode()
            rest = process.stderr.read()
            assert process.wait(120) == 0, rest


def test_the_command_serves_the_page_and_ends_with_ctrl_c(nodes: Nodes) -> None:
    command = [sys.executable, "-m", "dflmoe.cli.main", "page", "--json", "--bind", "127.0.0.1:0"]
    home = ["--home", str(nodes.folder / SITES[1])]
    with subprocess.Popen([*command, *home], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert '"url": "http://127.0.0.1:' in said
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
