"""What the file of a method may set for the whole process, which other runs share: the working folder, and torch's threads and arithmetic."""
import contextlib
import os

import torch

CUDNN, CUDA, CPU = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn
FLAGS = [(CUDNN, "enabled"), (CUDNN, "benchmark"), (CUDNN, "deterministic"), (CPU, "enabled")]
if hasattr(torch.backends, "fp32_precision"):  # from torch 2.9 on, which keeps what is set by these names apart from what is set by the earlier ones
    FLAGS += [(part, "fp32_precision") for part in (torch.backends, CUDA, CUDNN, CUDNN.conv, CUDNN.rnn, CPU, CPU.matmul, CPU.conv, CPU.rnn)]


@contextlib.contextmanager
def kept():
    """Restores it at the end. A default dtype or device stays: a run with another one fails at its first step, and cannot be missed."""
    folder, threads, tf32, flags = os.getcwd(), torch.get_num_threads(), _tf32(), [getattr(*flag) for flag in FLAGS]
    try:
        yield
    finally:
        os.chdir(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if tf32 and _tf32() != tf32:
            torch.set_float32_matmul_precision(tf32[0])
            CUDNN.allow_tf32 = tf32[1]
        for (part, name), before in zip(FLAGS, flags):
            if getattr(part, name) != before:
                setattr(part, name, before)


def _tf32():
    """By the earlier names; None where both sets of names are in use, for then torch refuses to say."""
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision(), CUDNN.allow_tf32
