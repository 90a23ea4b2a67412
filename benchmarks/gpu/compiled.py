"""A network's passes in training and evaluation compiled for a GPU: normalisation, activations and sums in few kernels, convolutions of few
channels by `kernels/narrow.py`."""
from contextlib import contextmanager

import torch
from torch.func import functional_call

from benchmarks.gpu.kernels import narrow, residual
from methods.counting import triton_works

GRAPHS = 256  # that one process compiles: of a network one in training and one in evaluation, for each precision and size of batch
FUSED = False  # ResNets in training by kernels/residual.py instead: 1.09 × as fast. Not before a GPU has passed tests/check_device.py fused
aten = torch.ops.aten


def worthwhile(task, device):
    """Whether runs of a task (tasks.Task) on a torch.device are to be compiled: they are long enough for it (it takes some 20 s, once for all runs
    of a network in a process; those of digits are not), and Inductor, from torch 2.10 on, can be told not to choose kernels by their time, which
    another process would choose otherwise, and sum in another order."""
    if device.type != "cuda" or task.dataset == "digits":
        return False
    from torch._inductor import config  # takes seconds
    return hasattr(config, "deterministic") and triton_works()


@contextmanager
def fusing(on):
    """What is `Compiled` within it has FUSED as `on` says; None: as it is."""
    global FUSED
    before = FUSED
    FUSED = before if on is None else on
    try:
        yield
    finally:
        FUSED = before


def with_narrow_convolutions(graph):
    """A graph of Dynamo's, whose convolutions are `narrow.conv2d` from now on."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.conv2d):
        node.target = narrow.conv2d
    graph.recompile()
    return graph


def inductor(graph, inputs):  # always the same function: for another one the network would be compiled again
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table
    # the same bits every time: no kernel is chosen by its time, and max pooling gathers its gradient instead of adding it up in any order
    table = {operator: form for operator, form in select_decomp_table().items() if operator is not aten.max_pool2d_with_indices_backward.default}
    return compile_fx(with_narrow_convolutions(graph), inputs, config_patches={"deterministic": True}, decompositions=table)


class Compiled:
    """`model` (SparseModel), called as it is with x (B, C, H, W), for training on batches of `images` images, and its `apply_weights` for evaluation;
    the model computes others itself. Raises torch's errors for a network that Dynamo cannot trace as a whole.

    Scoring passes are not made by this: what is compiled cannot be differentiated twice. The first network of a kind is freed by Python's garbage
    collection alone: compiling leaves circles.
    """

    def __init__(self, model, images, backend=inductor):
        self.model, self.images, self.evaluated, self.fused = model, images, None, None if FUSED else False
        torch._dynamo.config.cache_size_limit = GRAPHS
        self.counters, uncounted = counters_of(model.net)
        self.compute = torch.compile(computing(model.net, model.layout, uncounted), fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, x):
        if len(x) != self.images or not self.model.training:
            return self.model(x)
        self.model.compute = lambda weights, views, x: self.in_training(weights, x)
        try:
            logits = self.model(x)
        finally:
            del self.model.compute
        if self.counters:
            torch._foreach_add_(self.counters, 1)
        return logits

    def in_training(self, weights, x):
        half = torch.is_autocast_enabled(x.device.type)  # in float32 the library is faster (narrow.MOST)
        if half and self.fused is None:
            self.fused = residual.fused(self.model.net, self.model.layout, x, torch.get_autocast_dtype(x.device.type)) or False
        return (self.fused if half and self.fused and self.fused.in_training() else self.compute)(weights, x)

    def apply_weights(self, weights, x):
        """The network's output in evaluation with the effective weights (N,)."""
        self.evaluated = self.evaluated or len(x)
        return self.compute(weights.detach(), x) if len(x) == self.evaluated else self.model.apply_weights(weights, x)


def computing(net, layout, uncounted):
    """The network's output with the effective weights (N,), as a function of these and of its input."""
    def compute(weights, x):
        if torch.is_autocast_enabled(x.device.type):  # rounded once for all layers
            weights = weights.to(torch.get_autocast_dtype(x.device.type))
        return functional_call(net, {**layout.named_views(weights), **uncounted}, (x,), tie_weights=False)
    return compute


def counters_of(net):
    """(how many batches normalisations have seen, as tensors; {name: None} of them): a kernel for each would cost more than a layer's weights.
    Where a normalisation has no momentum, its own counter decides."""
    names = [f"{name}.num_batches_tracked".lstrip(".") for name, module in net.named_modules()
             if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.momentum is not None and module.num_batches_tracked is not None]
    return [net.get_buffer(name) for name in names], dict.fromkeys(names)
