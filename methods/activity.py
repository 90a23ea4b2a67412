"""Sums of each layer's inputs and output gradients over samples and positions, which GSE's samplers need."""
from math import prod

import torch
from torch.nn import functional as F

from methods.images import Geometry, as_images, convolves, plain_layer
from methods.layout import gpt2_linear
from methods.processes import mean_of_processes


class Activity:
    """Per-layer sums of inputs h and output gradients δ over the samples (and positions, for convolutions) of some batches.

    `gradient` (N,) is the sum of the loss gradients over the batches at every connection.

    `signs(n)` draws r = ±1 for n samples and positions, for Σrh and Σrδ (GraEst), or returns None, for Σ|h| and Σ|δ| (GraBo). With
    `literal`, as in GSE's code, all batches reuse the signs of the first, and convolutions take δ at the first sample and position alone,
    times the sum of the signs (a slip).
    Linear layers, 1-D and 2-D convolutions are observed; other layers, and those with a forward of their own (which may pad), are sampled
    uniformly. Raises ValueError if none of the layers to be observed is seen to run.
    """

    def __init__(self, run, batches, signs, literal=False):
        self.layout, self.group, self.signs, self.literal = run.model.layout, run.group, signs, literal
        self.sums, self.seen, hooks = {}, False, []
        for entry in self.layout.entries:
            module = entry.modules(run.model.net)[0]
            if plain_layer(module) or gpt2_linear(module):
                hooks.append(module.register_forward_hook(self._hook(entry), with_kwargs=True))
        try:
            # from the same passes, so that growth needs no others
            self.gradient = run.gradient(run.theta * run.method.mask, batches)
        finally:
            for hook in hooks:
                hook.remove()
        if hooks and not self.seen:
            raise ValueError(f"{run.method.called} sees no layer at work: compile the SparseModel (torch.compile(model)), not the network in it")

    def _hook(self, entry):
        first = {}  # signs, by their number

        def forward(module, args, named, output):
            self.seen = True
            if not output.requires_grad:  # computed under no_grad
                return
            h = rows_of_input(module, (args[0] if args else named["input"]).detach().float())
            r = first.setdefault(h.shape[1], self.signs(h.shape[1])) if self.literal else self.signs(h.shape[1])
            r = None if r is None else r.to(h)
            inputs = h.abs().sum(1) if r is None else h.transpose(1, 2) @ r

            def backward(gradient):
                delta = gradient.float()
                delta = as_images(module, delta).flatten(2).transpose(1, 2) if convolves(module) else delta
                delta = delta.reshape(-1, delta.shape[-1])  # (samples and positions, outputs)
                if r is None:
                    outputs = delta.abs().sum(0)
                elif self.literal and convolves(module):
                    outputs = delta[0] * r.sum()
                else:
                    outputs = delta.T @ r
                old = self.sums.get(entry.name, (0, 0))
                self.sums[entry.name] = old[0] + outputs, old[1] + inputs
            output = output.clone() if output._is_view() else output  # a change in place of a view would drop the hook
            output.register_hook(backward)
            return output
        return forward

    def weights(self):
        """Per layer (g (outputs,), f (groups, fan_in)) ≥ 0 on the CPU, all ones where the sums are missing, zero or not finite."""
        def usable(values):
            values = mean_of_processes(values.to(self.gradient.device), self.group).abs().float().cpu()
            # a row of zeros could not be sampled from
            return torch.where((values.sum(-1, keepdim=True) > 0) & values.isfinite().all(-1, keepdim=True), values, torch.ones(()))
        return [tuple(map(usable, self.sums.get(entry.name, value))) for entry, value in zip(self.layout.entries, uniform(self.layout))]


def uniform(layout):
    """`Activity.weights` where all pairs of an output and an input are equally probable."""
    return [(torch.ones(e.shape[0]), torch.ones(1, e.fan_in)) for e in layout.entries]


def rows_of_input(module, x):
    """Inputs of each output position, (groups, samples · positions, fan_in), in the layout's order (kernel, channel)."""
    if not convolves(module):
        return x.reshape(1, -1, x.shape[-1])
    x, of = as_images(module, x), Geometry(module)
    patches = F.unfold(of.padded(x), of.kernel_size, dilation=of.dilation, stride=of.stride)  # (B, channels · kernel, positions)
    kernel = prod(of.kernel_size)
    patches = patches.unflatten(1, (module.groups, -1, kernel))  # (B, groups, channels of a group, kernel, positions)
    return patches.permute(1, 0, 4, 3, 2).reshape(module.groups, -1, kernel * x.shape[1] // module.groups)
