"""The memory of recordings on a GPU, without one: what each has for itself, and what is said where there is none left."""
import pytest
import torch
from test_unended_recordings import Graph, graphs  # noqa: F401

from benchmarks.gpu import capture
from benchmarks.run import lost

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("takes, error", [(True, None), (True, ValueError), (False, None)])
def test_a_recording_has_the_workspaces_of_its_products_to_itself(graphs, monkeypatch, takes, error):  # noqa: F811
    """They are made anew within it, and are nobody's when it has ended: torch would take them away with another recording of the stream.
    Where it does not, nothing is taken from recordings that share them."""
    done = []

    class Noted(Graph):
        def __enter__(self):
            done.append("begin")

        def __exit__(self, *error):
            done.append("end")

    def function():
        done.append("products")
        if error:
            raise error
    monkeypatch.setattr(torch.cuda, "graph", Noted)
    monkeypatch.setattr(capture, "TAKES_WORKSPACES", takes)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: done.append("forget"))
    if error:
        with pytest.raises(error):
            capture.cuda_graph(function)
    else:
        capture.cuda_graph(function)
    assert done == [*["forget"] * takes, "begin", "products", "end", *["forget"] * takes]


@pytest.mark.parametrize("within", [False, True])
def test_no_memory_for_what_is_to_be_replayed_ends_no_process(graphs, monkeypatch, within):  # noqa: F811
    """The recording itself has ended by then: other runs of the process go on, and this one is made alone."""
    class Full(Graph):
        def __exit__(self, *error):
            raise RuntimeError("CUDA error: out of memory\nmore lines")

    def function():
        if within:
            raise torch.OutOfMemoryError("no memory on purpose")
    monkeypatch.setattr(torch.cuda, "graph", Full)
    with pytest.raises(torch.OutOfMemoryError, match=r"no memory for the recording of a step \(CUDA error: out of memory\)$"):
        capture.cuda_graph(function)
    assert not lost(GPU)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a torch for CPUs alone")
def test_torch_has_what_makes_workspaces_anew(monkeypatch):
    """By a name of its own, which torch._inductor.cudagraph_trees uses for the same."""
    monkeypatch.setattr(capture, "TAKES_WORKSPACES", True)
    capture.forget_workspaces()
