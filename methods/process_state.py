"""What the file of a method may set for the whole process, which other runs share: the working folder, warnings, torch's threads and arithmetic."""
import contextlib
import os
import warnings
from functools import partial

import numpy
import torch

CUDNN, CUDA, CPU = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn
FLAGS = [(CUDNN, "enabled"), (CUDNN, "benchmark"), (CUDNN, "deterministic"), (CPU, "enabled")]
if hasattr(torch.backends, "fp32_precision"):  # from torch 2.9 on, which keeps what is set by these names apart from what is set by the earlier ones
    FLAGS += [(part, "fp32_precision") for part in (torch.backends, CUDA, CUDNN, CUDNN.conv, CUDNN.rnn, CPU, CPU.matmul, CPU.conv, CPU.rnn)]


def _tf32():
    """By the earlier names; None where both sets of names are in use, for then torch refuses to say."""
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision(), CUDNN.allow_tf32


def _set_tf32(before):
    if before:
        torch.set_float32_matmul_precision(before[0])
        CUDNN.allow_tf32 = before[1]


def _deterministic():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(before):
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


STATE = [(os.getcwd, os.chdir), (numpy.geterr, lambda before: numpy.seterr(**before)), (torch.get_num_threads, torch.set_num_threads),
         (torch.is_grad_enabled, torch.set_grad_enabled), (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
         (_deterministic, _set_deterministic), (_tf32, _set_tf32), *((partial(getattr, *flag), partial(setattr, *flag)) for flag in FLAGS)]


@contextlib.contextmanager
def kept():
    """Restores it at the end. A default dtype or device stays: a run with another one fails at its first step, and cannot be missed."""
    before = [ask() for ask, _ in STATE]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for (ask, put), value in zip(STATE, before):
            if ask() != value:
                put(value)
