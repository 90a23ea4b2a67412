"""Draws with replacement in proportion to weights: numbers, and pairs of an output and an input."""
import numpy as np
import torch

BLOCK = 2 ** 15  # so many numbers at a time stay in the cache
FEW = 1000  # draws that take torch no longer than the calls here


def with_replacement(weights, draws, generator=None):
    """The indices (draws,) that torch.multinomial(weights, draws, True, generator=generator) gives, with the same random numbers.

    weights (n,) on the CPU. A table with n places or more, which are equally probable, says where to look for each number in the sums of
    the weights (Chen and Asau, 1974): O(1) for a draw, where torch searches them by halves, O(log n). Raises as torch does.
    """
    if not draws:  # which torch refuses
        return torch.empty(0, dtype=torch.int64)
    if draws < max(len(weights), FEW) or weights.min() < 0 or not 0 < weights.sum() < np.inf:
        return torch.multinomial(weights, draws, True, generator=generator)
    sums = np.cumsum(weights.numpy())  # one after the other, in the dtype of the weights, as torch adds
    sums /= sums[-1]
    places = 1 << (len(sums) - 1).bit_length()
    table, found = np.searchsorted(sums, np.arange(places) / places), torch.empty(draws, dtype=torch.int64)
    for part in found.split(BLOCK):
        number = torch.rand(len(part), dtype=torch.float64, generator=generator).numpy()
        index = table[(number * places).astype(np.int32)]
        for _ in range(3):
            index += sums[index] < number
        late = np.flatnonzero(sums[index] < number)  # where many weights share a place
        index[late] = np.searchsorted(sums, number[late])
        part.numpy()[:] = index
    return found


def pairs(outputs, inputs, draws, generator=None):
    """The places output · fan_in + input (draws,) of pairs drawn in proportion to outputs ⊗ inputs; a pair may come more than once.

    outputs (rows,), inputs (groups, fan_in): the outputs of a group have inputs of their own. O(rows + fan_in · groups + draws).
    """
    out = with_replacement(outputs, draws, generator)
    groups, fan_in = inputs.shape
    if groups == 1:
        column = with_replacement(inputs[0], draws, generator)
    else:  # drawing each pair in every group could take more numbers than the dense weight has
        ladder = (inputs.double() / inputs.double().sum(1, keepdim=True)).cumsum(1)
        ladder = ((ladder / ladder[:, -1:]) + torch.arange(groups)[:, None]).flatten()
        group = out * groups // len(outputs)
        drawn = torch.rand(draws, generator=generator, dtype=torch.float64) + group
        column = torch.searchsorted(ladder, drawn, right=True) - group * fan_in
        column = column.clamp_(0, fan_in - 1)
    return out * fan_in + column
