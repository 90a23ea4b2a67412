"""Parts of a training step recorded once and then replayed: on a GPU without Python and without launching each kernel (CUDA graphs).

What is recorded is a function of fixed work: it reads and writes the same tensors at every call. What varies from step to step (the
batch, the learning rate) is copied into tensors that stay; what a method replaces (a mask, a gradient) is copied back into the recorded
one. Numbers of Python and branches are those of the recording, so that whatever they depend on belongs to `key`.
"""
import torch

WARM = 3  # calls of a kind that are made as they are, before one is recorded: libraries choose their kernels in them


def cuda_graph(function):
    """Records function() on the current stream, which must not be the default one; returns (what it returned, replay function)."""
    graph = torch.cuda.CUDAGraph()
    # the threads of a DataLoader, which pin memory, are no part of it
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        result = function()
    return result, graph.replay


class Captured:
    """`function(*inputs)` recorded by `record` after WARM calls with the same `key()` and the largest shapes seen, from then on replayed.

    parameters: whose gradients the function reads or writes. module: all of its buffers stay where they were recorded.
    record: `cuda_graph`, or another function of that form. Calls of smaller shapes (the last batch of an epoch), and all under a key that
    has been seen less than WARM times, run as they are. What the function returns and its gradients are overwritten by the next replay.
    """

    def __init__(self, function, parameters, module, record, key=lambda: None):
        self.function, self.parameters, self.module, self.record, self.key = function, parameters, module, record, key
        self.seen, self.shapes, self.size, self.calls, self.replay = None, None, -1, 0, None

    def __call__(self, *inputs):
        seen = (self.key(), tuple(p.grad is None for p in self.parameters))
        if seen != self.seen:
            self.seen, self.calls, self.replay = seen, 0, None
        shapes, size = [x.shape for x in inputs], sum(x.numel() for x in inputs)
        if shapes != self.shapes:
            if size <= self.size:
                return self.function(*inputs)
            self.shapes, self.size, self.calls, self.replay = shapes, size, 0, None
        self.calls += 1
        if self.calls <= WARM:
            return self.function(*inputs)
        if not self.replay:
            self._record(inputs)
        for x, fixed in zip(inputs, self.inputs):
            fixed.copy_(x)
        self._put_back()
        self.replay()
        for p, gradient in zip(self.parameters, self.gradients):
            p.grad = gradient
        return self.result

    def _record(self, inputs):
        """Recording runs nothing: the tensors have what they had before."""
        self.inputs = [x.clone() for x in inputs]
        self.buffers = [(module, name, buffer) for module in self.module.modules() for name, buffer in module._buffers.items()
                        if buffer is not None]
        self.read = [p.grad for p in self.parameters]
        self.result, self.replay = self.record(lambda: self.function(*self.inputs))
        self.gradients = [p.grad for p in self.parameters]

    def _put_back(self):
        """The recorded tensors with the values of those that have taken their places."""
        for module, name, buffer in self.buffers:
            now = module._buffers[name]
            if now is not buffer:
                buffer.copy_(now)
                module._buffers[name] = buffer
        for p, gradient in zip(self.parameters, self.read):
            if gradient is not None and p.grad is not gradient:
                gradient.copy_(p.grad)
                p.grad = gradient
