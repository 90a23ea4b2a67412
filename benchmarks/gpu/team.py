"""Several processes on one machine that make one run together: each has a GPU and its part of every batch (torch.distributed).

Up to rounding, the run is that of one process with the whole batch: gradients and the statistics of batch normalisation are those of the
whole batch. Only the first process stores anything, and it decides when a checkpoint is due; the others run team_member.py.
In a run with a single process, the functions here change nothing.
"""
import contextlib
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from methods.processes import rank, world_size

BUFFERS = "broadcast_buffers", "forward_sync_buffers"  # old and new (torch 2.14) name of the option
SYNCED_EACH_STEP = BUFFERS[BUFFERS[1] in inspect.signature(nn.parallel.DistributedDataParallel).parameters]
GRACE = 30  # seconds that a run gets to end by itself after one of its other processes has ended


def part(count):
    """The slice of a batch of `count` images that is this process's part."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def agreed(*flags):
    """The first process's values of these flags, in all processes."""
    if world_size() == 1:
        return flags
    said = torch.tensor(flags, dtype=torch.uint8)
    dist.broadcast(said, 0)
    return tuple(map(bool, said.tolist()))


def total(tensor):
    """The sum over the processes."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gathered(tensor):
    """The tensors of all processes, stacked."""
    if world_size() == 1:
        return tensor[None]
    values = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(values, tensor)
    return torch.stack(values)


def own(values):
    """This process's part of what `gathered` returned; if the number of processes has changed, the first gets the sum, the others zeros."""
    return values[rank()] if len(values) == world_size() else values.sum(0) * (rank() == 0)


def parallel(model):
    """The model, wrapped so that its gradients are the mean over the processes."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, **{SYNCED_EACH_STEP: False})  # buffers are equal in all processes anyway


def join_norms(net):
    """`net`, changed so that batch normalisation is over the whole batch."""
    if world_size() == 1:
        return net
    if next(net.parameters()).is_cuda:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        module.__class__ = {nn.BatchNorm2d: JoinedBatchNorm, nn.SyncBatchNorm: SyncedBatchNorm}.get(type(module), type(module))
    return net


class SyncedBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm, where a process may have no image of a batch: torch's sends its zeros with 16 bits then, if the network computes so, and the
    others their sums with 32."""

    def forward(self, x):
        return super().forward(x if len(x) else x.float())


class Total(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of the gradients in all processes."""

    @staticmethod
    def forward(ctx, tensor):
        return total(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return Total.apply(gradient)


class JoinedBatchNorm(nn.BatchNorm2d):
    """SyncBatchNorm for CPUs (torch's is for GPUs)."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        x32 = x.float() if x.element_size() < 4 else x
        sums = torch.cat([x32.sum((0, 2, 3)), x32.square().sum((0, 2, 3)), x32.new_tensor([x32.numel() / x32.shape[1]])])
        first, second, n = Total.apply(sums).split([x.shape[1], x.shape[1], 1])
        mean, variance = first / n, second / n - (first / n).square()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x32 * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)


def wanted(task, device):
    """How many processes make a run of this Task: one for each visible GPU if the task uses all, else 1."""
    return torch.cuda.device_count() if task.on_all_gpus and device.type == "cuda" and device.index is None else 1


@contextlib.contextmanager
def assembled(spec, store, folder, task, device):
    """A context in which all processes of the run exist. Yields the device of this one.

    If another process ends with an error, this one has GRACE seconds to end with the same error; then it is terminated.
    """
    count = 1 if world_size() > 1 else wanted(task, device)
    if count == 1:
        yield device
        return
    if task.batch_size % count:
        raise ValueError(f"a batch of {task.batch_size} cannot be shared by {count} processes; CUDA_VISIBLE_DEVICES says which GPUs to use")
    if task.storage != "masked":
        raise ValueError("storage=sparse runs in one process; CUDA_VISIBLE_DEVICES says which GPU to use")
    helpers, ended = [], threading.Event()

    def watch(helper):
        if helper.wait() and not ended.wait(GRACE):
            print(f"another process of this run ended (exit status {helper.returncode})", file=sys.stderr, flush=True)
            os._exit(1)
    with tempfile.TemporaryDirectory() as place:
        try:
            for number in range(1, count):
                helper = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.team_member"], stdin=subprocess.PIPE,
                                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                                          start_new_session=True)  # so that only the first process gets Ctrl-C
                helpers.append(helper)
                pickle.dump((number, count, place, device.type, spec, str(store.folder), str(folder)), helper.stdin)
                helper.stdin.flush()
                threading.Thread(target=watch, args=(helper,), daemon=True).start()
            with joined(0, count, place):
                yield torch.device("cuda", 0) if device.type == "cuda" else device
        finally:
            ended.set()
            for helper in helpers:
                helper.stdin.close()  # ends the helper, if it has not ended
            for helper in helpers:
                try:
                    helper.wait(GRACE)
                except subprocess.TimeoutExpired:
                    helper.kill()
                    helper.wait()


@contextlib.contextmanager
def joined(number, count, place):
    """A context in which this process is number `number` of the `count` in the group whose folder is `place`."""
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{place}/group", rank=number, world_size=count)
    try:
        yield
    finally:
        time.sleep(0.1)  # up to torch 2.6 the group's threads, if they still drop a tensor, and its end wait for each other forever
        dist.destroy_process_group()
