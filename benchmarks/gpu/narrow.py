"""Convolutions with few channels on a GPU, in Triton: implicit matrix products (a tile is a block of pixels by all channels of the output), for the
weights' gradient split over the batch (split-K).

Libraries compute them with tiles for 64 channels and more, of which 16 channels fill an eighth, and their deterministic algorithms have
even less suitable tiles. Memory is channels_last throughout; sums are in float32, and in the same order every time. Offsets are 32-bit
integers. On a CPU, PyTorch's own convolutions are used.
"""
from functools import cache

import torch
from torch.nn.grad import conv2d_input, conv2d_weight

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for CPUs have no Triton
    triton = None

MOST = {2: 64, 4: 32}  # {bytes of a number: most channels, in and out}; with more, the library is faster
BLOCK = 128  # pixels that a program computes at a time (the weights' gradient of float32: half as many)
CHUNKS = 132  # parts of a batch whose weights' gradients are summed separately: one for each multiprocessor of an H100 or H200


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """`torch.conv2d`, (B, O, H', W') from x (B, C, H, W) and weight (O, C, h, w), in autocast's dtype. Uses the kernels below for at most `MOST`
    channels in and out, 1 x 1 and 3 x 3 kernels padded by half their size, equal strides, no groups and no dilation, and fewer than 2³¹ numbers;
    otherwise (a single image without B, too) PyTorch."""
    (strides, paddings, dilations), kernel = map(pair, (stride, padding, dilation)), tuple(weight.shape[2:])
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    narrow = x.dim() == 4 and max(weight.shape[:2]) <= MOST.get(dtype.itemsize, 0) and groups == 1 and kernel in ((1, 1), (3, 3))
    small = x.dim() == 4 and len(x) * x.shape[2] * x.shape[3] * max(weight.shape[:2]) < 2 ** 31
    if not (narrow and small and dilations == (1, 1) and strides[0] == strides[1] and paddings == (kernel[0] // 2,) * 2):
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    x, weight = x.to(dtype), weight.to(dtype)
    y = convolution(x, weight, strides[0])
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


def pair(number):
    """A pair of numbers, from a pair or from one number for both sides."""
    return tuple(number) if isinstance(number, (tuple, list)) else (number, number)


@torch.library.custom_op("sparse_training::convolution", mutates_args=())
def convolution(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, O, H', W') from x (B, C, H, W) and weight (O, C, size, size), where size is odd and the padding is size // 2."""
    return torch.conv2d(x, weight, None, stride, weight.shape[-1] // 2).contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("sparse_training::convolution_input", mutates_args=())
def convolution_input(gradient: torch.Tensor, weight: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """The gradient at the input (B, C, height, width) from that at the output (B, O, H', W')."""
    shape = len(gradient), weight.shape[1], height, width
    return conv2d_input(shape, weight, gradient, stride, weight.shape[-1] // 2).contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("sparse_training::convolution_weight", mutates_args=())
def convolution_weight(gradient: torch.Tensor, x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """The gradient at the weights in float32, as parts (n, O, size, size, C) still to be summed, which a compiler can fuse with what follows."""
    shape = gradient.shape[1], x.shape[1], size, size
    return conv2d_weight(x, shape, gradient, stride, size // 2).float().permute(0, 2, 3, 1).contiguous().unsqueeze(0)


def keep_for_backward(ctx, inputs, output):
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    at_input = convolution_input(gradient, weight, x.shape[2], x.shape[3], ctx.stride) if ctx.needs_input_grad[0] else None
    return at_input, convolution_weight(gradient, x, weight.shape[-1], ctx.stride).sum(0).permute(0, 3, 1, 2).to(weight.dtype), None


convolution.register_autograd(backward, setup_context=keep_for_backward)


@convolution.register_fake
def output_of(x, weight, stride):
    """An empty output."""
    height, width = ((side - 1) // stride + 1 for side in x.shape[2:])
    return channels_last(x, len(weight), height, width)


@convolution_input.register_fake
def input_of(gradient, weight, height, width, stride):
    """An empty gradient at the input."""
    return channels_last(gradient, weight.shape[1], height, width)


@convolution_weight.register_fake
def _(gradient, x, size, stride):
    parts = 1 if x.device.type == "cpu" else chunks_of(len(gradient) * gradient.shape[2] * gradient.shape[3], gradient.dtype)[0]
    return x.new_empty((parts, gradient.shape[1], size, size, x.shape[1]), dtype=torch.float32)


def channels_last(like, channels, height, width):
    return torch.empty((len(like), channels, height, width), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def chunks_of(pixels, dtype):
    """(number of parts of a batch, at most CHUNKS; blocks of pixels in each; pixels of a block)."""
    block = 2 * BLOCK // dtype.itemsize
    blocks = -(-pixels // block)
    each = -(-blocks // CHUNKS)
    return -(-blocks // each), each, block


def ready(*tensors):
    return (t.contiguous(memory_format=torch.channels_last) for t in tensors)


def exactness(x):
    """Triton's precision for products of float32; products of 16-bit numbers are exact anyway."""
    return "tf32" if x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


def gather(x, weight, y, stride, back):
    """Computes the output y from the input x, or with `back` the gradient at the input (y) from that at the output (x). All are (B, C, H, W)."""
    (x,), (_, inputs, *sides), (images, outputs, *own) = ready(x), x.shape, y.shape
    pixels, size, strides = images * own[0] * own[1], weight.shape[-1], weight.stride()
    block, warps = (BLOCK, 4) if pixels >= 2 ** 15 else (BLOCK // 2, 8)  # with few pixels, more programs
    _gather[(-(-pixels // block),)](
        x, weight, y, pixels, strides[back], strides[not back], strides[3] if size > 1 else 0, *sides, *own, stride, size, inputs, outputs,
        back, block, tile(outputs), min(32, tile(inputs)), exactness(x), num_warps=warps, num_stages=3)
    return y


def products(gradient, x, size, stride):
    """See `convolution_weight`."""
    (images, outputs, *own), (_, inputs, *sides) = gradient.shape, x.shape
    pixels = images * own[0] * own[1]
    chunks, each, block = chunks_of(pixels, gradient.dtype)
    parts = torch.empty((chunks, outputs, size, size, inputs), dtype=torch.float32, device=x.device)
    _products[chunks, size](
        gradient, x, parts, pixels, each, *sides, *own, stride, size, inputs, outputs, block, tile(outputs), tile(inputs), exactness(x), num_warps=4,
        num_stages=stages(x.device))
    return parts


@cache
def stages(device):
    """Of how many blocks a program of `_products` has the loads under way. Three take up to 192 KB of fast memory for 64 channels in 16 bits, and two
    66 KB; many GPUs have 99 KB. (On a CPU, whose kernels are Triton's interpreter's, it does not matter.)"""
    return 3 if device.type == "cuda" and torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= 2 ** 17 else 2


def tile(channels):
    """The side of a tile for so many channels: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(channels))


if triton:
    @triton.jit
    def _gather(x, weight, y, pixels, at_n, at_k, at_tap, height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
                stride: tl.constexpr, size: tl.constexpr, inputs: tl.constexpr, outputs: tl.constexpr, back: tl.constexpr, block: tl.constexpr,
                wide: tl.constexpr, deep: tl.constexpr, exactness: tl.constexpr):
        """Pixels of rows x columns, computed from height x width. The weight of output n, input k and tap t is at n at_n + k at_k + t at_tap."""
        m, n, k = tl.program_id(0) * block + tl.arange(0, block), tl.arange(0, wide), tl.arange(0, deep)
        row, column, image = m // columns % rows, m % columns, m // (columns * rows)
        parts: tl.constexpr = (inputs + deep - 1) // deep
        sums = tl.zeros((block, wide), tl.float32)
        for step in range(size * size * parts):
            tap, channel = step // parts, step % parts * deep + k
            if back:
                h, v = row + size // 2 - tap // size, column + size // 2 - tap % size
                ok = (h >= 0) & (v >= 0) & (h % stride == 0) & (v % stride == 0)
                h, v = h // stride, v // stride
            else:
                h, v = row * stride + tap // size - size // 2, column * stride + tap % size - size // 2
                ok = (h >= 0) & (v >= 0)
            ok = ok & (m < pixels) & (h < height) & (v < width)
            place = ((image * height + h) * width + v) * inputs
            a = tl.load(x + place[:, None] + channel[None, :], mask=ok[:, None] & (channel < inputs)[None, :], other=0.0)
            b = tl.load(weight + n[None, :] * at_n + channel[:, None] * at_k + tap * at_tap,
                        mask=(n < outputs)[None, :] & (channel < inputs)[:, None], other=0.0)
            sums = tl.dot(a, b, sums, input_precision=exactness)
        tl.store(y + m[:, None] * outputs + n[None, :], sums.to(y.dtype.element_ty), mask=(m < pixels)[:, None] & (n < outputs)[None, :])

    @triton.jit
    def _shifted(x, ok, row, column, image, k, across: tl.constexpr, height: tl.constexpr, width: tl.constexpr, stride: tl.constexpr,
                 size: tl.constexpr, inputs: tl.constexpr):
        """The inputs (block, deep) of a block of the output's pixels for one tap of the kernel: in this program's row of it, column `across`."""
        h, v = row * stride + tl.program_id(1) - size // 2, column * stride + across - size // 2
        ok = ok & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        return tl.load(x + (((image * height + h) * width + v) * inputs)[:, None] + k[None, :], mask=ok[:, None] & (k < inputs)[None, :], other=0.0)

    @triton.jit
    def _products(gradient, x, parts, pixels, each, height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
                  stride: tl.constexpr, size: tl.constexpr, inputs: tl.constexpr, outputs: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
                  deep: tl.constexpr, exactness: tl.constexpr):
        """Computes parts (chunks, outputs, size, size, inputs): a program sums over `each` blocks of the output's pixels for a row of the kernel."""
        n, k = tl.arange(0, wide), tl.arange(0, deep)
        first, second, third = tl.zeros((wide, deep), tl.float32), tl.zeros((wide, deep), tl.float32), tl.zeros((wide, deep), tl.float32)
        for number in range(each):
            m = (tl.program_id(0) * each + number) * block + tl.arange(0, block)
            row, column, image, ok = m // columns % rows, m % columns, m // (columns * rows), m < pixels
            g = tl.trans(tl.load(gradient + m[:, None] * outputs + n[None, :], mask=ok[:, None] & (n < outputs)[None, :], other=0.0))
            first = tl.dot(g, _shifted(x, ok, row, column, image, k, 0, height, width, stride, size, inputs), first, input_precision=exactness)
            if size > 1:
                second = tl.dot(g, _shifted(x, ok, row, column, image, k, 1, height, width, stride, size, inputs), second, input_precision=exactness)
                third = tl.dot(g, _shifted(x, ok, row, column, image, k, 2, height, width, stride, size, inputs), third, input_precision=exactness)
        place = parts + ((tl.program_id(0) * outputs + n[:, None]) * size + tl.program_id(1)) * size * inputs + k[None, :]
        inside = (n < outputs)[:, None] & (k < inputs)[None, :]
        tl.store(place, first, mask=inside)
        if size > 1:
            tl.store(place + inputs, second, mask=inside)
            tl.store(place + 2 * inputs, third, mask=inside)

    @convolution.register_kernel("cuda")
    def forward_kernel(x, weight, stride):
        return gather(x, weight, output_of(x, weight, stride), stride, False)

    @convolution_input.register_kernel("cuda")
    def input_kernel(gradient, weight, height, width, stride):
        return gather(gradient, weight, input_of(gradient, weight, height, width, stride), stride, True)

    @convolution_weight.register_kernel("cuda")
    def weight_kernel(gradient, x, size, stride):
        return products(*ready(gradient, x), size, stride)
