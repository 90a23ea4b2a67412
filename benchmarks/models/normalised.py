"""Convolutions of few channels with their batch normalisation on a GPU, in Triton: a kernel for each convolution and each of its gradients.

A convolution's kernel normalises what it reads and sums up the statistics of what it writes, so that normalisation, ReLU and their gradients
need no kernels of their own: y = conv(x) is stored as it is, with four numbers a channel, `affine` (4, C): ReLU(y s + t) is what comes after it,
(y - mean) inverse what is normalised. Its gradient is g at y s + t, stored where ReLU lets it pass, and `slope` (2, C): s g + y p + q is that
at y (Ioffe and Szegedy, 2015, section 3). The last program of a grid that comes to its end sums up the programs' statistics, in their order: the same
bits every time. Memory is channels_last; weights are (outputs, size, size, inputs), as in `methods/layout.py`; sums are in float32. Places
are numbers of 32 bits: no tensor may have 2³¹ elements.
"""
import torch

try:
    import triton
    import triton.language as tl
    PASS_NAN = tl.constexpr(tl.PropagateNan.ALL)
except ImportError:  # torch for CPUs alone has none
    triton = None

if triton:
    @triton.jit
    def _row(table, number: tl.constexpr, channel, channels: tl.constexpr):
        """A line of `affine` or `slope`, for each of the channels; zeros beyond them."""
        return tl.load(table + number * channels + channel, mask=channel < channels, other=0.0)[None, :]

    @triton.jit
    def _read(x, place, ok, channel, channels: tl.constexpr):
        return tl.load(x + place[:, None] * channels + channel[None, :], mask=ok[:, None] & (channel < channels)[None, :], other=0.0)

    @triton.jit
    def _activation(x, affine, place, ok, channel, channels: tl.constexpr, normalised: tl.constexpr):
        """x, or with `normalised` ReLU(x s + t), (block, channels); zeros where not ok."""
        value = _read(x, place, ok, channel, channels)
        if normalised:
            value = value.to(tl.float32) * _row(affine, 0, channel, channels) + _row(affine, 1, channel, channels)
            value = tl.where(ok[:, None], tl.maximum(value, 0.0, propagate_nan=PASS_NAN), 0.0)
        return value

    @triton.jit
    def _gradient(g, y, affine, slope, place, ok, channel, channels: tl.constexpr, settled: tl.constexpr):
        """The gradient at y, (block, channels), with `settled` g itself; zeros where not ok."""
        value = _read(g, place, ok, channel, channels)
        if not settled:
            value = value.to(tl.float32) * _row(affine, 0, channel, channels) + _row(slope, 1, channel, channels)
            value = tl.where(ok[:, None], value + _read(y, place, ok, channel, channels).to(tl.float32) * _row(slope, 0, channel, channels), 0.0)
        return value

    @triton.jit
    def _last(counter):
        """Whether all other programs have come here: what they have stored before can be read."""
        tl.debug_barrier()
        last = tl.atomic_add(counter, 1, sem="acq_rel") == tl.num_programs(0) - 1
        if last:
            tl.store(counter, 0)
        return last

    @triton.jit
    def _affine(partial, affine, gamma, beta, running_mean, running_variance, momentum, eps, pixels, each, n, channels: tl.constexpr,
                wide: tl.constexpr, lines: tl.constexpr):
        """The affine of a normalisation, and its running statistics, from the programs' means and sums of squares, of `each` pixels."""
        first = tl.load(partial + n, cache_modifier=".cg")  # from which the means are told: they are near each other
        shift, square = tl.zeros((wide,), tl.float32), tl.zeros((wide,), tl.float32)
        for start in range(0, tl.num_programs(0), lines):
            line = start + tl.arange(0, lines)
            live, place = (line < tl.num_programs(0))[:, None], partial + line[:, None] * 2 * wide + n[None, :]
            count = tl.minimum(tl.maximum(pixels - line * each, 0), each).to(tl.float32)[:, None]
            away = tl.where(live, tl.load(place, mask=live, other=0.0, cache_modifier=".cg") - first[None, :], 0.0)
            shift += tl.sum(count * away, 0)
            square += tl.sum(tl.load(place + wide, mask=live, other=0.0, cache_modifier=".cg") + count * away * away, 0)
        ours, total = n < channels, pixels.to(tl.float32)
        mean, variance = first + shift / total, (square - shift * shift / total) / total
        inverse = 1.0 / tl.sqrt_rn(variance + eps)
        scale = tl.load(gamma + n, mask=ours, other=0.0) * inverse
        tl.store(affine + n, scale, mask=ours)
        tl.store(affine + channels + n, tl.load(beta + n, mask=ours, other=0.0) - mean * scale, mask=ours)
        tl.store(affine + 2 * channels + n, mean, mask=ours)
        tl.store(affine + 3 * channels + n, inverse, mask=ours)
        old = tl.load(running_mean + n, mask=ours, other=0.0)
        tl.store(running_mean + n, old + momentum * (mean - old), mask=ours)
        old = tl.load(running_variance + n, mask=ours, other=0.0)
        tl.store(running_variance + n, old + momentum * (variance * total / (total - 1.0) - old), mask=ours)

    @triton.jit
    def _forward(x, before, weight, y, partial, counter, affine, gamma, beta, running_mean, running_variance, momentum, eps, pixels, each,
                 height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, stride: tl.constexpr, size: tl.constexpr,
                 inputs: tl.constexpr, outputs: tl.constexpr, normalised: tl.constexpr, block: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr,
                 lines: tl.constexpr, exactness: tl.constexpr):
        """y and its affine from x, whose own is `before`."""
        n, k = tl.arange(0, wide), tl.arange(0, deep)
        parts: tl.constexpr = (inputs + deep - 1) // deep
        mean, square, seen = tl.zeros((wide,), tl.float32), tl.zeros((wide,), tl.float32), 0.0
        for number in range(each):
            start = (tl.program_id(0) * each + number) * block
            m = start + tl.arange(0, block)
            row, column, image = m // columns % rows, m % columns, m // (columns * rows)
            sums = tl.zeros((block, wide), tl.float32)
            for step in range(size * size * parts):
                tap, channel = step // parts, step % parts * deep + k
                h, v = row * stride + tap // size - size // 2, column * stride + tap % size - size // 2
                ok = (m < pixels) & (h >= 0) & (v >= 0) & (h < height) & (v < width)
                a = _activation(x, before, (image * height + h) * width + v, ok, channel, inputs, normalised)
                b = tl.load(weight + (n[None, :] * size * size + tap) * inputs + channel[:, None],
                            mask=(n < outputs)[None, :] & (channel < inputs)[:, None], other=0.0)
                sums = tl.dot(a.to(b.dtype), b, sums, input_precision=exactness)
            inside = (m < pixels)[:, None] & (n < outputs)[None, :]
            value = sums.to(y.dtype.element_ty)
            tl.store(y + m[:, None] * outputs + n[None, :], value, mask=inside)
            # the statistics of these pixels and those before (Chan et al., 1979)
            count = tl.minimum(tl.maximum(pixels - start, 0), block).to(tl.float32)
            value = value.to(tl.float32)
            own = tl.sum(value, 0) / tl.maximum(count, 1.0)
            apart = tl.where(inside, value - own[None, :], 0.0)
            share, away = count / tl.maximum(seen + count, 1.0), own - mean
            square += tl.sum(apart * apart, 0) + away * away * seen * share
            mean += away * share
            seen += count
        place = partial + tl.program_id(0) * 2 * wide + n
        tl.store(place, mean)
        tl.store(place + wide, square)
        if _last(counter):
            _affine(partial, affine, gamma, beta, running_mean, running_variance, momentum, eps, pixels, each * block, n, outputs, wide, lines)

    @triton.jit
    def _join(y, affine, rest, other, out, numbers, channels: tl.constexpr, kind: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
              height: tl.constexpr, width: tl.constexpr, stride: tl.constexpr, fewer: tl.constexpr, block: tl.constexpr):
        """out = ReLU(y s + t + the shortcut): "" none, "same" `rest`, "normalised" that with its affine `other`, "padded" every `stride`-th pixel of
        its height x width and zeros for the channels before and after its `fewer`."""
        i = tl.program_id(0) * block + tl.arange(0, block)
        live, channel = i < numbers, i % channels
        value = tl.load(y + i, mask=live, other=0.0).to(tl.float32) * tl.load(affine + channel) + tl.load(affine + channels + channel)
        if kind == "same":
            value += tl.load(rest + i, mask=live, other=0.0).to(tl.float32)
        if kind == "normalised":
            value += tl.load(rest + i, mask=live, other=0.0).to(tl.float32) * tl.load(other + channel) + tl.load(other + channels + channel)
        if kind == "padded":
            pixel, own = i // channels, channel - (channels - fewer) // 2
            row, column, image = pixel // columns % rows, pixel % columns, pixel // (columns * rows)
            place = ((image * height + row * stride) * width + column * stride) * fewer + own
            value += tl.load(rest + place, mask=live & (own >= 0) & (own < fewer), other=0.0).to(tl.float32)
        tl.store(out + i, tl.maximum(value, 0.0, propagate_nan=PASS_NAN).to(out.dtype.element_ty), mask=live)

    @triton.jit
    def _settle(g, y, affine, slope, out, numbers, channels: tl.constexpr, block: tl.constexpr):
        """out = s g + y p + q, the gradient at y."""
        i = tl.program_id(0) * block + tl.arange(0, block)
        live, channel = i < numbers, i % channels
        value = tl.load(g + i, mask=live, other=0.0).to(tl.float32) * tl.load(affine + channel) + tl.load(slope + channels + channel)
        value += tl.load(y + i, mask=live, other=0.0).to(tl.float32) * tl.load(slope + channel)
        tl.store(out + i, value.to(out.dtype.element_ty), mask=live)

    @triton.jit
    def _slopes(partial, number: tl.constexpr, total, affine, slope, at_gamma, at_beta, n, channels: tl.constexpr, wide: tl.constexpr,
                lines: tl.constexpr):
        """The slope of a normalisation, and the gradients at its parameters, from the programs' sums of g and of g times what is normalised."""
        one, two = tl.zeros((wide,), tl.float32), tl.zeros((wide,), tl.float32)
        for start in range(0, tl.num_programs(0), lines):
            line = start + tl.arange(0, lines)
            live, place = (line < tl.num_programs(0))[:, None], partial + line[:, None] * 3 * wide + n[None, :]
            one += tl.sum(tl.load(place, mask=live, other=0.0, cache_modifier=".cg"), 0)
            two += tl.sum(tl.load(place + (1 + number) * wide, mask=live, other=0.0, cache_modifier=".cg"), 0)
        ours = n < channels
        scale, mean = tl.load(affine + n, mask=ours, other=0.0), tl.load(affine + 2 * channels + n, mask=ours, other=0.0)
        p = -scale * tl.load(affine + 3 * channels + n, mask=ours, other=0.0) * two / total
        tl.store(slope + n, p, mask=ours)
        tl.store(slope + channels + n, -scale * one / total - p * mean, mask=ours)
        tl.store(at_gamma + n, two, mask=ours)
        tl.store(at_beta + n, one, mask=ours)

    @triton.jit
    def _normal(y, affine, m, ok, n, channels: tl.constexpr):
        """What is normalised of y, (block, channels)."""
        value = _read(y, m, ok, n, channels).to(tl.float32) - _row(affine, 2, n, channels)
        return tl.where(ok[:, None], value * _row(affine, 3, n, channels), 0.0)

    @triton.jit
    def _backward(g, y, affine, slope, weight, more, x, before, first, first_affine, second, second_affine, out, partial, counter, first_slope,
                  first_gamma, first_beta, second_slope, second_gamma, second_beta, pixels, each, height: tl.constexpr, width: tl.constexpr,
                  rows: tl.constexpr, columns: tl.constexpr, stride: tl.constexpr, size: tl.constexpr, inputs: tl.constexpr, outputs: tl.constexpr,
                  kind: tl.constexpr, settled: tl.constexpr, added: tl.constexpr, normalised: tl.constexpr, norms: tl.constexpr, apart: tl.constexpr,
                  wider: tl.constexpr, share: tl.constexpr, block: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr, lines: tl.constexpr,
                  exactness: tl.constexpr):
        """out: the gradient at the inputs (height x width) from g, y, affine and slope of the outputs (rows x columns), of a convolution ("same") or,
        with "average", of the mean over all pixels, whose own is g (images, inputs).

        With `norms` normalisations before the inputs also: `more` is added ("" not, "same", "padded" where it is that of a join's outputs, of
        `wider` channels), ReLU lets pass where the inputs (x, or with `normalised` x s + t of `before`) are positive, and the slopes of the first and
        second are found.
        """
        n, k = tl.arange(0, wide), tl.arange(0, deep)
        parts: tl.constexpr = (outputs + deep - 1) // deep
        one, two, three = tl.zeros((wide,), tl.float32), tl.zeros((wide,), tl.float32), tl.zeros((wide,), tl.float32)
        for number in range(each):
            m = (tl.program_id(0) * each + number) * block + tl.arange(0, block)
            row, column, image, live = m // width % height, m % width, m // (width * height), m < pixels
            if kind == "average":
                sums = _read(g, image, live, n, inputs).to(tl.float32) * share
            else:
                sums = tl.zeros((block, wide), tl.float32)
                for step in range(size * size * parts):
                    tap, channel = step // parts, step % parts * deep + k
                    h, v = row + size // 2 - tap // size, column + size // 2 - tap % size
                    ok = live & (h >= 0) & (v >= 0) & (h % stride == 0) & (v % stride == 0)
                    h, v = h // stride, v // stride
                    ok = ok & (h < rows) & (v < columns)
                    a = _gradient(g, y, affine, slope, (image * rows + h) * columns + v, ok, channel, outputs, settled)
                    b = tl.load(weight + (channel[:, None] * size * size + tap) * inputs + n[None, :],
                                mask=(channel < outputs)[:, None] & (n < inputs)[None, :], other=0.0)
                    sums = tl.dot(a.to(b.dtype), b, sums, input_precision=exactness)
            if added == "same":
                sums += _read(more, m, live, n, inputs).to(tl.float32)
            if added == "padded":
                ok = live & (row % apart == 0) & (column % apart == 0)
                place = ((image * rows + row // apart) * columns + column // apart) * wider + (wider - inputs) // 2
                sums += tl.load(more + place[:, None] + n[None, :], mask=ok[:, None] & (n < inputs)[None, :], other=0.0).to(tl.float32)
            if norms > 0:
                sums = tl.where(_activation(x, before, m, live, n, inputs, normalised) > 0, sums, 0.0)
            value = sums.to(out.dtype.element_ty)
            tl.store(out + m[:, None] * inputs + n[None, :], value, mask=live[:, None] & (n < inputs)[None, :])
            if norms > 0:
                value = tl.where(live[:, None], value.to(tl.float32), 0.0)
                one += tl.sum(value, 0)
                two += tl.sum(value * _normal(first, first_affine, m, live, n, inputs), 0)
                if norms > 1:
                    three += tl.sum(value * _normal(second, second_affine, m, live, n, inputs), 0)
        if norms > 0:
            place = partial + tl.program_id(0) * 3 * wide + n
            tl.store(place, one)
            tl.store(place + wide, two)
            if norms > 1:
                tl.store(place + 2 * wide, three)
            if _last(counter):
                total = pixels.to(tl.float32)
                _slopes(partial, 0, total, first_affine, first_slope, first_gamma, first_beta, n, inputs, wide, lines)
                if norms > 1:
                    _slopes(partial, 1, total, second_affine, second_slope, second_gamma, second_beta, n, inputs, wide, lines)

    @triton.jit
    def _weights(g, y, affine, slope, x, before, parts, pixels, each, height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
                 columns: tl.constexpr, stride: tl.constexpr, size: tl.constexpr, inputs: tl.constexpr, outputs: tl.constexpr, settled: tl.constexpr,
                 normalised: tl.constexpr, block: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr, exactness: tl.constexpr):
        """parts (programs, outputs, size, size, inputs) of the gradient at the weights: of `each` blocks of pixels, for one line of the kernel."""
        n, k, line = tl.arange(0, wide), tl.arange(0, deep), tl.program_id(1)
        one, two, three = tl.zeros((wide, deep), tl.float32), tl.zeros((wide, deep), tl.float32), tl.zeros((wide, deep), tl.float32)
        for number in range(each):
            m = (tl.program_id(0) * each + number) * block + tl.arange(0, block)
            row, column, image, live = m // columns % rows, m % columns, m // (columns * rows), m < pixels
            h, v = row * stride + line - size // 2, column * stride - size // 2
            place, live = (image * height + h) * width + v, live & (h >= 0) & (h < height)
            t = tl.trans(_gradient(g, y, affine, slope, m, live, n, outputs, settled).to(g.dtype.element_ty))
            a = _activation(x, before, place, live & (v >= 0) & (v < width), k, inputs, normalised)
            one = tl.dot(t, a.to(t.dtype), one, input_precision=exactness)
            if size > 1:
                a = _activation(x, before, place + 1, live & (v + 1 >= 0) & (v + 1 < width), k, inputs, normalised)
                two = tl.dot(t, a.to(t.dtype), two, input_precision=exactness)
                a = _activation(x, before, place + 2, live & (v + 2 >= 0) & (v + 2 < width), k, inputs, normalised)
                three = tl.dot(t, a.to(t.dtype), three, input_precision=exactness)
        place = parts + ((tl.program_id(0) * outputs + n[:, None]) * size + line) * size * inputs + k[None, :]
        inside = (n < outputs)[:, None] & (k < inputs)[None, :]
        tl.store(place, one, mask=inside)
        if size > 1:
            tl.store(place + inputs, two, mask=inside)
            tl.store(place + 2 * inputs, three, mask=inside)

    @triton.jit
    def _add(parts, table, out, block: tl.constexpr, lines: tl.constexpr):
        """The parts of the gradients of all weights summed up. A program's line of `table`: where its first numbers are in `parts`, how many parts
        there are, how far apart, how many numbers are to be summed, and where they come in `out`."""
        line = table + tl.program_id(0) * 5
        begin, number, apart, count, end = tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3), tl.load(line + 4)
        i, sums = tl.arange(0, block), tl.zeros((block,), tl.float32)
        for start in range(0, number, lines):
            part = (start + tl.arange(0, lines))[:, None]
            sums += tl.sum(tl.load(parts + begin + part * apart + i[None, :], mask=(part < number) & (i < count)[None, :], other=0.0), 0)
        tl.store(out + end + i, sums, mask=i < count)
