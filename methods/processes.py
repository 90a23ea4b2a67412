"""The processes that train one network together (torch.distributed). group: those that do, as torch.distributed makes groups; None: all; False: each
process trains a network of its own."""
import torch
import torch.distributed as dist

from methods.seeds import stable_seed


def world_size(group=None):
    """Number of processes; 1 without distributed training."""
    return dist.get_world_size(group) if group is not False and dist.is_available() and dist.is_initialized() else 1


def rank(group=None):
    """The rank of this process, from 0."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def mean_of_processes(tensor, group=None):
    """The mean of a tensor over the processes, bit-identical in each; the tensor itself if there is only one."""
    if world_size(group) == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor, group=group)
    return tensor / world_size(group)


def from_the_first(values, group=None):
    """Overwrites tensors, in place, with those of the first process."""
    first = dist.get_global_rank(group, 0) if group else 0
    for tensor in values:
        dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, first, group=group)


def differing(values, device, group=None):
    """The names in `values`, {name: anything with a text}, whose text is not the same in all processes."""
    numbers = torch.tensor([stable_seed(value) for value in values.values()], device=device)
    most = torch.cat([numbers, -numbers])
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)  # of each number the largest, and the smallest with the other sign
    return [name for name, high, low in zip(values, *most.view(2, -1).tolist()) if high != -low]
