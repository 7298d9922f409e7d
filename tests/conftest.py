"""What all tests share."""

import pytest
import torch

import dflmoe.node  # noqa: F401 - before any test imports gRPC

torch.set_num_threads(1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
