"""Parts of a training step recorded once and then replayed: on a GPU without Python and without launching each kernel (CUDA graphs).

What is recorded is a function of fixed work: it reads and writes the same tensors at every call. What varies from step to step (the
batch, the learning rate, how many weights are kept) is copied into tensors that stay; what a method replaces (a mask, a gradient) is copied
back into the recorded one. Numbers of Python and branches are those of the recording, so that whatever they depend on belongs to `key`.
"""
import gc
from operator import is_

import torch

WARM = 3  # calls of a kind that are made as they are, before one is recorded: libraries choose their kernels in them
ANEW = "anew"  # in the place of a recorder: all is made ready to be recorded, and nothing is
# from 2.12 on torch takes the workspaces of a stream's matrix products away where any recording of that stream is gone
TAKES_WORKSPACES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)
UNENDED = []  # the errors of recordings that could not be ended: for torch they are still under way, and this process can make no other


def recorder(task, device):
    """How the steps of a run of `task` (tasks.Task) are recorded on a torch.device; None if they are not."""
    return cuda_graph if device.type == "cuda" and task.storage == "masked" else None


def cuda_graph(function):
    """Records function() on the current stream, which must not be the default one; returns (what it returned, replay function).

    Raises RuntimeError in one line where the function does what cannot be recorded, OutOfMemoryError where there is no room for the recording.
    """
    graph, raised = torch.cuda.CUDAGraph(), None
    gc.disable()  # a recording of another run that is taken apart meanwhile would end this one
    forget_workspaces()  # what products work in is then made anew in the recording's own memory, and stays there as long as it does
    try:
        # the threads of a DataLoader, which pin memory, are no part of it
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            try:
                result = function()
            except Exception as error:
                raised = error
                raise
    except Exception as error:
        if error is raised:
            raise  # the recording has ended in order: a mistake in Python, or no memory
        if "out of memory" in str(error):  # so has this one, for what can be replayed is made after its end
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
    """Matrix products after this have other workspaces than those before, where torch takes them away: recordings that share one would write
    into what is another tensor's by then. Where it does not, they share one for each stream, which takes less memory."""
    if TAKES_WORKSPACES:
        torch._C._cuda_clearCublasWorkspaces()


class Captured:
    """`function(*inputs)` recorded by `record` after WARM calls with the same `key()` and the largest shapes seen, from then on replayed.

    parameters: whose gradients the function reads or writes. module: all of its buffers stay where they were recorded.
    record: `cuda_graph`, another function of that form, or ANEW. after: a Captured whose gradients this one reads: it is recorded first, or they
    would be copied at every call to where they lay before. Calls of smaller shapes (the last batch of an epoch), and all under a key that
    has been seen less than WARM times, run as they are. What the function returns and its gradients are overwritten by the next replay.
    """

    def __init__(self, function, parameters, module, record, key=lambda: None, after=None):
        self.function, self.parameters, self.module, self.record, self.key, self.after = function, parameters, module, record, key, after
        self.seen, self.shapes, self.size, self.calls, self.replay, self.cleared = None, None, -1, 0, None, False

    def __call__(self, *inputs):
        # a loop over all layers' gradients costs more than all else that is done here: each is a single call where they lie as they did
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
        """The parameters have no gradients from now on, for this function. Where it will be replayed, which writes them anew, they stay where they
        are until its next call, if not `at_once`."""
        self.cleared = bool(self.replay) and not at_once
        for p in () if self.cleared else self.parameters:
            p.grad = None

    def _replays(self, gradients, inputs):
        """Whether a call with these is replayed, or recorded for that."""
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
        """Recording runs nothing: the tensors have what they had before."""
        self.inputs = [x.clone() for x in inputs]
        self.buffers = [(module._buffers, name, buffer) for module in self.module.modules() for name, buffer in module._buffers.items()
                        if buffer is not None]
        self.read = gradients
        self.result, self.replay = self.record(lambda: self.function(*self.inputs))
        self.gradients = [p.grad for p in self.parameters]

    def _put_back(self, gradients):
        """The recorded tensors with the values of those that have taken their places."""
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
    """What methods do through `Sparsifier.repeated`, each function recorded as `Captured` does, with its numbers in tensors that stay.

    run: whose counts of what methods read and pass are those of every call, replayed or not. parameters: those whose gradients a function given
    the run may touch, own: one given a tensor. module, record, key, after: those of Captured.
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
    """Calls function(*arguments), and leaves what that adds to the run's counts in `counts` alone."""
    reads, scored, run.reads = run.reads, run.scored, 0
    try:
        function(*arguments)
        counts.update(reads=run.reads, scored=run.scored - scored)
    finally:
        run.reads, run.scored = reads, scored
