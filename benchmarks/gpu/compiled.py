"""Compiles a network's passes in training and evaluation for a GPU: normalisation, activations and sums in few kernels, convolutions with few
channels by `narrow.py`."""
import torch
from torch.func import functional_call

from benchmarks.gpu import narrow
from methods.counting import triton_works

GRAPHS = 256  # most graphs that a process compiles: two for a network (training, evaluation), for each precision and batch size
aten = torch.ops.aten


def worthwhile(task, device):
    """Whether runs of a task (recipes.Task) on a torch.device are to be compiled. They must be long enough: compiling takes some 20 s, once for all
    runs of a network in a process, too much for digits. And Inductor must be able (from torch 2.10 on) not to choose kernels by timing them, because
    another process could then choose other ones, which sum in another order."""
    if device.type != "cuda" or task.dataset == "digits":
        return False
    from torch._inductor import config  # importing it takes seconds
    return hasattr(config, "deterministic") and triton_works()


def with_narrow_convolutions(graph):
    """Replaces the convolutions in a graph of Dynamo by `narrow.conv2d`; returns the graph."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.conv2d):
        node.target = narrow.conv2d
    graph.recompile()
    return graph


def inductor(graph, inputs):  # a single function, because with another one the network would be compiled again
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table
    # the same bits every time: kernels are not chosen by timing, and max pooling gathers its gradient instead of adding it up in any order
    table = {operator: form for operator, form in select_decomp_table().items() if operator is not aten.max_pool2d_with_indices_backward.default}
    return compile_fx(with_narrow_convolutions(graph), inputs, config_patches={"deterministic": True}, decompositions=table)


class Compiled:
    """A compiled `model` (SparseModel), to be called like it with x (B, C, H, W) in training on batches of `images` images, and its `apply_weights`
    for evaluation; batches of other sizes are left to the model itself. Raises torch's errors for a network that Dynamo cannot trace as a whole.

    Not for scoring passes: compiled code cannot be differentiated twice. The first network of a kind is only freed by Python's garbage
    collection, because compiling leaves reference cycles.
    """

    def __init__(self, model, images, backend=inductor):
        self.model, self.images, self.evaluated = model, images, None
        torch._dynamo.config.cache_size_limit = GRAPHS
        self.counters, uncounted = counters_of(model.net)
        self.compute = torch.compile(computing(model.net, model.layout, uncounted), fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, x):
        if len(x) != self.images or not self.model.training:
            return self.model(x)
        self.model.compute = lambda weights, views, x: self.compute(weights, x)
        try:
            logits = self.model(x)
        finally:
            del self.model.compute
        if self.counters:
            torch._foreach_add_(self.counters, 1)
        return logits

    def apply_weights(self, weights, x):
        """The network's output in evaluation with the effective weights (N,)."""
        self.evaluated = self.evaluated or len(x)
        return self.compute(weights.detach(), x) if len(x) == self.evaluated else self.model.apply_weights(weights, x)


def computing(net, layout, uncounted):
    """A function of effective weights (N,) and an input that returns the network's output."""
    def compute(weights, x):
        if torch.is_autocast_enabled(x.device.type):  # rounds once for all layers
            weights = weights.to(torch.get_autocast_dtype(x.device.type))
        return functional_call(net, {**layout.named_views(weights), **uncounted}, (x,), tie_weights=False)
    return compute


def counters_of(net):
    """(the normalisations' counters of batches, as tensors; {name: None} for them, with which the layers skip counting). They are updated together,
    because a kernel for each would cost more than a layer's weights. Not those of normalisations without momentum, which use their counter."""
    names = [f"{name}.num_batches_tracked".lstrip(".") for name, module in net.named_modules()
             if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.momentum is not None and module.num_batches_tracked is not None]
    return [net.get_buffer(name) for name in names], dict.fromkeys(names)
