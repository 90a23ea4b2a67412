"""Recordings on a GPU, without one, that cannot be ended: what is said of them, and that their device is lost."""
import gc

import pytest
import torch

from benchmarks.gpu import capture
from benchmarks.run import lost


class Graph:
    """`torch.cuda.graph` without a GPU: what waits for the device makes the end of the recording fail too, with an error that says less."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if kind is Waited:
            raise RuntimeError("operation failed due to a previous error during capture")


class Waited(RuntimeError):
    pass


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", type("CUDAGraph", (), {"replay": None}))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(capture, "UNENDED", [])
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)  # one for CPUs alone has none


def test_a_recording_that_cannot_be_ended_is_named_with_its_cause(graphs):
    def function():
        raise Waited("not permitted when stream is capturing\nmore lines")
    gpu = torch.device("cuda", 0)
    assert not lost(gpu)
    with pytest.raises(RuntimeError, match=r"cannot be recorded .*, such as \.item\(\).*not permitted when stream is capturing\)$"):
        capture.cuda_graph(function)
    assert gc.isenabled() and lost(gpu) and not lost(torch.device("cpu"))


def test_what_fails_while_recording_and_leaves_no_recording_is_itself(graphs):
    def function():
        raise torch.OutOfMemoryError("no memory on purpose")
    with pytest.raises(torch.OutOfMemoryError, match="^no memory on purpose$"):
        capture.cuda_graph(function)
    assert gc.isenabled() and not lost(torch.device("cuda", 0))


def test_a_device_that_answers_no_more_is_lost(graphs, monkeypatch):
    def synchronize(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert lost(torch.device("cuda", 0))


def test_no_garbage_is_collected_while_recording(graphs):
    assert capture.cuda_graph(gc.isenabled)[0] is False and gc.isenabled()
