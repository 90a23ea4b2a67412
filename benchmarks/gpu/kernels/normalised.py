"""Convolutions with few channels, fused with parts of batch normalisation and ReLU, on a GPU, in Triton: for residual.py.

A convolution's kernel also sums the statistics of its output y, and computes `affine` (4, C), per channel s, t, mean and inverse: the next layer's
input is ReLU(y s + t), and (y - mean) inverse is the normalised y. The kernel for the gradient at the inputs applies ReLU's gradient, adds a
shortcut's, and sums what the preceding normalisation needs: `slope` (2, C), per channel p and q: if g is the gradient after the normalisation, the
one at y is s g + y p + q (Ioffe and Szegedy, 2015, section 3). The program of a grid that ends last sums the results of all programs, in a fixed
order, so that the bits are the same every time. Memory is channels_last; weights are (outputs, size, size, inputs), as in `methods/layout.py`;
sums are in float32. Offsets are 32-bit integers: no tensor may have 2³¹ elements. The gradient at the weights is computed by narrow.py.
"""
try:
    import triton
    import triton.language as tl
    PASS_NAN = tl.constexpr(tl.PropagateNan.ALL)
except ImportError:  # builds of torch for CPUs have no Triton
    triton = None

if triton:
    @triton.jit
    def _row(table, number: tl.constexpr, n, channels: tl.constexpr):
        """Row `number` of `affine` or `slope`; zeros beyond its channels."""
        return tl.load(table + number * channels + n, mask=n < channels, other=0.0)

    @triton.jit
    def _read(x, place, ok, n, channels: tl.constexpr):
        """x (pixels, channels) at places (block,), as (block, channels); zeros where not ok."""
        return tl.load(x + place[:, None] * channels + n[None, :], mask=ok[:, None] & (n < channels)[None, :], other=0.0)

    @triton.jit
    def _last(counter):
        """Whether all other programs have arrived here, so that what they stored before can be read. Resets the counter then."""
        tl.debug_barrier()
        last = tl.atomic_add(counter, 1, sem="acq_rel") == tl.num_programs(0) - 1
        if last:
            tl.store(counter, 0)
        return last

    @triton.jit
    def _total(partial, number: tl.constexpr, of: tl.constexpr, n, wide: tl.constexpr, lines: tl.constexpr):
        """The total (wide,) over all programs of their sums of kind `number`; `partial` (programs, of, wide) has `of` kinds."""
        total = tl.zeros((wide,), tl.float32)
        for start in range(0, tl.num_programs(0), lines):
            line = (start + tl.arange(0, lines))[:, None]
            found = tl.load(partial + (line * of + number) * wide + n[None, :], mask=line < tl.num_programs(0), other=0.0, cache_modifier=".cg")
            total += tl.sum(found, 0)
        return total

    @triton.jit
    def _forward(x, weight, y, partial, counter, affine, gamma, beta, running_mean, running_variance, momentum, eps, pixels, each,
                 height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, stride: tl.constexpr, size: tl.constexpr,
                 inputs: tl.constexpr, outputs: tl.constexpr, block: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr, lines: tl.constexpr,
                 exactness: tl.constexpr):
        """Computes y (rows x columns) and its affine from x (height x width); updates the running statistics."""
        n, k = tl.arange(0, wide), tl.arange(0, deep)
        parts: tl.constexpr = (inputs + deep - 1) // deep
        known = _row(running_mean, 0, n, outputs)  # subtracted before summing: the nearer to the mean, the smaller the sums and their rounding errors
        shift = tl.where(known - known == 0, known, 0.0)
        one, two = tl.zeros((block, wide), tl.float32), tl.zeros((block, wide), tl.float32)
        for number in range(each):
            m = (tl.program_id(0) * each + number) * block + tl.arange(0, block)
            row, column, image, live = m // columns % rows, m % columns, m // (columns * rows), m < pixels
            sums = tl.zeros((block, wide), tl.float32)
            for step in tl.static_range(size * size * parts):
                tap, channel = step // parts, step % parts * deep + k
                h, v = row * stride + tap // size - size // 2, column * stride + tap % size - size // 2
                a = _read(x, (image * height + h) * width + v, live & (h >= 0) & (v >= 0) & (h < height) & (v < width), channel, inputs)
                b = tl.load(weight + (n[None, :] * size * size + tap) * inputs + channel[:, None],
                            mask=(n < outputs)[None, :] & (channel < inputs)[:, None], other=0.0)
                sums = tl.dot(a.to(b.dtype), b, sums, input_precision=exactness)
            value = sums.to(y.dtype.element_ty)
            tl.store(y + m[:, None] * outputs + n[None, :], value, mask=live[:, None] & (n < outputs)[None, :])
            apart = tl.where(live[:, None], value.to(tl.float32) - shift[None, :], 0.0)
            one += apart
            two += apart * apart
        place = partial + tl.program_id(0) * 2 * wide + n
        tl.store(place, tl.sum(one, 0))
        tl.store(place + wide, tl.sum(two, 0))
        if _last(counter):
            ours, total = n < outputs, pixels.to(tl.float32)
            away = _total(partial, 0, 2, n, wide, lines) / total
            mean, variance = shift + away, _total(partial, 1, 2, n, wide, lines) / total - away * away
            variance = tl.maximum(variance, 0.0, propagate_nan=PASS_NAN)
            inverse = 1.0 / tl.sqrt_rn(variance + eps)
            scale = _row(gamma, 0, n, outputs) * inverse
            tl.store(affine + n, scale, mask=ours)
            tl.store(affine + outputs + n, _row(beta, 0, n, outputs) - mean * scale, mask=ours)
            tl.store(affine + 2 * outputs + n, mean, mask=ours)
            tl.store(affine + 3 * outputs + n, inverse, mask=ours)
            tl.store(running_mean + n, known + momentum * (mean - known), mask=ours)
            old = _row(running_variance, 0, n, outputs)
            tl.store(running_variance + n, old + momentum * (variance * total / (total - 1.0) - old), mask=ours)

    @triton.jit
    def _join(y, affine, rest, other, out, numbers, channels: tl.constexpr, kind: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
              height: tl.constexpr, width: tl.constexpr, stride: tl.constexpr, fewer: tl.constexpr, block: tl.constexpr):
        """out = ReLU(y s + t + shortcut). The shortcut by kind: "" none; "same" `rest`; "normalised" `rest` with its affine `other`; "padded" every
        `stride`-th pixel of `rest` (height x width), with zeros for the channels before and after its `fewer` ones."""
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
    def _normal(y, affine, m, live, n, channels: tl.constexpr):
        """The normalised y (block, channels), before gamma and beta."""
        return (_read(y, m, live, n, channels).to(tl.float32) - _row(affine, 2, n, channels)[None, :]) * _row(affine, 3, n, channels)[None, :]

    @triton.jit
    def _slopes(one, two, total, affine, slope, at_gamma, at_beta, n, channels: tl.constexpr):
        """Stores the slope of a normalisation and the gradients at its parameters, from the sums `one` of g and `two` of g times the normalised y."""
        ours, scale = n < channels, _row(affine, 0, n, channels)
        p = -scale * _row(affine, 3, n, channels) * two / total
        tl.store(slope + n, p, mask=ours)
        tl.store(slope + channels + n, -scale * one / total - p * _row(affine, 2, n, channels), mask=ours)
        tl.store(at_gamma + n, two, mask=ours)
        tl.store(at_beta + n, one, mask=ours)

    @triton.jit
    def _backward(at, weight, more, x, first, first_affine, second, second_affine, g, partial, counter, first_slope, first_gamma, first_beta,
                  second_slope, second_gamma, second_beta, pixels, each, height: tl.constexpr, width: tl.constexpr, rows: tl.constexpr,
                  columns: tl.constexpr, stride: tl.constexpr, size: tl.constexpr, inputs: tl.constexpr, outputs: tl.constexpr, kind: tl.constexpr,
                  added: tl.constexpr, norms: tl.constexpr, wider: tl.constexpr, share: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
                  deep: tl.constexpr, lines: tl.constexpr, exactness: tl.constexpr):
        """Computes g, the gradient at the inputs x (height x width) before their ReLU, from the gradient `at` the outputs: of a convolution (kind
        "same", rows x columns), or of the mean over all pixels ("average", (images, inputs)). `more` is added to it
        by `added`: "" not at all, "same" as it is, "padded" as the gradient at the outputs of a padded shortcut, with `wider` channels. Also
        finds the slopes of the `norms` normalisations before x."""
        n, k = tl.arange(0, wide), tl.arange(0, deep)
        parts: tl.constexpr = (outputs + deep - 1) // deep
        one, two, three = tl.zeros((block, wide), tl.float32), tl.zeros((block, wide), tl.float32), tl.zeros((block, wide), tl.float32)
        for number in range(each):
            m = (tl.program_id(0) * each + number) * block + tl.arange(0, block)
            row, column, image, live = m // width % height, m % width, m // (width * height), m < pixels
            if kind == "average":
                sums = _read(at, image, live, n, inputs).to(tl.float32) * share
            else:
                sums = tl.zeros((block, wide), tl.float32)
                for step in tl.static_range(size * size * parts):
                    tap, channel = step // parts, step % parts * deep + k
                    h, v = row + size // 2 - tap // size, column + size // 2 - tap % size
                    ok = live & (h >= 0) & (v >= 0) & (h % stride == 0) & (v % stride == 0)
                    h, v = h // stride, v // stride
                    a = _read(at, (image * rows + h) * columns + v, ok & (h < rows) & (v < columns), channel, outputs)
                    b = tl.load(weight + (channel[:, None] * size * size + tap) * inputs + n[None, :],
                                mask=(channel < outputs)[:, None] & (n < inputs)[None, :], other=0.0)
                    sums = tl.dot(a, b, sums, input_precision=exactness)
            if added == "same":
                sums += _read(more, m, live, n, inputs).to(tl.float32)
            if added == "padded":
                ok = live & (row % stride == 0) & (column % stride == 0)
                place = ((image * rows + row // stride) * columns + column // stride) * wider + (wider - inputs) // 2
                sums += tl.load(more + place[:, None] + n[None, :], mask=ok[:, None] & (n < inputs)[None, :], other=0.0).to(tl.float32)
            value = tl.where(_read(x, m, live, n, inputs) <= 0, 0.0, sums).to(g.dtype.element_ty)
            tl.store(g + m[:, None] * inputs + n[None, :], value, mask=live[:, None] & (n < inputs)[None, :])
            one += value.to(tl.float32)
            two += value.to(tl.float32) * _normal(first, first_affine, m, live, n, inputs)
            if norms > 1:
                three += value.to(tl.float32) * _normal(second, second_affine, m, live, n, inputs)
        place = partial + tl.program_id(0) * 3 * wide + n
        tl.store(place, tl.sum(one, 0))
        tl.store(place + wide, tl.sum(two, 0))
        if norms > 1:
            tl.store(place + 2 * wide, tl.sum(three, 0))
        if _last(counter):
            total, of_all = pixels.to(tl.float32), _total(partial, 0, 3, n, wide, lines)
            _slopes(of_all, _total(partial, 1, 3, n, wide, lines), total, first_affine, first_slope, first_gamma, first_beta, n, inputs)
            if norms > 1:
                _slopes(of_all, _total(partial, 2, 3, n, wide, lines), total, second_affine, second_slope, second_gamma, second_beta, n, inputs)

    @triton.jit
    def _add(parts, table, out, block: tl.constexpr, lines: tl.constexpr):
        """Sums the parts of all weights' gradients. Each program has a line of `table`: the offset of its first part in `parts`, the number of parts,
        the distance between them, the number of weights, and their offset in `out`."""
        line = table + tl.program_id(0) * 5
        begin, number, apart, count, end = tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3), tl.load(line + 4)
        i, sums = tl.arange(0, block), tl.zeros((block,), tl.float32)
        for start in range(0, number, lines):
            part = (start + tl.arange(0, lines))[:, None]
            sums += tl.sum(tl.load(parts + begin + part * apart + i[None, :], mask=(part < number) & (i < count)[None, :], other=0.0), 0)
        tl.store(out + end + i, sums, mask=i < count)
