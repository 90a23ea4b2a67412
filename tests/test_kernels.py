"""The kernels for GPUs (Triton), by Triton's interpreter and, where they can be compiled without one, as programs of a GPU."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import models
from benchmarks.gpu.kernels import narrow, normalised, residual
from methods import SparseModel

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


@pytest.mark.parametrize("numbers, exactness", [("bf16", "ieee"), ("fp32", "ieee"), ("fp32", "tf32")])
def test_they_compile_for_a_gpu_and_fit_into_it(numbers, exactness):
    """The largest of each: of a Hopper, whose programs have 227 KB of fast memory."""
    channels = narrow.MOST[2 if numbers == "bf16" else 4]
    sides = dict(height=32, width=32, rows=32, columns=32, stride=1, size=3, inputs=channels, outputs=channels, wide=channels, exactness=exactness)
    whole = dict.fromkeys(("pixels", "each", "at_n", "at_k", "at_tap"), "i32")
    gathering = {**sides, "back": True, "block": narrow.BLOCK, "deep": min(32, channels)}
    summing = {**sides, "block": narrow.BLOCK if numbers == "bf16" else narrow.BLOCK // 2, "deep": channels}
    for kernel, fixed in ((narrow._gather, gathering), (narrow._products, summing)):
        given = {name: whole.get(name, "*fp32" if name == "parts" else f"*{numbers}") for name in kernel.arg_names}
        assert memory(kernel, given, fixed, [name for name in given if name not in whole and name not in fixed]) < 227 * 1024


class Noted:
    """A kernel of Triton's that notes its launches, and does nothing."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *places, num_warps, num_stages=3, **names: self.launches.append(
            (self.kernel, dict(zip(self.kernel.arg_names, places)) | names, num_warps, num_stages))


def launched(monkeypatch, name, dtype=torch.bfloat16):
    """[(kernel, its arguments, warps, stages)] of a step of a network on batches of 128 images."""
    launches = []
    for kernel in ("_forward", "_join", "_settle", "_backward", "_add", "_gather", "_products"):
        module = narrow if kernel in ("_gather", "_products") else normalised
        monkeypatch.setattr(module, kernel, Noted(getattr(module, kernel), launches))
    model, x = SparseModel(models.build(name, 10), "dense"), torch.zeros(128, 3, 32, 32)
    residual.fused(model.net, model.layout, x, dtype)(model.method(model.theta), x).sum().backward()
    return launches


@pytest.mark.parametrize("name, count", [("resnet20", 104), ("resnet56", 276)])
def test_of_a_residual_network_they_are_few(name, count, monkeypatch):
    assert len(launched(monkeypatch, name)) == count


@pytest.mark.parametrize("dtype, forms", [(torch.bfloat16, ("kind", "added", "norms", "size")), (torch.float32, ())])  # as check_device.py has
def test_those_of_a_residual_network_compile_for_a_gpu_and_fit_into_it(dtype, forms, monkeypatch):
    """The largest of each: of 64 channels, or with two normalisations before the inputs."""
    types, compiled = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32"}, set()
    for kernel, given, warps, stages in launched(monkeypatch, "resnet20", dtype):
        fixed = {name: value for name, value in given.items() if kernel.params[kernel.arg_names.index(name)].is_constexpr}
        kinds = {name: types[value.dtype] if torch.is_tensor(value) else "i32" if isinstance(value, int) else "fp32" for name, value in given.items()}
        kind = kernel.fn.__name__, *(fixed.get(name) for name in forms)
        if kind not in compiled and fixed.get("inputs", 64) * fixed.get("outputs", 64) >= 32 * 64:
            compiled.add(kind)
            assert memory(kernel, kinds, fixed, [name for name in kinds if torch.is_tensor(given[name])], warps, stages) < 227 * 1024, kind
    assert {kind[0] for kind in compiled} == {"_forward", "_join", "_settle", "_backward", "_add", "_gather", "_products"}


def test_ranking_compiles_for_a_gpu():
    from methods import counting
    given = dict(score="*fp32", k="*i64", counts="*i32", last="*i32", mask="*i1", n="i32")
    fixed = dict(digits=counting.DIGITS, bins=counting.BINS, block=counting.BLOCK)
    for kernel, own in ((counting._count, {"number": 0}), (counting._count, {"number": 3}), (counting._choose, {"together": 1024})):
        assert memory(kernel, given, {**fixed, **own}) < 227 * 1024


def memory(kernel, given, fixed, aligned=(), warps=4, stages=3):
    """Bytes of fast memory of a program, compiled with these types of what is given and these values of what is fixed; aligned: what is at places of
    whole 16 bytes, as PyTorch's tensors are, and is copied there by another way."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kinds = {name: "constexpr" if name in fixed else given[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    whole = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    options = {"num_stages": stages, "num_warps": warps}
    return triton.compile(ASTSource(kernel, kinds, places, whole), target=GPUTarget("cuda", 90, 32), options=options).metadata.shared
