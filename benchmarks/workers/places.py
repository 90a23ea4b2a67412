"""Where runs can be made: the cores and GPUs that this process may use, and how runs are spread over them. Imports torch only to look for GPUs."""
import contextlib
import os
from pathlib import Path

from benchmarks.tasks import settle

PACK = 8  # runs at a time on a GPU
WORKER_BYTES = 1e9  # memory reserved for each worker on a CPU; networks for CIFAR and digits need less


def limits(name, root=Path("/sys/fs/cgroup"), own=Path("/proc/self/cgroup")):
    """Contents of the files `name` of this process's control group (cgroup 2) and of all groups above it: limits of a container, a job, a user."""
    group = root
    with contextlib.suppress(OSError, StopIteration):
        group = root / next(line for line in own.read_text().splitlines() if line.startswith("0::/"))[4:]
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError):
            yield (folder / name).read_text()
        if folder == root:
            return


def cores(*where):
    """The number of cores that this process may use: those of its CPU affinity, limited by its CPU quota. where: arguments of `limits`."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for text in limits("cpu.max", *where):
        with contextlib.suppress(ValueError):  # "max" is no number
            quota, period = map(int, text.split())
            count = min(count, max(1, -(-quota // period)))
    return count


def crowded(workers):
    """A sentence if other programs (by the load average of the last minute) leave too few cores for so many workers, else ""."""
    with contextlib.suppress(AttributeError, OSError):
        load, count = os.getloadavg()[0], os.cpu_count() or 1
        return f"other programs keep {load:.1f} of {count} cores busy, with which it can take longer" * (load + workers > count + 0.5)
    return ""


def free(meminfo=Path("/proc/meminfo")):
    """Bytes of available memory, on Linux; elsewhere all the machine has."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        return 1024 * next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def room(*where):
    """The number of workers that memory allows. where: arguments of `limits`."""
    sizes = [free(), *(int(text) for text in limits("memory.max", *where) if text.strip().isdigit())]
    return max(1, round(min(sizes) / WORKER_BYTES))


def gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def spread(specs, devices, jobs=None):
    """(GPU or None, runs at a time) for each worker: one per GPU of `devices`, with `jobs` runs that take turns; without a GPU, `jobs` workers
    with one run each.

    If a run takes all GPUs (team.py), there is a single worker for one run at a time.
    """
    if devices and any(settle(spec)[0].on_all_gpus for spec in specs):
        return [(",".join(devices), 1)]
    if devices:
        return [(gpu, jobs or PACK) for gpu in devices[:len(specs)]]
    return [(None, 1)] * min(jobs or min(cores(), room()), len(specs))
