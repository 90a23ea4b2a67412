"""Where runs are made: the cores and GPUs that this process may use, and how runs are spread over them. Imports torch only to look for GPUs."""
import contextlib
import os
from pathlib import Path

from benchmarks.tasks import settle

PACK = 8  # runs at a time on a GPU


def cores(limit=Path("/sys/fs/cgroup/cpu.max")):
    """Cores that this process may use: those of its affinity, and no more than a container's share of time (cgroup 2) keeps busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
        quota, period = map(int, limit.read_text().split())
        count = min(count, max(1, -(-quota // period)))
    return count


def gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def spread(specs, devices, jobs=None):
    """(GPU or None, runs at a time) of each worker: `jobs` runs in turns on each of the GPUs `devices`, or without one a worker for each.

    Where a run takes all GPUs (team.py), they are one place for one run.
    """
    if devices and any(settle(spec)[0].on_all_gpus for spec in specs):
        return [(",".join(devices), 1)]
    if devices:
        return [(gpu, jobs or PACK) for gpu in devices[:len(specs)]]
    return [(None, 1)] * min(jobs or cores(), len(specs))
