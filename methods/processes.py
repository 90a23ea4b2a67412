"""The processes that train one network together (torch.distributed)."""
import torch
import torch.distributed as dist


def world_size():
    """Number of processes; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """The rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def mean_of_processes(tensor):
    """The mean of a tensor over the processes, bit-identical in each; the tensor itself if there is only one."""
    if world_size() == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / world_size()


def from_the_first(values):
    """Overwrites tensors, in place, with those of the first process."""
    for tensor in values:
        dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)
