"""One thread: with a CPU quota, more are many times slower. Set before torch starts its pool."""
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import pytest
import torch

torch.manual_seed(0)  # for what the modules draw when they are collected


@pytest.fixture
def arithmetic():
    """What `machine.numerics` sets, as (TF32 in products, TF32 in convolutions, deterministic); at first torch's own settings."""
    def now():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic

    def become(product, convolution, deterministic):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = product, convolution
        torch.backends.cudnn.deterministic = deterministic
    before = now()
    become(False, True, False)
    yield now
    become(*before)


@pytest.fixture(autouse=True)
def same_draws_every_time():
    """A test that fails here fails everywhere."""
    torch.manual_seed(0)
