"""Training on a GPU that is not there: tensors of shapes and a device, without numbers (torch's FakeTensorMode).

Every operation between tensors of two devices is refused, as a GPU refuses it, and what waits for the device is noted. Gradients are
zeros that cost nothing: autograd needs a driver. `python tests/fake_gpu.py NAME ...` prints {name: what is wrong, or ""} as JSON, for
methods ("rigl", "st3 ft_epochs=2") and networks ("model DATASET"); its exit status is UNABLE where torch (2.5) makes no such tensors.
A process of its own, and without garbage collection, in which torch fails on such tensors now and then.
"""
import gc
import json
import os
import sys
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from test_every_method import make, small_digits
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import methods
from benchmarks import models
from benchmarks.batches import Split
from benchmarks.gpu import capture
from methods import SparseModel, Training

aten, GPU, OURS = torch.ops.aten, torch.device("cuda"), Path(__file__).parent.parent
# whose updates need numbers that add up, such as how many weights are active
RARE = ("gradual", "srigl")
SIZES = {"digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100), "imagenet": ((3, 224, 224), 1000)}
UNABLE = 3
waits, trainings, start = [], [], Training.start


def item(mode, function, tensor):
    """Any number, and a note of where ours waited for it."""
    if tensor.device.type == "cuda":
        frames = [f for f in traceback.extract_stack() if f.filename.startswith((f"{OURS}/methods", f"{OURS}/benchmarks"))]
        waits.append(f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}")
    return True if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1


class Transfers(TorchDispatchMode):
    """Notes copies between the CPU's memory and the device's, each of which waits, too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        if function in (aten._to_copy.default, aten.copy_.default):
            places = {t.device.type for t in tree_leaves((args, results)) if torch.is_tensor(t)}
            waits.extend([f"a copy between devices: {function}"] * (len(places) > 1))
        return results


def apply(module, function, recurse=True):
    """`Module._apply`, which wants to swap tensors that cannot be swapped."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(function(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else function(buffer)
    return module


def backward(loss):
    training = trainings[-1]
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    training.model.dense_gradient = torch.zeros_like(training.theta)


def pretend():
    """Replaces what asks for a driver."""
    torch.nn.Module._apply, torch.Tensor.backward = apply, backward
    torch.autograd.grad = lambda outputs, inputs, *_, **__: tuple(map(torch.zeros_like, [inputs] if torch.is_tensor(inputs) else inputs))
    Training.start = lambda training, cycle=0: trainings.append(training) or start(training, cycle)
    torch.cuda.is_current_stream_capturing = lambda: False
    capture.WARM = 1  # the second of a kind is recorded
    torch.optim.Optimizer._cuda_graph_capture_health_check = lambda optimizer: None
    table = fake_impls.op_implementations_dict
    table[aten._local_scalar_dense.default] = item
    for function in (aten._fused_sgd_.default, aten._fused_sgd_.tensor_lr):  # which has no form for shapes alone
        table[function] = lambda *args, **options: None


def record(function):
    """A part of a step that is recorded, and then replayed for nothing."""
    before = len(waits)
    with Transfers():
        result = function()
    assert len(waits) == before, f"a recorded part waits for the device: {waits[before:]}"
    return result, int


def train(name):
    """An epoch of four steps, an update of the mask at its end, and two steps more; parts of a step as they are recorded."""
    if "interval" in methods.get(name.split()[0]).options():
        name += f" interval={1000 if name.split()[0] in RARE else 4}"
    data = small_digits()
    splits = {part: Split(getattr(data, part).images.to(GPU), getattr(data, part).labels.to(GPU)) for part in ("train", "val", "test")}
    trainer = make(name, record=record, data=replace(data, **splits), device=GPU)
    tensors = [*trainer.model.named_parameters(), *trainer.model.named_buffers()]
    assert all(t.device.type == "cuda" for _, t in tensors), [name for name, t in tensors if t.device.type != "cuda"]
    steps = trainer.steps()
    for parts in (6, 2):
        for step in range(parts):  # the last two are the end of the epoch: the evaluation, and what comes of it
            waits.clear()
            with Transfers():
                next(steps)
            assert step not in (1, 2) or not waits, f"an ordinary step waits for the device: {waits}"
    assert trainer.forward_backward.replay and trainer.training.apply.replay, "nothing was recorded"


def compute(model, dataset):
    size, classes = SIZES[dataset]
    sparse = SparseModel(models.build(model, classes).to(GPU), "st3", 0.9)
    for mode in (sparse.train, sparse.eval):
        mode()
        out = sparse(torch.empty(4, *size, device=GPU))
        assert out.device.type == "cuda" and out.shape == (4, classes), (out.device, out.shape)


def problem(name):
    first, *rest = name.split()
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            compute(first, *rest) if first in models.MODELS else train(name)
            return ""
        except Exception as error:
            return "".join(traceback.format_exception(error)[-4:])


def able():
    with FakeTensorMode():
        try:
            return torch.ones(()).to(GPU).device.type == GPU.type
        except RuntimeError:  # it asks for a driver
            return False


if __name__ == "__main__":
    if not able():
        sys.exit(UNABLE)
    gc.disable()
    warnings.simplefilter("ignore")
    pretend()
    print(json.dumps({name: problem(name) for name in sys.argv[1:]}), flush=True)
    os._exit(0)
