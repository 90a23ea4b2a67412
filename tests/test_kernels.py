"""The kernels for GPUs (Triton), by Triton's interpreter and, where they can be compiled without one, as programs of a GPU."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import narrow

TESTS = Path(__file__).parent
triton = pytest.importorskip("triton", reason="torch for CPUs alone has no Triton")
VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
if VERSION < (3, 3):  # the kernels themselves are as good there
    pytest.skip("Triton before 3.3 is asked in another way to compile for a GPU that is not there", allow_module_level=True)


@pytest.mark.skipif(VERSION < (3, 8), reason="before Triton 3.8 its interpreter cannot count to a number it is given, with NumPy 2.4")
def test_they_compute_what_torch_does():
    done = subprocess.run([sys.executable, TESTS / "kernels.py"], capture_output=True, text=True, timeout=3600,
                          env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)})
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr[-2000:]


@pytest.mark.parametrize("arch, kilobytes", [(80, 163), (86, 99), (90, 227), (120, 99)])  # fast memory of a program
@pytest.mark.parametrize("numbers, exactness", [("bf16", "ieee"), ("fp32", "ieee"), ("fp32", "tf32")])
def test_they_compile_for_a_gpu_and_fit_into_it(numbers, exactness, arch, kilobytes, monkeypatch):
    """The largest of each, in the form for such a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(shared_memory_per_block_optin=1024 * kilobytes))
    stages = narrow.stages.__wrapped__(torch.device("cuda"))
    channels = narrow.MOST[2 if numbers == "bf16" else 4]
    sides = dict(height=32, width=32, rows=32, columns=32, stride=1, size=3, inputs=channels, outputs=channels, wide=channels, exactness=exactness)
    whole = dict.fromkeys(("pixels", "each", "at_n", "at_k", "at_tap"), "i32")
    gathering = {**sides, "back": True, "block": narrow.BLOCK, "deep": min(32, channels)}
    summing = {**sides, "block": narrow.BLOCK if numbers == "bf16" else narrow.BLOCK // 2, "deep": channels}
    for kernel, fixed in ((narrow._gather, gathering), (narrow._products, summing)):
        given = {name: whole.get(name, "*fp32" if name == "parts" else f"*{numbers}") for name in kernel.arg_names}
        aligned = [name for name in given if name not in whole and name not in fixed]
        assert memory(kernel, given, fixed, aligned, arch, 3 if kernel is narrow._gather else stages) < 1024 * kilobytes


def test_ranking_compiles_for_a_gpu():
    from methods import counting
    given = dict(score="*fp32", k="*i64", counts="*i32", last="*i32", mask="*i1", n="i32")
    fixed = dict(digits=counting.DIGITS, bins=counting.BINS, block=counting.BLOCK)
    for kernel, own in ((counting._count, {"number": 0}), (counting._count, {"number": 3}), (counting._choose, {"together": 1024})):
        assert memory(kernel, given, {**fixed, **own}) < 227 * 1024


def memory(kernel, given, fixed, aligned=(), arch=90, stages=3):
    """Bytes of fast memory of a program, compiled with these types of what is given and these values of what is fixed; aligned: what is at places of
    whole 16 bytes, as PyTorch's tensors are, and is copied there by another way."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kinds = {name: "constexpr" if name in fixed else given[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    whole = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    made = triton.compile(ASTSource(kernel, kinds, places, whole), target=GPUTarget("cuda", arch, 32), options=dict(num_stages=stages, num_warps=4))
    return made.metadata.shared
