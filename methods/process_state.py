"""What the file of a method may set for the whole process, which other runs share: the working folder, warnings, torch's threads and arithmetic."""
import contextlib
import os
import warnings
from operator import attrgetter

import numpy
import torch

# of torch.backends. What is set by the names with fp32_precision, of torch 2.9 and later, is kept apart from what is set by the earlier ones
FLAGS = """cudnn.enabled cudnn.benchmark cudnn.deterministic mkldnn.enabled fp32_precision cuda.matmul.fp32_precision cudnn.fp32_precision
           cudnn.conv.fp32_precision cudnn.rnn.fp32_precision mkldnn.fp32_precision mkldnn.matmul.fp32_precision mkldnn.conv.fp32_precision
           mkldnn.rnn.fp32_precision""".split()


def _flags():
    """{name: value} of the FLAGS that this version has."""
    found = {}
    for name in FLAGS:
        with contextlib.suppress(AttributeError):
            found[name] = attrgetter(name)(torch.backends)
    return found


def _set_flags(before):
    for name, value in before.items():
        if attrgetter(name)(torch.backends) != value:
            *parents, last = name.split(".")
            setattr(attrgetter(".".join(parents))(torch.backends) if parents else torch.backends, last, value)


def _tf32():
    """By the earlier names; None where both sets of names are in use, for then torch refuses to say."""
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def _set_tf32(before):
    if before:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _deterministic():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(before):
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


STATE = [(os.getcwd, os.chdir), (numpy.geterr, lambda before: numpy.seterr(**before)), (torch.get_num_threads, torch.set_num_threads),
         (torch.is_grad_enabled, torch.set_grad_enabled), (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
         (_deterministic, _set_deterministic), (_tf32, _set_tf32), (_flags, _set_flags)]


@contextlib.contextmanager
def kept():
    """A context that restores all of STATE, and the filters of warnings, at its end. A default dtype or device stays: a run with another one fails at
    its first step, and cannot be missed."""
    before = [ask() for ask, _ in STATE]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for (ask, put), value in zip(STATE, before):
            if ask() != value:
                put(value)
