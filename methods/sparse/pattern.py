"""The active connections of one layer as CSR matrices."""
import importlib
import warnings
from functools import cache
from math import prod

import torch

from methods.sparse.edges import transposed

with warnings.catch_warnings():  # torch warns once per process that CSR is in beta: here, unseen
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, 1), check_invariants=False)


class Pattern:
    """CSR index of connections of one layer: a matrix (outputs, inputs) for each position of the kernel, and their transposes.

    keys (nnz,): sorted int64 places in the weight (outputs, kernel, inputs of a group), flattened. shape: that of the layer's
    weight, (outputs, inputs of a group, *kernel). Groups become blocks of one matrix. O(nnz + neurons · kernel positions).
    """

    def __init__(self, keys, shape, groups=1):
        rows, width, *kernel = shape
        self.positions, self.nnz = prod(kernel), len(keys)
        self.size = rows, width * groups
        row, starts = lines(keys, rows, width * self.positions)
        rest = (keys - row * (width * self.positions)).int()
        if self.positions == groups == 1:
            column = line = rest
        else:
            position = rest // width
            column = rest - position * width + (row * groups // rows * width).int()
            line = position * self.size[1] + column
        self.order_t, row_t, starts_t = transposed(starts, line, self.positions * self.size[1])
        self.numbers = starts_t[::self.size[1]].diff().tolist()  # of connections at each position
        self.starts_t, self.columns_t = self._index(starts_t, row_t, self.size[1])
        if self.positions == 1:  # one matrix has its weights in the order of the keys already
            self.order, self.starts, self.columns = None, [starts], [column]
        else:
            self.order, _, _ = transposed(starts[::rows], position, self.positions)
            count = torch.bincount(position * rows + row, minlength=self.positions * rows).cumsum(0)
            self.starts, self.columns = self._index(torch.cat([starts[:1], count.int()]), column[self.order], rows)

    def matrices(self, values):
        """[(position, (outputs, inputs) CSR matrix)] of the positions that have weights, values (nnz,) in the order of the keys."""
        return self._matrices(values if self.order is None else values.index_select(0, self.order), self.starts, self.columns, self.size)

    def transposes(self, values):
        """As `matrices`, each (inputs, outputs)."""
        return self._matrices(values.index_select(0, self.order_t), self.starts_t, self.columns_t, self.size[::-1])

    def product(self, values, x):
        """The product (outputs, L) with x (inputs, L), contiguous; only with a single kernel position."""
        return _product(self.starts[0], self.columns[0], values, x, self.size)

    def transposed_product(self, values, x):
        """The product of the transpose, (inputs, L), with x (outputs, L), likewise. values (nnz,) in the order of the transpose."""
        return _product(self.starts_t[0], self.columns_t[0], values, x, self.size[::-1])

    def gradients(self, like):
        """As `matrices`, but with zeros, to which `add_sampled` adds; `in_order` then gives their values."""
        return self._matrices(like.new_zeros(self.nnz), self.starts, self.columns, self.size)

    def in_order(self, matrices, like):
        """The values (nnz,) of `gradients(like)` in the order of the keys."""
        values = torch.cat([like.new_zeros(0), *(matrix.values() for _, matrix in matrices)])
        return values if self.order is None else torch.zeros_like(values).index_add_(0, self.order, values)

    def _matrices(self, values, starts, columns, size):
        return [(k, torch.sparse_csr_tensor(starts[k], columns[k], aligned(part), size=size, check_invariants=False))
                for k, part in enumerate(values.split(self.numbers)) if len(part)]

    def _index(self, starts, columns, length):
        """CSR starts (length + 1,) and columns for each kernel position, of those for all positions (positions · length + 1,) and (nnz,)."""
        starts = [starts[k * length:(k + 1) * length + 1] - starts[k * length] for k in range(self.positions)]
        return starts, [*map(aligned, columns.split(self.numbers))]


def lines(keys, rows, width):
    """The row of each of the sorted `keys`, places in a matrix (rows, width), and the index at which each row starts (rows + 1,), int32."""
    row, starts = keys // width, torch.zeros(rows + 1, dtype=torch.int32, device=keys.device)
    starts[1:] = torch.bincount(row, minlength=rows).cumsum(0)
    return row, starts


def aligned(tensor):
    """The tensor, copied if it is on a GPU and does not begin at a multiple of 16 bytes: cuSPARSE may read and write 16 bytes at a time."""
    return tensor.clone() if tensor.is_cuda and tensor.data_ptr() % 16 else tensor


def _product(starts, columns, values, x, size):
    if x.is_cuda:
        return csr_product(starts, columns, values, x, size)
    if not x.shape[1]:  # no image: embedding_bag would find none of the rows
        return x.new_zeros(size[0], 0)
    # sums of weighted rows: two to three times as fast as a CPU's sparse product, because a sum stays in registers
    return torch.embedding_bag(x, columns, starts, False, 0, False, values, True)[0]


def csr_product(starts, columns, values, x, size):
    """As `_product`, on any device."""
    # autocast would round the matrix to 16 bits, and with it the gradient of its float32 values
    with torch.autocast(x.device.type, enabled=False):
        return torch.sparse_csr_tensor(starts, columns, aligned(values), size=size, check_invariants=False) @ aligned(x)


def add_product(out, matrix, x, fresh=False):
    """out (rows, L) += matrix @ x (columns, L), in place; fresh: = instead of +=. out and x may be views from any offset on (shifted images)."""
    place = aligned(out)
    place.addmm_(matrix, aligned(x), beta=0 if fresh else 1)
    if place is not out:
        out.copy_(place)


def add_sampled(gradient, delta, x):
    """gradient (CSR) += (delta (rows, L) @ x (columns, L)ᵀ) at its entries alone, in place."""
    torch.sparse.sampled_addmm(gradient, aligned(delta), aligned(x).t(), out=gradient)


def as_array(tensor):
    """The tensor's memory as an array; bfloat16, which numpy does not have, as int16 (loops.py)."""
    tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def loops_for(rows, values):
    """The module of compiled loops if `values`, float32 or float64, lie on a CPU of which torch uses one core and `rows` fill half a block,
    else None: with fewer rows, CSR products are as fast and take less memory."""
    one_core = values.device.type == "cpu" and torch.get_num_threads() == 1 and values.dtype in (torch.float32, torch.float64)
    loops = compiled("loops") if one_core else None
    return loops if loops and 2 * rows >= loops.block_of(values) else None


@cache
def compiled(name):
    """The module methods.sparse.`name`; None unless numba works here (it supports this Python and has a folder for what it compiles)."""
    try:
        return importlib.import_module(f"methods.sparse.{name}")
    except (ImportError, RuntimeError, OSError):  # the last where llvmlite's library cannot be loaded
        return None
