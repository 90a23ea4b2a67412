"""Parts of a training step that are recorded once and then replayed: on a GPU without Python and without launching each kernel (CUDA graphs).

A recorded function does fixed work: it reads and writes the same tensors at every call. What varies from step to step (the batch, the
learning rate, how many weights are kept) is copied into persistent tensors; what a method replaces (a mask, a gradient) is copied back into
the recorded tensor. Python numbers and branches stay as they were when recorded, so whatever they depend on belongs into `key`.
"""
import gc
from operator import is_

import torch

WARM = 3  # ordinary calls of each kind before one is recorded, in which libraries choose their kernels
ANEW = "anew"  # instead of a recorder: everything is prepared for recording, but nothing is recorded
# from 2.12 on, torch frees the workspaces of a stream's matrix products when any recording of that stream is deleted
TAKES_WORKSPACES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)
UNENDED = []  # errors of recordings that could not be ended: torch considers them still active, so this process can make no others


def recorder(task, device):
    """The function that records the steps of a run of `task` (recipes.Task) on a torch.device; None if they are not recorded."""
    return cuda_graph if device.type == "cuda" and task.storage == "masked" else None


def cuda_graph(function):
    """Records function() on the current stream, which must not be the default one; returns (what it returned, replay function).

    Raises RuntimeError in one line if the function does something that cannot be recorded, OutOfMemoryError if the recording does not fit.
    """
    graph, raised = torch.cuda.CUDAGraph(), None
    gc.disable()  # garbage collection could delete another run's recording, which would end this one
    forget_workspaces()  # so that new ones are allocated in the recording's own memory, and live as long as it does
    try:
        # thread_local: a DataLoader's threads, which pin memory, do not disturb the recording
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            try:
                result = function()
            except Exception as error:
                raised = error
                raise
    except Exception as error:
        if error is raised:
            raise  # the recording has ended properly: a mistake in Python, or no memory
        if "out of memory" in str(error):  # so has this one: the replayable graph is made after the end
            raise torch.OutOfMemoryError(f"no memory for the recording of a step ({str(error).partition(chr(10))[0]})") from error
        UNENDED.append(str(error))
        first = raised or error
        raise RuntimeError("the step cannot be recorded as a CUDA graph, most likely because something in it waits for the device, such as "
                           f".item() or `if` with a tensor ({type(first).__name__}: {str(first).partition(chr(10))[0]})") from first
    finally:
        forget_workspaces()
        gc.enable()
    return result, graph.replay


def forget_workspaces():
    """Gives later matrix products new workspaces, if torch frees them (TAKES_WORKSPACES): recordings that shared one would then write into the
    memory of other tensors. In other versions, recordings share a workspace per stream, which takes less memory."""
    if TAKES_WORKSPACES:
        torch._C._cuda_clearCublasWorkspaces()


class Captured:
    """`function(*inputs)`, recorded by `record` after WARM calls with the same `key()` and the largest shapes seen, and from then on replayed.

    parameters: those whose gradients the function reads or writes. module: its buffers are kept in the memory where they were recorded.
    record: `cuda_graph`, another function of that form, or ANEW. after: a Captured whose gradients this one reads; it must be recorded first, else
    they would be copied at every call to their former place. Calls with smaller shapes (the last batch of an epoch), and the first WARM calls
    under a key, run without recording. The next replay overwrites what the function returned and its gradients.
    """

    def __init__(self, function, parameters, module, record, key=lambda: None, after=None):
        self.function, self.parameters, self.module, self.record, self.key, self.after = function, parameters, module, record, key, after
        self.seen, self.shapes, self.size, self.calls, self.replay, self.cleared = None, None, -1, 0, None, False

    def __call__(self, *inputs):
        # Python loops over all layers' gradients would cost more than all else here, so unmoved gradients are checked in a single call
        gradients = [p.grad for p in self.parameters]
        cleared, self.cleared = self.cleared, False
        in_place = cleared and self.replay and all(map(is_, gradients, self.gradients))
        gradients = [None] * len(gradients) if cleared else gradients
        replays = self._replays(gradients, inputs)
        if cleared and not (in_place and replays):
            self.clear(at_once=True)
        if not replays:
            return self.function(*inputs)
        if not self.replay:
            self._record(inputs, gradients)
        for x, fixed in zip(inputs, self.inputs):
            fixed.copy_(x)
        self._put_back(gradients)
        self.replay()
        if not in_place and not all(map(is_, gradients, self.gradients)):
            for p, gradient in zip(self.parameters, self.gradients):
                p.grad = gradient
        return self.result

    def clear(self, at_once=False):
        """Clears the parameters' gradients for this function. If it will be replayed, which overwrites them, they are kept until its next call,
        unless `at_once` is set."""
        self.cleared = bool(self.replay) and not at_once
        for p in () if self.cleared else self.parameters:
            p.grad = None

    def _replays(self, gradients, inputs):
        """Whether a call with these is replayed (after recording it, if necessary)."""
        seen = self.key(), [gradient is None for gradient in gradients]
        if seen != self.seen:
            self.seen, self.calls, self.replay = seen, 0, None
        shapes = [x.shape for x in inputs]
        if shapes != self.shapes:
            size = sum(x.numel() for x in inputs)
            if size <= self.size:
                return False
            self.shapes, self.size, self.calls, self.replay = shapes, size, 0, None
        self.calls += 1
        return not (self.calls <= WARM or self.record is ANEW or self.after and not self.after.replay)

    def _record(self, inputs, gradients):
        """Records the function. This computes nothing: the tensors keep their values."""
        self.inputs = [x.clone() for x in inputs]
        self.buffers = [(module._buffers, name, buffer) for module in self.module.modules() for name, buffer in module._buffers.items()
                        if buffer is not None]
        self.read = gradients
        self.result, self.replay = self.record(lambda: self.function(*self.inputs))
        self.gradients = [p.grad for p in self.parameters]

    def _put_back(self, gradients):
        """Copies the values of buffers and gradients that have replaced recorded tensors into the recorded ones."""
        for buffers, name, buffer in self.buffers:
            now = buffers[name]
            if now is not buffer:
                buffer.copy_(now)
                buffers[name] = buffer
        if not all(map(is_, gradients, self.read)):
            for now, gradient in zip(gradients, self.read):
                if now is not gradient:
                    gradient.copy_(now)


class Repeated:
    """The implementation of `Sparsifier.repeated`: each function is recorded as a `Captured`, with its numbers in persistent tensors.

    run: its counts of what methods read and pass are updated at every call, replayed or not. parameters: those whose gradients a function may
    touch that is given the run; own: those for a function that is given a tensor. module, record, key, after: as for Captured.
    """

    def __init__(self, run, parameters, own, module, record, key, after=None):
        self.run, self.parameters, self.own, self.rest = run, parameters, own, (module, record, key, after)
        self.device, self.recorded = parameters[0].device, {}

    def __call__(self, function, fixed, *numbers):
        name = function.__name__, id(fixed)
        if name not in self.recorded:
            kinds = [torch.int64 if isinstance(number, int) else torch.float32 for number in numbers]
            tensors = [torch.empty((), dtype=kind, device=self.device) for kind in kinds]
            run, counts = self.run, {}
            touched = self.own if torch.is_tensor(fixed) else self.parameters
            captured = Captured(lambda: noted(run, counts, function, fixed, *tensors), touched, *self.rest)
            self.recorded[name] = captured, tensors, [None] * len(numbers), counts
        captured, tensors, last, counts = self.recorded[name]
        for place, number in enumerate(numbers):
            if number != last[place]:
                tensors[place].fill_(number)
                last[place] = number
        captured()
        self.run.reads, self.run.scored = max(self.run.reads, counts["reads"]), self.run.scored + counts["scored"]


def noted(run, counts, function, *arguments):
    """Calls function(*arguments), and stores what that adds to the run's counts in `counts` instead."""
    reads, scored, run.reads = run.reads, run.scored, 0
    try:
        function(*arguments)
        counts.update(reads=run.reads, scored=run.scored - scored)
    finally:
        run.reads, run.scored = reads, scored
