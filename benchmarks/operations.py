"""What the passes of CIFAR's ResNets on a GPU consist of, for replays.py: each operation timed alone, and the kernels in the recorded parts.

- The operations are the launches of kernels/narrow.py in a compiled network ("compiled"), those of a network by kernels/residual.py ("fused"), and
  for comparison PyTorch's own convolutions of the same shapes and a copy of one activation ("torch"). A pass on the CPU notes them with their
  arguments, without launching anything. Launches with different shapes or constants count as different operations.
- Each is called CALLS times in a recording, alternating between SETS sets of tensors, so that little of what it reads is in the cache; every
  stream has its own sets. us: microseconds of a call; step_us: of all calls in a step.
- The kernels are those that CUPTI, through torch.profiler, saw in one replay.
"""
import json
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.gpu.capture import cuda_graph
from benchmarks.gpu.kernels import narrow, normalised, residual
from benchmarks.machine import now
from methods import SparseModel

KERNELS = {"_gather": narrow, "_products": narrow, "_forward": normalised, "_join": normalised, "_settle": normalised, "_backward": normalised,
           "_add": normalised}
SHAPE = "height width rows columns stride size inputs outputs channels numbers back kind added norms programs".split()  # arguments shown in a row
CALLS, SETS = 64, 8
GIVEN = dict(grid="grid", block="block", registers="registers per thread", shared_memory="shared memory", occupancy="est. achieved occupancy %")
aten = torch.ops.aten


class Operation(NamedTuple):
    """function(*arguments[0], **arguments[1]), which a step calls `calls` times."""
    loop: str
    kernel: str
    shape: str
    calls: int
    function: Callable
    arguments: Any


class Noted:
    """A stand-in for a Triton kernel that notes its launches and does nothing."""

    def __init__(self, name, kernel, notes):
        self.name, self.kernel, self.notes = name, kernel, notes

    def __getitem__(self, grid):
        def launch(*places, **names):
            given = dict(zip(self.kernel.arg_names, places)) | names | {"programs": grid[0] * (grid + (1,))[1]}
            shape = " ".join(f"{name}={given[name]}" for name in SHAPE if given.get(name) not in (None, ""))
            self.notes.append((self.name, shape, self.kernel[grid], (places, names)))
        return launch


@contextmanager
def noting(notes):
    """A context in which all kernels are replaced by `Noted` ones."""
    kernels = {name: getattr(module, name) for name, module in KERNELS.items()}
    try:
        for name, module in KERNELS.items():
            setattr(module, name, Noted(name, kernels[name], notes))
        yield
    finally:
        for name, module in KERNELS.items():
            setattr(module, name, kernels[name])


class Narrow(TorchFunctionMode):
    """A mode in which convolutions use kernels/narrow.py, as in a compiled network."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (narrow.conv2d if function is torch.conv2d else function)(*args, **(kwargs or {}))


class OnGPU(TorchDispatchMode):
    """A mode in which the operators of narrow.py take their GPU path on the CPU; PyTorch's own operation for the same is noted, too."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace != "sparse_training":
            return operator(*args, **(kwargs or {}))
        kind, own = operator._opname, {"convolution": narrow.forward_kernel, "convolution_input": narrow.input_kernel,
                                       "convolution_weight": narrow.weight_kernel}[operator._opname]
        if kind == "convolution":
            x, weight, stride = args
            out = narrow.output_of(*args)
        elif kind == "convolution_input":
            out, weight, height, width, stride = args
            x = narrow.channels_last(out, weight.shape[1], height, width)
        else:
            out, x, size, stride = args
            weight = x.new_empty((out.shape[1], size, size, x.shape[1])).permute(0, 3, 1, 2)
        shape = " ".join(map("{}={}".format, SHAPE, (*x.shape[2:], *out.shape[2:], stride, weight.shape[-1], x.shape[1], out.shape[1])))
        given = x, weight, None, [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0], 1
        backward = out, *given, [kind == "convolution_input", kind == "convolution_weight", False]
        self.notes.append((kind, shape, aten.convolution, (given, {})) if kind == "convolution" else
                          (kind, shape, aten.convolution_backward, (backward, {})))
        return own(*args)


def operations(net, images, side=32, dtype=torch.bfloat16):
    """The Operations of a network's passes on a batch of so many images, in a dtype."""
    found, model, x = {}, SparseModel(net, "dense"), torch.zeros(images, 3, side, side)
    for loop in ("compiled", "fused"):
        notes, computed = [], loop == "fused" and residual.fused(model.net, model.layout, x, dtype)
        if computed is None:
            continue
        with noting(notes), torch.autocast("cpu", dtype, enabled=dtype.itemsize == 2), nullcontext() if computed else Narrow(), OnGPU(notes):
            weights = model.method(model.theta)
            (computed(weights, x) if computed else model.apply_weights(weights, x)).sum().backward()
        for kernel, shape, function, arguments in notes:
            own = loop if kernel in KERNELS else "torch"
            before = found.get((own, kernel, shape))
            given = tree_map_only(torch.Tensor, torch.detach, arguments)
            found[own, kernel, shape] = Operation(own, kernel, shape, before.calls + 1 if before else 1, function, given)
    one = torch.empty(images, 16, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    copy = Operation("torch", "copy", "x".join(map(str, one.shape)), 1, aten.copy_, ((one, one.clone()), {}))
    return sorted([*found.values(), copy], key=lambda one: one.loop)


def timed(calls, device, rounds):
    """(microseconds per call until the device has done all, microseconds per call for only launching it). calls: [(stream or None, function, ...)],
    which take turns; a first round does not count."""
    for number in range(1 + rounds):
        if number == 1:
            began = now(device)
        for stream, function, *_ in calls:
            with torch.cuda.stream(stream) if stream else nullcontext():
                function()
    asked = time.perf_counter() - began
    return [1e6 * seconds / rounds / len(calls) for seconds in (now(device) - began, asked)]


def on_a_stream(function, device):
    """(stream, function that replays function() on it, function, to keep its tensors alive); on a CPU function() is simply called."""
    function()  # compiles and loads kernels, which is not allowed while recording
    if device.type == "cpu":
        return None, function, function
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        return stream, cuda_graph(function)[1], function


def drawn(tensor):
    """A copy of a tensor with random numbers between 0 and 1; integers keep their values."""
    return tensor.clone().uniform_() if tensor.is_floating_point() else tensor.clone()


def measured(operation, packs, device, rounds):
    """Yields a row of an operation for each number of streams in `packs`."""
    there, lanes = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), operation.arguments), []
    for _ in range(max(packs)):
        sets = [tree_map_only(torch.Tensor, drawn, there) for _ in range(SETS)]
        lanes.append(on_a_stream(lambda sets=sets: called(operation.function, sets), device))
    for runs in packs:
        us, host_us = timed(lanes[:runs], device, rounds)
        yield dict(loop=operation.loop, kernel=operation.kernel, shape=operation.shape, calls=operation.calls, runs=runs, us=round(us / CALLS, 3),
                   step_us=round(operation.calls * us / CALLS, 2), host_us=round(host_us, 1))


def called(function, sets):
    """The results of CALLS calls, all kept, so that each has memory of its own."""
    return [function(*places, **names) for places, names in islice(cycle(sets), CALLS)]


def profiled(calls, device):
    """Rows from one replay of each of `calls`, [(stream, replay, ...)], in parallel: first one for the time from the first kernel's start to the last
    one's end, then one for each kernel. us: of all its calls, divided by the number of streams. [] if no kernels are seen."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if device.type == "cuda" else kinds.CPU]) as found:
        for stream, replay, *_ in calls:
            with torch.cuda.stream(stream) if stream else nullcontext():
                replay()
        now(device)
    with tempfile.TemporaryDirectory() as folder:
        found.export_chrome_trace(str(path := Path(folder) / "trace.json"))
        return rows_of(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], len(calls))


def rows_of(events, runs):
    """The rows of `profiled`, from the events of a trace in Chrome's format."""
    events = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    if not events:
        return []
    us, calls, of = Counter(), Counter(), {}
    for event in events:
        given = event.get("args", {})
        numbers = {name: given.get(key, "") for name, key in GIVEN.items()}
        numbers |= {name: "x".join(map(str, value)) for name, value in numbers.items() if isinstance(value, list)}
        key = event["name"][:120], *numbers.values()
        us[key], calls[key], of[key] = us[key] + event["dur"], calls[key] + 1, numbers
    rows = [dict(kernel=key[0], calls=calls[key] / runs, us=round(us[key] / runs, 2), **of[key]) for key in sorted(us, key=us.get, reverse=True)]
    whole = max(event["ts"] + event["dur"] for event in events) - min(event["ts"] for event in events)
    return [dict(kernel="all, from first to last", calls=len(events) / runs, us=round(whole / runs, 2), **dict.fromkeys(GIVEN, "")), *rows]
