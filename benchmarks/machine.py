"""The machine that a run is made on: its devices, their arithmetic and memory; and how rows name it and the version of the code."""
import contextlib
import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.records import moment

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
# errors of the device, as far as torch tells them from others (before 2.8 only lack of memory)
DEVICE_ERRORS = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt


def lacks_memory(problem):
    """Whether an error says that memory is lacking: torch's allocators, or CUDA, its libraries and Triton, which allocate on their own."""
    words = ("out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator: ")
    for error in causes(problem):
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
            return True
    return False


def causes(problem):
    """An error and those that it was raised from."""
    while problem is not None:
        yield problem
        problem = problem.__cause__


def default_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name=None):
    """The torch.device of this name, by default the GPU if there is one. Raises ValueError in one line if there is no such device."""
    # hardware queues of a GPU; with the default of 8, parallel runs on streams of their own would wait for each other
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    name = default_device() if name is None else name
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda") or device.type == "cpu" and device.index:  # cpu:1, which some versions of torch accept
            raise RuntimeError("a device is cpu, cuda or cuda:N")
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {name!r} here ({str(error).splitlines()[0]})") from None


def refuse_precision(precision, device):
    """Raises ValueError in one line for a precision that a device ("cpu", "cuda", "cuda:1") does not have."""
    if precision == "tf32" and not str(device).startswith("cuda"):
        raise ValueError("precision tf32 needs a CUDA device; bf16 and fp32 run everywhere")


def numerics(precision, device):
    """Sets the arithmetic of this process from now on, for training and measurements: TF32 only if `precision` is tf32, and only algorithms that give
    the same bits every time. Raises as `refuse_precision`."""
    refuse_precision(precision, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def slow_bf16():
    """A message for users if bf16, the precision of most tasks, takes at least twice as long as fp32 on this processor (measured on a convolution of
    ResNet-20), else "". Processors without 16-bit products emulate them."""
    one_core()

    def seconds(dtype):
        x, w = torch.ones(128, 16, 32, 32, dtype=dtype).to(memory_format=torch.channels_last), torch.ones(16, 16, 3, 3, dtype=dtype)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            torch.nn.functional.conv2d(x, w, padding=1)
            times.append(time.perf_counter() - began)
        return min(times)

    ratio = seconds(torch.bfloat16) / seconds(torch.float32)
    if ratio < 2:
        return ""
    return (f"a convolution in bf16 takes {ratio:.0f} times as long as in fp32 on this processor ({hardware(torch.device('cpu'))}): "
            "--precision fp32 makes these runs in fp32, as rows of their own, and figures and leaderboard show them with the same words")


def hardware(device):
    """The name of a torch.device's hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _processor() or platform.processor() or platform.machine()
    # processors with the same name may differ in vector instructions, and then sum in another order: they are named unless they are x86's widest
    vectors = torch.backends.cpu.get_cpu_capability()
    return name + f", {vectors}" * (vectors not in ("AVX512", "DEFAULT"))


@cache
def _processor():
    """The name of this machine's processor, or "" if nothing says it."""
    def said(*words):
        return subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"}).stdout
    try:
        if sys.platform == "darwin":  # gives "Apple M1"; platform says only "arm"
            return said("sysctl", "-n", "machdep.cpu.brand_string").strip()
        with open("/proc/cpuinfo") as file:
            lines = file.read().splitlines()
        if not any(line.startswith("model name") for line in lines):  # on ARM it has numbers, which lscpu knows the names of
            lines = said("lscpu").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    except (OSError, StopIteration, subprocess.SubprocessError):
        return ""


def device_name(device):
    """The name of a device in rows of runs, which always have one thread."""
    return hardware(device) + " (1 thread)" * (device.type != "cuda")


def sources():
    """The code that makes runs: {path below the project's folder: bytes}."""
    files = [path for name in ("benchmarks", "methods") for path in sorted(ROOT.glob(f"{name}/**/*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def code_digest():
    """A hash of this code."""
    return hashlib.sha256(repr(sources()).encode()).hexdigest()


@cache
def code_version():
    """The commit of the code, with + if it was changed since; without git, the version of the installed package with a hash of its code. A copy of
    the code without git can have it in $CODE_VERSION or in a file `code_version`."""
    if named := os.environ.get("CODE_VERSION", "").strip():
        return named
    if (ROOT / "code_version").exists():
        return (ROOT / "code_version").read_text().strip()
    try:
        def git(*words):
            return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), ROOT):  # of another project that contains this one, perhaps in its .venv
            raise OSError
        own = ":(exclude,glob)benchmarks/own_suites/[!_]*.py"  # whose content the rows of their suites name
        changed = git("status", "--porcelain", "--untracked-files=all", "--", "methods", "benchmarks", own)
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        version = "unknown"
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version("sparse-training-suite")
        return f"{version}+{code_digest()[:10]}"


def measured_on(device):
    """The columns of a measurement's row that say where and when it was made."""
    return dict(device=device_name(device), threads=torch.get_num_threads(), torch_version=torch.__version__, code_version=code_version(),
                measured_at=moment())


def note_origin(origins, device, code):
    """Adds this device, torch and code to `origins`, {column of a row: values}, because a run may continue elsewhere than where it began."""
    for column, value in dict(device=device_name(device), torch_version=str(torch.__version__), code_version=code).items():
        if value not in origins.setdefault(column, []):
            origins[column].append(value)


def now(device):
    """The time in seconds, after waiting until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def keep_memory():
    """Has the process keep memory that it frees (glibc). Otherwise each large tensor waits for new pages from the kernel, which would be timed."""
    if libc := _glibc():
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)


def one_core():
    """Limits this process to one thread, and has it keep the memory that a step frees (glibc), so that the next step has no page faults.

    Blocks of half a GB and more are given back: kept ones leave gaps that no other block fits, which would double the memory of a large network.
    """
    torch.set_num_threads(1)
    if libc := _glibc():
        libc.mallopt(MMAP_THRESHOLD, 2 ** 29)
        libc.mallopt(TRIM_THRESHOLD, -1)


@cache
def _glibc():
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def reset_peak_memory(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        if libc := _glibc():
            libc.malloc_trim(0)  # gives back what `one_core` kept
        with contextlib.suppress(OSError):  # Linux: resets the peak of what ran before in this process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device):
    """Peak memory in MB since it was reset: of the device's allocator, or of the process; None if the process's peak cannot be reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if not os.access("/proc/self/clear_refs", os.W_OK):  # macOS: the peak would include all earlier work of the process
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
