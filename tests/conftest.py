"""One thread: with a CPU quota, more are many times slower. Set before torch starts its pool."""
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
