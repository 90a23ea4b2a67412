"""One thread: with a CPU quota, more are many times slower. And no GPU, which runs would be made on, several in one process: what the tests
expect is a CPU's (check_device.py is for a GPU, and with TESTS_ON_GPU=1 the few tests here that need one). Set before torch looks."""
import gc
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("PYTHONUNBUFFERED", None)  # which would hide what is printed and not flushed
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts would compile the project again
if "TESTS_ON_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch

from benchmarks.workers.places import cores

torch.manual_seed(0)  # for what the modules draw when they are collected


# files that take long, some of them by waiting for other processes: last, one of them would keep a single core from its end. test_sparse_layers is
# far behind test_sparse_equality, which compiles the same loops and leaves them on the disk
LONG = ("test_slurm", "test_rows_again", "test_run_all", "test_sparse_equality", "test_submission", "test_faults", "test_compiled", "test_figures",
        "test_every_method", "test_pack", "test_recovery", "test_team", "test_fake_gpu", "test_check_device", "test_branches", "test_leaderboard",
        "test_any_network", "test_kernels", "test_capture", "test_drawing_commands", "test_dry_run", "test_cost", "test_stats", "test_report",
        "test_released", "test_example_network", "test_store_speed", "test_sparse_layers")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist's
def pytest_xdist_auto_num_workers(config):
    """A process more than cores: in a quarter of the time that the tests take, one only waits for SLURM or for runs that it started."""
    return cores() + 1


def pytest_collection_modifyitems(items):
    """These come first (xdist keeps this order of files with --no-loadscope-reorder)."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish():
    """What is loaded by now stays to the end: it need not be looked through for garbage again and again."""
    gc.freeze()


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
    if "TESTS_ON_GPU" in os.environ:
        torch.manual_seed(0)
    else:  # which would note for a GPU that is not asked for where it was called: some 2 ms in each test
        torch.default_generator.manual_seed(0)
