"""What all tests share."""

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
