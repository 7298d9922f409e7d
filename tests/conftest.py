"""What all tests share, and the table of families at their end."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import dflmoe.node  # noqa: F401 - before any test imports gRPC

torch.set_num_threads(1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-faults", action="store_true", help="every moment and every length, not some of them"
    )


@pytest.fixture
def every(request: pytest.FixtureRequest) -> int:
    """Of the moments at which something can be killed, one of so many is tried."""
    return 1 if request.config.getoption("--all-faults") else 6


# --- families of faults and attacks, as docs/explanation/tests.md names them ---

FAMILY = "family"
PAGE = Path(__file__).parents[1] / "docs/explanation/tests.md"


def families() -> dict[str, list[str]]:
    """Return the tests of each family."""
    rows = re.findall(r"^\| ([TS]\d+) \|.*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {family: re.findall(r"`(test_\w+)`", tests) for family, tests in rows}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    of: dict[str, list[str]] = {}
    for family, tests in families().items():
        for test in tests:
            of.setdefault(test, []).append(family)
    for item in items:
        name = item.name.split("[")[0]
        item.user_properties += [(FAMILY, family) for family in of.get(name, ())]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if report.when != "call":
                continue
            for key, family in report.user_properties:
                if key == FAMILY:
                    tried[family] += 1
                    survived[family] += outcome == "passed"
    if tried:
        terminalreporter.section("families of faults and attacks (docs/explanation/tests.md)")
        for family in families():
            if tried[family]:
                terminalreporter.write_line(
                    f"{family:<4} tried {tried[family]:>4}   survived {survived[family]:>4}"
                )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a test that was skipped, or may fail, fail the whole: it looks like success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    hidden = [kind for kind in ("skipped", "xfailed", "xpassed") if reporter.stats.get(kind)]
    if hidden and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(
            f"tests were {' and '.join(hidden)}: mend them, or remove them", red=True
        )
