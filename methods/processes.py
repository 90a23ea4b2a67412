"""The processes that train one network together (torch.distributed)."""
import torch
import torch.distributed as dist


def count():
    """How many there are; alone 1."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number():
    """Which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def mean_of_processes(tensor):
    """The mean over the processes, the same in each to the bit; alone the tensor itself."""
    if count() == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / count()


def from_the_first(values):
    """Every tensor among the values becomes that of the first process, in place."""
    for tensor in filter(torch.is_tensor, values):
        dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)
