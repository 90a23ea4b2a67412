"""A network of shapes (built under `torch.device("meta")`), all of which but its sparse weights gets memory."""
import torch
from torch import nn

UNSET = 0xA5  # a byte that no number repeats by chance


def materialise(net):
    """Allocates and initialises what else a network of shapes has besides its sparse weights; what has data already stays. Raises ValueError for a
    module without reset_parameters, or whose reset_parameters leaves something unset."""
    made = {}  # {tensor without data: the one in its place}, because modules may share it
    for name, module in net.named_modules():
        fresh = []
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    made[tensor] = table[key] = made[tensor] if tensor in made else allocated(tensor)
                    fresh.append(key)
        if not fresh:
            continue
        if "forward" in vars(module):
            for bias in module.parameters(recurse=False):
                nn.init.zeros_(bias)  # `initialise` draws another, except with init=grad_flow
            continue
        problem = f"a network of shapes cannot start {name or type(net).__name__}: "
        if not hasattr(module, "reset_parameters"):
            raise ValueError(f"{problem}it has no reset_parameters")
        module.reset_parameters()
        if left := [key for key in fresh if unset(getattr(module, key))]:
            raise ValueError(f"{problem}its reset_parameters leaves {', '.join(left)} unset")


def allocated(tensor):
    """A tensor or parameter on the CPU in the place of one without data, each byte of which is UNSET."""
    whole = torch.full((tensor.numel(), tensor.element_size()), UNSET, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
    return nn.Parameter(whole, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else whole


def unset(tensor):
    """Whether a tensor is still as `allocated` has left it."""
    return tensor.numel() > 0 and bool((tensor.detach().contiguous().view(-1).view(torch.uint8) == UNSET).all())
