"""One thread: with a CPU quota, more are many times slower. Set before torch starts its pool."""
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import pytest
import torch

torch.manual_seed(0)  # for what the modules draw when they are collected


@pytest.fixture(autouse=True)
def same_draws_every_time():
    """A test that fails here fails everywhere."""
    torch.manual_seed(0)
