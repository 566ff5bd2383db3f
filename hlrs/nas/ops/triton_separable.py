"""Triton kernels for a GPU: a supernet's separable convolutions with batch norms, and their gradients.

On a GPU the cost of a step is moving maps through memory. Here a map is written once, by its 1×1 convolution.
The depthwise convolution before it, the batch norm and ReLU of the depthwise convolution's input, and the
batch norm of a gradient happen in registers. Only the statistics of batch norms, which need all of a
map, separate kernels.

A map [n, groups · c, h, w] is stored as [pixel, group, c] with n · h · w pixels. Each program sums over a
part of the pixels and the parts are added later: without atomic additions, every run gives the same bits.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hlrs.nas.ops.packed import EPSILON

DILATIONS = (1, 1, 2, 2)  # of the four convolutions: sep3, sep5, dil3, dil5
STAGES = (2, 2, 1, 1)
SIZES = (  # arguments that do not trigger recompilation
    *("pixels", "share", "blocks", "block", "groups", "shared", "sources", "repeat"),
    *("scaled", "added", "keep", "h_in", "w_in", "h", "w", "dilation"),
)
TILE = 2048  # pixels · channels that a program processes at a time
PARTS = 1024  # of a sum over pixels, at most


class Map(NamedTuple):
    """A map, and the statistics [2, channels] of the batch norm and ReLU through which it is read."""

    x: Tensor
    statistics: Tensor | None = None  # mean and inverse deviation; None: already rectified


class Geometry(NamedTuple):
    """Shape of a depthwise convolution; `repeat` groups with their own weights read each input group."""

    stride: int
    dilation: int
    repeat: int


class Upstream(NamedTuple):
    """Gradient by scale · n(map), with its sum `total` and its sum times n `over_n` over the pixels, [width].

    The gradient may have fewer groups than the map; groups then share it.
    """

    gradient: Tensor
    total: Tensor
    over_n: Tensor
    scale: Tensor | None = None  # [width]; None means 1


def allocate(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Allocate a channels-last map, with the type and device of another."""
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def block_of(channels: int, most: int) -> int:
    """Return the channels that a program processes at a time: a power of two from 16 to `most`."""
    return min(most, max(16, 1 << (channels - 1).bit_length()))


def precision() -> str:
    """Return the precision of float32 matrix products, which is that of PyTorch's convolutions."""
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def _statistics(read: Map) -> Tensor:
    """Return the statistics as a kernel's argument, with a placeholder if there are none."""
    return read.x if read.statistics is None else read.statistics


def _given(tensor: Tensor | None, otherwise: Tensor | None) -> tuple[Tensor, int]:
    """Return an optional argument of a kernel, or a placeholder, and whether it is given (1 or 0)."""
    return (otherwise, 0) if tensor is None else (tensor, 1)  # type: ignore[return-value]


class Mixture(torch.autograd.Function):
    """Sums the four separable convolutions of all edges, normalized and scaled, over the states they leave.

    x [n, sources · c, h, w], rectified; scales [4, sources · edges · c]; `weights` are the depthwise and the
    1×1 weights of each convolution's stages. Result: [n, edges · c, h / stride, w / stride].

    Second derivatives are those of `plain`, the same function of x and the scales in PyTorch, with its own
    weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plain: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        scales: Tensor,
        sources: int,
        stride: int,
        *weights: Tensor,
    ) -> Tensor:
        ctx.plain, ctx.sources, ctx.stride = plain, sources, stride
        edges = scales.shape[1] // x.shape[1]
        keep = any(ctx.needs_input_grad[5:])
        written, between = [], []  # by stage
        for dilation, own in zip(DILATIONS, _stages(weights), strict=True):
            read, geometry = _rectified(x), Geometry(stride, dilation, edges)
            for kernels, pointwise in own:
                read, middle = convolve(read, kernels, pointwise, geometry, keep)
                geometry = Geometry(1, 1, 1)
                written.append(read)
                between.append(middle)
        maps = [tensor for result in written for tensor in result]
        ctx.save_for_backward(x, scales, *weights, *maps, *between)
        return mix(_last(written), scales, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scales, *saved = ctx.saved_tensors
        count = 2 * sum(STAGES)
        weights, maps, between = saved[:count], saved[count : 2 * count], iter(saved[2 * count :])
        wanted = [
            need and weight.requires_grad  # not if frozen since the forward pass (separable._wanted)
            for need, weight in zip(ctx.needs_input_grad[5:], weights, strict=True)
        ]
        if torch.is_grad_enabled():
            return Mixture._differentiable(ctx, gradient, x, scales, weights, wanted)
        written = [Map(*maps[i : i + 2]) for i in range(0, len(maps), 2)]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        *over_n, total = sums(gradient, _last(written), ctx.sources).unbind()
        edges = scales.shape[1] // x.shape[1]
        for_x: Tensor | None = None
        for_weights: list[Tensor | None] = []
        results, needs = iter(written), iter(wanted)
        for i, own in enumerate(_stages(weights)):
            read, geometry, stages = _rectified(x), Geometry(ctx.stride, DILATIONS[i], edges), []
            for kernels, pointwise in own:
                result = next(results)
                stage = Stage(read, geometry, kernels, next(between), pointwise, result)
                stages.append((stage, next(needs), next(needs)))
                read, geometry = result, Geometry(1, 1, 1)
            for_x, found = _back(stages, Upstream(gradient, total, over_n[i], scales[i]), for_x)
            for_weights += found
        return None, for_x, torch.stack(over_n), None, None, *for_weights

    @staticmethod
    def _differentiable(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        scales: Tensor,
        weights: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """Compute gradients that can be differentiated; those by the weights only if wanted."""
        frozen = [
            weight
            for weight, need in zip(weights, ctx.needs_input_grad[5:], strict=True)
            if need and not weight.requires_grad
        ]

        def plain(x: Tensor, scales: Tensor) -> Tensor:
            for weight in frozen:  # otherwise `plain` does not save what second derivatives need
                weight.requires_grad_(True)
            result: Tensor = ctx.plain(x, scales)
            for weight in frozen:
                weight.requires_grad_(False)
            return result

        required = [weight for weight, want in zip(weights, wanted, strict=True) if want]
        (for_x, for_scales), others = differentiable(plain, (x, scales), required, gradient)
        rest = iter(others)
        return None, for_x, for_scales, None, None, *(next(rest) if want else None for want in wanted)


def differentiable(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor], gradient: Tensor
) -> tuple[list[Tensor | None], list[Tensor]]:
    """Compute differentiable gradients of plain(*inputs), by inputs (None if not wanted) and by weights.

    Inputs may depend on one another; these gradients are partial ones, and the caller's graph adds the rest.
    Without the views below, autograd would walk that graph once per call in it, in a time that doubles with
    each.
    """
    own = [x.view_as(x) for x in inputs]
    required = [x for x in own if x.requires_grad]
    found = torch.autograd.grad(plain(*own), [*required, *weights], gradient, create_graph=True)
    by_inputs = iter(found)
    return [next(by_inputs) if x.requires_grad else None for x in own], list(found[len(required) :])


def _rectified(x: Tensor) -> Map:
    """Wrap a map that is read unchanged."""
    return Map(x.contiguous(memory_format=torch.channels_last))


def _stages(weights: Sequence[Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
    """Group weights into (depthwise, 1×1) by stage of each convolution."""
    pairs = iter(zip(weights[::2], weights[1::2], strict=True))
    return [[next(pairs) for _ in range(count)] for count in STAGES]


class Stage(NamedTuple):
    """A stage of a separable convolution: its input, weights, inner map and output."""

    read: Map
    geometry: Geometry
    kernels: Tensor
    middle: Tensor | None  # only if weights need gradients
    pointwise: Tensor
    written: Map


def _back(
    stages: Sequence[tuple[Stage, bool, bool]], upstream: Upstream, into: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the gradients by x, added to `into`, and by each stage's weights if wanted."""
    for_weights: list[Tensor | None] = []
    for (read, geometry, kernels, middle, pointwise, written), by_depthwise, by_1x1 in reversed(stages):
        c = pointwise.shape[1]
        gradient = by_middle(upstream, written, pointwise)
        for_weights = [
            by_kernels(gradient, read, kernels, c, geometry) if by_depthwise else None,
            by_pointwise(upstream, written, middle, pointwise) if by_1x1 and middle is not None else None,
            *for_weights,
        ]
        if read.statistics is None:
            return by_x(gradient, kernels, c, read, geometry, into), for_weights
        upstream = by_inner(gradient, kernels, c, read)
    raise AssertionError("the first stage reads a rectified map")


def _last(written: Sequence[Map]) -> list[Map]:
    """Select the output of each convolution's last stage."""
    ends = [sum(STAGES[: i + 1]) - 1 for i in range(len(STAGES))]
    return [written[end] for end in ends]


# --- forward --------------------------------------------------------------------------------------------


def convolve(
    read: Map, kernels: Tensor, pointwise: Tensor, geometry: Geometry, keep: bool
) -> tuple[Map, Tensor | None]:
    """Apply a depthwise and a 1×1 convolution in groups; return the result and, to `keep`, the map between.

    read [n, groups / repeat · c, h, w], kernels [groups · c, 1, k, k], pointwise [groups · c, c, 1, 1].
    """
    n, _, h_in, w_in = read.x.shape
    width, c = pointwise.shape[:2]
    h, w = -(-h_in // geometry.stride), -(-w_in // geometry.stride)
    pixels, a = n * h * w, block_of(c, 32)
    block = TILE // a
    blocks = triton.cdiv(pixels, block)
    y = allocate(read.x, (n, width, h, w))
    middle = allocate(read.x, y.shape) if keep else None
    partial = torch.empty((blocks, 2, width), dtype=torch.float32, device=y.device)
    _convolve_kernel[(blocks, width // c, triton.cdiv(c, block_of(c, 64)))](
        *(read.x, _statistics(read), kernels, pointwise, y, y if middle is None else middle, partial),
        *(pixels, width // c, c, geometry.repeat, h_in, w_in, h, w, geometry.dilation, int(keep)),
        SIZE=kernels.shape[-1],
        STRIDE=geometry.stride,
        NORMALIZED=read.statistics is not None,
        PIXELS=block,
        A=a,
        B=block_of(c, 64),
        PRECISION=precision(),
        num_stages=1,
    )
    return Map(y, statistics_of(partial, pixels, block)), middle


def statistics_of(partial: Tensor, pixels: int, block: int) -> Tensor:
    """Combine the statistics of blocks of `block` pixels into mean and 1/√(variance + ε), [2, channels].

    `partial` [blocks, 2, channels] holds each block's mean and sum of squares around it (Chan et al. 1979).
    """
    blocks, _, width = partial.shape
    found = torch.empty((2, width), dtype=torch.float32, device=partial.device)
    _statistics_kernel[(triton.cdiv(width, 32),)](
        partial, found, pixels, width, blocks, block, EPSILON, ROWS=64, CHANNELS=32
    )
    return found


@triton.jit(do_not_specialize=SIZES)
def _rectify(value, mean, inverse, inside, NORMALIZED: tl.constexpr):
    """Normalize and rectify values, if NORMALIZED; 0 outside the map."""
    value = value.to(tl.float32)
    if NORMALIZED:
        value = tl.where(inside, tl.maximum((value - mean) * inverse, 0.0), 0.0)
    return value


@triton.jit(do_not_specialize=SIZES)
def _depthwise(
    x,
    statistics,
    kernels,
    pixel,
    group,
    read,
    pixels,
    c,
    groups,
    repeat,
    h_in,
    w_in,
    h,
    w,
    dilation,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALIZED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute a depthwise convolution at pixels [p, 1] and channels [1, c] of a group; 0 beyond both."""
    known = read < c
    there = (pixel < pixels) & known
    own, x_width = group // repeat * c + read, groups // repeat * c  # channels of x
    mean, inverse = own, own
    if NORMALIZED:
        mean = tl.load(statistics + own, known, 0.0)
        inverse = tl.load(statistics + x_width + own, known, 0.0)
    row, column = pixel // w % h * STRIDE, pixel % w * STRIDE
    at = x + ((pixel // (h * w) * h_in + row) * w_in + column) * x_width + own
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in range(SIZE):
        down = (i - SIZE // 2) * dilation
        in_rows = there & (row + down >= 0) & (row + down < h_in)
        for j in tl.static_range(SIZE):
            across = (j - SIZE // 2) * dilation
            inside = in_rows & (column + across >= 0) & (column + across < w_in)
            value = tl.load(at + (down * w_in + across) * x_width, inside, 0.0)
            weight = tl.load(kernels + (group * c + read) * SIZE * SIZE + i * SIZE + j, known, 0.0)
            total += _rectify(value, mean, inverse, inside, NORMALIZED) * weight
    return total


def depthwise(x: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
    """Apply a depthwise convolution alone: x [n, c, h, w], kernels [c, 1, k, k]."""
    x, kernels = x.contiguous(memory_format=torch.channels_last), kernels.contiguous()
    n, c, h_in, w_in = x.shape
    h, w = -(-h_in // stride), -(-w_in // stride)
    y, block = allocate(x, (n, c, h, w)), block_of(c, 32)
    _depthwise_kernel[(triton.cdiv(n * h * w, TILE // block), triton.cdiv(c, block))](
        *(x, kernels, y, n * h * w, c, h_in, w_in, h, w, dilation),
        SIZE=kernels.shape[-1],
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
        num_stages=1,
    )
    return y


def depthwise_backward(
    gradient: Tensor, x: Tensor, kernels: Tensor, stride: int, dilation: int, *, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of `depthwise` by x and by the kernels; None for one that is not wanted."""
    gradient, kernels = gradient.contiguous(memory_format=torch.channels_last), kernels.contiguous()
    read, geometry, c = _rectified(x), Geometry(stride, dilation, 1), x.shape[1]
    return (
        by_x(gradient, kernels, c, read, geometry, None) if wanted[0] else None,
        by_kernels(gradient, read, kernels, c, geometry) if wanted[1] else None,
    )


@triton.jit(do_not_specialize=SIZES)
def _depthwise_kernel(
    x,
    kernels,
    y,
    pixels,
    c,
    h_in,
    w_in,
    h,
    w,
    dilation,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    total = _depthwise(
        x,
        statistics=x,  # a placeholder
        kernels=kernels,
        pixel=pixel,
        group=0,
        read=channel,
        pixels=pixels,
        c=c,
        groups=1,
        repeat=1,
        h_in=h_in,
        w_in=w_in,
        h=h,
        w=w,
        dilation=dilation,
        SIZE=SIZE,
        STRIDE=STRIDE,
        NORMALIZED=False,
        PIXELS=PIXELS,
        CHANNELS=CHANNELS,
    )
    tl.store(y + pixel * c + channel, total, (pixel < pixels) & (channel < c))


@triton.jit(do_not_specialize=SIZES)
def _convolve_kernel(
    x,
    statistics,
    kernels,
    pointwise,
    y,
    between,
    partial,
    pixels,
    groups,
    c,
    repeat,
    h_in,
    w_in,
    h,
    w,
    dilation,
    keep,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALIZED: tl.constexpr,
    PIXELS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute some pixels of a group's y, their mean, and the sum of squares around it."""
    width = groups * c
    first, group = tl.program_id(0) * PIXELS, tl.program_id(1)
    pixel = (first + tl.arange(0, PIXELS))[:, None]
    written = tl.program_id(2) * B + tl.arange(0, B)[None, :]
    total = tl.zeros((PIXELS, B), tl.float32)
    for begin in range(0, c, A):
        read = begin + tl.arange(0, A)
        middle = _depthwise(
            x,
            statistics=statistics,
            kernels=kernels,
            pixel=pixel,
            group=group,
            read=read[None, :],
            pixels=pixels,
            c=c,
            groups=groups,
            repeat=repeat,
            h_in=h_in,
            w_in=w_in,
            h=h,
            w=w,
            dilation=dilation,
            SIZE=SIZE,
            STRIDE=STRIDE,
            NORMALIZED=NORMALIZED,
            PIXELS=PIXELS,
            CHANNELS=A,
        )
        if (keep > 0) & (tl.program_id(2) == 0):
            at = between + pixel * width + group * c + read[None, :]
            tl.store(at, middle, (pixel < pixels) & (read[None, :] < c))
        at = pointwise + (group * c + written) * c + read[:, None]
        weight = tl.load(at, (written < c) & (read[:, None] < c), 0.0).to(x.dtype.element_ty)
        total = tl.dot(middle.to(x.dtype.element_ty), weight, total, input_precision=PRECISION)
    total = total.to(x.dtype.element_ty)
    there = (pixel < pixels) & (written < c)
    tl.store(y + pixel * width + group * c + written, total, there)
    total = tl.where(there, total.to(tl.float32), 0.0)
    count = tl.minimum(pixels - first, PIXELS)
    mean = tl.sum(total, 0)[None, :] / count
    around = tl.where(there, total - mean, 0.0)
    at = partial + tl.program_id(0) * 2 * width + group * c + written
    tl.store(at, mean, written < c)
    tl.store(at + width, tl.sum(around * around, 0)[None, :], written < c)


@triton.jit(do_not_specialize=SIZES)
def _statistics_kernel(
    partial,
    found,
    pixels,
    width,
    blocks,
    block,
    epsilon,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    mean = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(0, blocks, ROWS):
        row = begin + tl.arange(0, ROWS)[:, None]
        count = tl.minimum(pixels - row * block, block).to(tl.float32)
        at = partial + row * 2 * width + channel
        mean += count * tl.load(at, (row < blocks) & (channel < width), 0.0)
    mean = tl.sum(mean, 0)[None, :] / pixels
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(0, blocks, ROWS):
        row = begin + tl.arange(0, ROWS)[:, None]
        count = tl.minimum(pixels - row * block, block).to(tl.float32)
        there = (row < blocks) & (channel < width)
        at = partial + row * 2 * width + channel
        away = tl.load(at, there, 0.0) - mean
        squares += tl.where(there, tl.load(at + width, there, 0.0) + count * away * away, 0.0)
    variance = tl.sum(squares, 0)[None, :] / pixels
    tl.store(found + channel, mean, channel < width)
    tl.store(found + width + channel, 1 / tl.sqrt(variance + epsilon), channel < width)


def mix(maps: Sequence[Map], scales: Tensor, sources: int) -> Tensor:
    """Sum scale · n(map) over four maps and their sources: [n, width / sources, h, w]; scales [4, width]."""
    n, width, h, w = maps[0].x.shape
    own = width // sources
    mixed = allocate(maps[0].x, (n, own, h, w))
    block = block_of(own, 64)
    _mix_kernel[(triton.cdiv(n * h * w, TILE // block), triton.cdiv(own, block))](
        *(x for x, _ in maps),
        *(statistics for _, statistics in maps),
        *(scales.contiguous(), mixed, n * h * w, own, sources),
        PIXELS=TILE // block,
        CHANNELS=block,
    )
    return mixed


@triton.jit
def _scaled(x, statistics, scale, at, channel, there, known, width):
    """Compute scale · n(x)."""
    a = tl.load(scale + channel, known, 0.0) * tl.load(statistics + width + channel, known, 0.0)
    return a * (tl.load(x + at, there, 0.0).to(tl.float32) - tl.load(statistics + channel, known, 0.0))


@triton.jit(do_not_specialize=SIZES)
def _mix_kernel(
    x0,
    x1,
    x2,
    x3,
    s0,
    s1,
    s2,
    s3,
    scales,
    mixed,
    pixels,
    own,
    sources,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    width = sources * own
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = channel < own
    there = (pixel < pixels) & known
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for source in range(sources):
        place = source * own + channel
        at = pixel * width + place
        total += _scaled(x0, s0, scales, at, place, there, known, width)
        total += _scaled(x1, s1, scales + width, at, place, there, known, width)
        total += _scaled(x2, s2, scales + 2 * width, at, place, there, known, width)
        total += _scaled(x3, s3, scales + 3 * width, at, place, there, known, width)
    tl.store(mixed + pixel * own + channel, total, there)


# --- backward -------------------------------------------------------------------------------------------


def sums(gradient: Tensor, maps: Sequence[Map], sources: int) -> Tensor:
    """Sum gradient · n(map) over the pixels, for each of four maps, and the gradient: [5, width].

    All sources share the gradient [n, width / sources, h, w].
    """
    n, width, h, w = maps[0].x.shape
    own = width // sources
    pixels, columns = n * h * w, triton.cdiv(own, 32)
    parts = min(triton.cdiv(pixels, 64), triton.cdiv(PARTS, columns * sources))
    partial = torch.empty((parts, 5, width), dtype=torch.float32, device=gradient.device)
    _sums_kernel[(parts, columns, sources)](
        *(gradient, *(x for x, _ in maps), *(statistics for _, statistics in maps)),
        *(partial, pixels, triton.cdiv(pixels, parts), own, sources),
        PIXELS=32,
        CHANNELS=32,
    )
    return partial.sum(0)


@triton.jit(do_not_specialize=SIZES)
def _sums_kernel(
    gradient,
    x0,
    x1,
    x2,
    x3,
    s0,
    s1,
    s2,
    s3,
    partial,
    pixels,
    share,
    own,
    sources,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    width = sources * own
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    place = tl.program_id(2) * own + channel
    last = tl.minimum((tl.program_id(0) + 1) * share, pixels)
    m0 = tl.load(s0 + place, channel < own, 0.0)
    m1 = tl.load(s1 + place, channel < own, 0.0)
    m2 = tl.load(s2 + place, channel < own, 0.0)
    m3 = tl.load(s3 + place, channel < own, 0.0)
    t0 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t1 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t2 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t3 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t4 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(tl.program_id(0) * share, last, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[:, None]
        there = (pixel < last) & (channel < own)
        g = tl.load(gradient + pixel * own + channel, there, 0.0).to(tl.float32)
        at = pixel * width + place
        t0 += g * (tl.load(x0 + at, there, 0.0).to(tl.float32) - m0)
        t1 += g * (tl.load(x1 + at, there, 0.0).to(tl.float32) - m1)
        t2 += g * (tl.load(x2 + at, there, 0.0).to(tl.float32) - m2)
        t3 += g * (tl.load(x3 + at, there, 0.0).to(tl.float32) - m3)
        t4 += g
    at = partial + tl.program_id(0) * 5 * width + place
    there = channel < own
    tl.store(at, tl.sum(t0, 0)[None, :] * tl.load(s0 + width + place, there, 0.0), there)
    tl.store(at + width, tl.sum(t1, 0)[None, :] * tl.load(s1 + width + place, there, 0.0), there)
    tl.store(at + 2 * width, tl.sum(t2, 0)[None, :] * tl.load(s2 + width + place, there, 0.0), there)
    tl.store(at + 3 * width, tl.sum(t3, 0)[None, :] * tl.load(s3 + width + place, there, 0.0), there)
    tl.store(at + 4 * width, tl.sum(t4, 0)[None, :], there)


def by_middle(upstream: Upstream, written: Map, pointwise: Tensor) -> Tensor:
    """Compute the gradient by the input of the 1×1 convolution whose result is `written`."""
    x, statistics = written
    n, width, h, w = x.shape
    c = pointwise.shape[1]
    a, b = block_of(c, 64), block_of(c, 32)
    result = allocate(x, x.shape)
    scale, scaled = _given(upstream.scale, statistics)
    block = TILE // max(a, b)
    _by_middle_kernel[(triton.cdiv(n * h * w, block), width // c, triton.cdiv(c, a))](
        *(upstream.gradient, x, statistics, scale, upstream.total, upstream.over_n, pointwise, result),
        *(n * h * w, width // c, c, upstream.gradient.shape[1] // c, scaled),
        PIXELS=block,
        A=a,
        B=b,
        PRECISION=precision(),
        num_stages=1,
    )
    return result


@triton.jit
def _through_norm(
    gradient,
    x,
    statistics,
    scale,
    total,
    over_n,
    pixel,
    group,
    channel,
    there,
    pixels,
    width,
    c,
    shared,
    scaled,
):
    """Compute scale · inverse · (gradient − mean(gradient) − n · mean(gradient · n)) for some of a group."""
    place, known = group * c + channel, channel < c
    mean, inverse = tl.load(statistics + place, known, 0.0), tl.load(statistics + width + place, known, 0.0)
    factor = inverse * tl.load(scale + place, channel < c * scaled, 1.0)
    g = tl.load(gradient + pixel * shared * c + group % shared * c + channel, there, 0.0)
    n = (tl.load(x + pixel * width + place, there, 0.0).to(tl.float32) - mean) * inverse
    g = g.to(tl.float32) - tl.load(total + place, known, 0.0) / pixels
    return tl.where(there, factor * (g - n * (tl.load(over_n + place, known, 0.0) / pixels)), 0.0)


@triton.jit(do_not_specialize=SIZES)
def _by_middle_kernel(
    gradient,
    x,
    statistics,
    scale,
    total,
    over_n,
    pointwise,
    result,
    pixels,
    groups,
    c,
    shared,
    scaled,
    PIXELS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    width = groups * c
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    group = tl.program_id(1)
    read = tl.program_id(2) * A + tl.arange(0, A)[None, :]
    found = tl.zeros((PIXELS, A), tl.float32)
    for begin in range(0, c, B):
        written = begin + tl.arange(0, B)
        there = (pixel < pixels) & (written[None, :] < c)
        by_result = _through_norm(
            gradient,
            x,
            statistics,
            scale=scale,
            total=total,
            over_n=over_n,
            pixel=pixel,
            group=group,
            channel=written[None, :],
            there=there,
            pixels=pixels,
            width=width,
            c=c,
            shared=shared,
            scaled=scaled,
        )
        at = pointwise + (group * c + written[:, None]) * c + read
        weight = tl.load(at, (written[:, None] < c) & (read < c), 0.0).to(x.dtype.element_ty)
        found = tl.dot(by_result.to(x.dtype.element_ty), weight, found, input_precision=PRECISION)
    at = result + pixel * width + group * c + read
    tl.store(at, found, (pixel < pixels) & (read < c))


def by_pointwise(upstream: Upstream, written: Map, middle: Tensor, pointwise: Tensor) -> Tensor:
    """Compute the gradient by the 1×1 weights [width, c, 1, 1], whose input is `middle`."""
    x, statistics = written
    n, width, h, w = x.shape
    c = pointwise.shape[1]
    a, b = block_of(c, 32), block_of(c, 64)
    blocks = triton.cdiv(c, a), triton.cdiv(c, b)
    pixels, block = n * h * w, TILE // b
    parts = min(triton.cdiv(pixels, block), triton.cdiv(PARTS, width // c * blocks[0] * blocks[1]))
    partial = torch.empty((parts, *pointwise.shape), dtype=torch.float32, device=x.device)
    scale, scaled = _given(upstream.scale, statistics)
    _by_pointwise_kernel[(parts, width // c, blocks[0] * blocks[1])](
        *(upstream.gradient, x, statistics, scale, upstream.total, upstream.over_n, middle, partial),
        *(pixels, triton.cdiv(pixels, parts), width // c, c, upstream.gradient.shape[1] // c, scaled),
        PIXELS=block,
        A=a,
        B=b,
        PRECISION=precision(),
        num_stages=1,
    )
    return partial.sum(0)


@triton.jit(do_not_specialize=SIZES)
def _by_pointwise_kernel(
    gradient,
    x,
    statistics,
    scale,
    total,
    over_n,
    middle,
    partial,
    pixels,
    share,
    groups,
    c,
    shared,
    scaled,
    PIXELS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum (gradient by the result)ᵀ · middle over `share` pixels, for some channels of a group."""
    width = groups * c
    group = tl.program_id(1)
    blocks = (c + A - 1) // A
    read = tl.program_id(2) % blocks * A + tl.arange(0, A)[None, :]
    written = tl.program_id(2) // blocks * B + tl.arange(0, B)
    last = tl.minimum((tl.program_id(0) + 1) * share, pixels)
    found = tl.zeros((B, A), tl.float32)
    for begin in range(tl.program_id(0) * share, last, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[:, None]
        met = tl.load(middle + pixel * width + group * c + read, (pixel < last) & (read < c), 0.0)
        by_result = _through_norm(
            gradient,
            x,
            statistics,
            scale=scale,
            total=total,
            over_n=over_n,
            pixel=pixel,
            group=group,
            channel=written[None, :],
            there=(pixel < last) & (written[None, :] < c),
            pixels=pixels,
            width=width,
            c=c,
            shared=shared,
            scaled=scaled,
        )
        found = tl.dot(tl.trans(by_result.to(met.dtype)), met, found, input_precision=PRECISION)
    at = partial + ((tl.program_id(0) * width) + group * c + written[:, None]) * c + read
    tl.store(at, found, (written[:, None] < c) & (read < c))


def by_kernels(middle: Tensor, read: Map, kernels: Tensor, c: int, geometry: Geometry) -> Tensor:
    """Compute the gradient by the depthwise weights [width, 1, k, k] from `middle`, that by their result."""
    n, width, h, w = middle.shape
    size, pixels, block = kernels.shape[-1], n * h * w, block_of(c, 32)
    columns = width // c * triton.cdiv(c, block) * size
    parts = min(triton.cdiv(pixels, TILE // block), triton.cdiv(PARTS, columns))
    partial = torch.empty((parts, *kernels.shape), dtype=torch.float32, device=middle.device)
    _by_kernels_kernel[(parts, width // c * triton.cdiv(c, block), size)](
        *(middle, read.x, _statistics(read), partial, pixels, triton.cdiv(pixels, parts)),
        *(width // c, c, geometry.repeat, *read.x.shape[2:], h, w, geometry.dilation),
        SIZE=size,
        STRIDE=geometry.stride,
        NORMALIZED=read.statistics is not None,
        PIXELS=TILE // block,
        CHANNELS=block,
        num_stages=1,
    )
    return partial.sum(0)


@triton.jit(do_not_specialize=SIZES)
def _by_kernels_kernel(
    middle,
    x,
    statistics,
    partial,
    pixels,
    share,
    groups,
    c,
    repeat,
    h_in,
    w_in,
    h,
    w,
    dilation,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALIZED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum gradient · x over `share` pixels, for each place in one row of the kernel."""
    blocks = (c + CHANNELS - 1) // CHANNELS
    group, read = (
        tl.program_id(1) // blocks,
        tl.program_id(1) % blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :],
    )
    known = read < c
    own, x_width, channel = group // repeat * c + read, groups // repeat * c, group * c + read
    mean, inverse = own, own
    if NORMALIZED:
        mean = tl.load(statistics + own, known, 0.0)
        inverse = tl.load(statistics + x_width + own, known, 0.0)
    i = tl.program_id(2)
    down = (i - SIZE // 2) * dilation
    last = tl.minimum((tl.program_id(0) + 1) * share, pixels)
    # one sum per place, at most five: Triton has no lists of variables that a loop changes
    t0 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t1 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t2 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t3 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t4 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(tl.program_id(0) * share, last, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[:, None]
        there = (pixel < last) & known
        gradient = tl.load(middle + pixel * (groups * c) + channel, there, 0.0).to(tl.float32)
        row, column = pixel // w % h * STRIDE + down, pixel % w * STRIDE
        at = x + ((pixel // (h * w) * h_in + row) * w_in + column) * x_width + own
        there = there & (row >= 0) & (row < h_in)
        for j in tl.static_range(SIZE):
            across = (j - SIZE // 2) * dilation
            inside = there & (column + across >= 0) & (column + across < w_in)
            value = tl.load(at + across * x_width, inside, 0.0)
            product = _rectify(value, mean, inverse, inside, NORMALIZED) * gradient
            if j == 0:
                t0 += product
            if j == 1:
                t1 += product
            if j == 2:
                t2 += product
            if j == 3:
                t3 += product
            if j == 4:
                t4 += product
    at = partial + ((tl.program_id(0) * groups * c + channel) * SIZE + i) * SIZE
    tl.store(at, tl.sum(t0, 0)[None, :], known)
    tl.store(at + 1, tl.sum(t1, 0)[None, :], known)
    tl.store(at + 2, tl.sum(t2, 0)[None, :], known)
    if SIZE == 5:
        tl.store(at + 3, tl.sum(t3, 0)[None, :], known)
        tl.store(at + 4, tl.sum(t4, 0)[None, :], known)


def by_x(
    middle: Tensor, kernels: Tensor, c: int, read: Map, geometry: Geometry, into: Tensor | None
) -> Tensor:
    """Compute the gradient by the input of the first depthwise convolution, added to `into` if given."""
    return _by_x(middle, kernels, c, read, geometry, into)[0]


def by_inner(middle: Tensor, kernels: Tensor, c: int, read: Map) -> Upstream:
    """Compute the gradient by the batch norm before the second depthwise convolution, through the ReLU."""
    gradient, partial = _by_x(middle, kernels, c, read, Geometry(1, 1, 1), None)
    total, over_n = partial.sum(0)
    return Upstream(gradient, total, over_n)


def _by_x(
    middle: Tensor, kernels: Tensor, c: int, read: Map, geometry: Geometry, into: Tensor | None
) -> tuple[Tensor, Tensor]:
    n, width, h_in, w_in = read.x.shape
    block = block_of(c, 32)
    blocks = triton.cdiv(n * h_in * w_in, TILE // block)
    result = allocate(read.x, read.x.shape) if into is None else into
    partial = torch.empty((blocks, 2, width), dtype=torch.float32, device=middle.device)
    _by_x_kernel[(blocks, width // c, triton.cdiv(c, block))](
        *(middle, kernels, read.x, _statistics(read), result, partial),
        *(n * h_in * w_in, width // c, c, geometry.repeat, int(into is not None)),
        *(h_in, w_in, *middle.shape[2:], geometry.dilation),
        SIZE=kernels.shape[-1],
        STRIDE=geometry.stride,
        NORMALIZED=read.statistics is not None,
        PIXELS=TILE // block,
        CHANNELS=block,
        num_stages=1,
    )
    return result, partial


@triton.jit(do_not_specialize=SIZES)
def _by_x_kernel(
    middle,
    kernels,
    x,
    statistics,
    result,
    partial,
    pixels,
    groups,
    c,
    repeat,
    added,
    h_in,
    w_in,
    h,
    w,
    dilation,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALIZED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute the gradient by x: a sum over the groups that read a channel and over the kernel.

    If x is normalized, go back through the ReLU, and store the sums that the batch norm's gradient needs.
    """
    width = groups * c
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    read = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = read < c
    there = (pixel < pixels) & known
    channel = tl.program_id(1) * c + read
    image, row, column = pixel // (h_in * w_in), pixel // w_in % h_in, pixel % w_in
    at = pixel * width + channel
    total = tl.load(result + at, there & (pixel < pixels * added), 0.0).to(tl.float32)
    for edge in range(repeat):
        place = (tl.program_id(1) * repeat + edge) * c + read
        for i in range(SIZE):
            down = row - (i - SIZE // 2) * dilation
            in_rows = there & (down >= 0) & (down % STRIDE == 0) & (down // STRIDE < h)
            line = (image * h + down // STRIDE) * w
            for j in tl.static_range(SIZE):
                across = column - (j - SIZE // 2) * dilation
                inside = in_rows & (across >= 0) & (across % STRIDE == 0) & (across // STRIDE < w)
                value = tl.load(middle + (line + across // STRIDE) * (width * repeat) + place, inside, 0.0)
                weight = tl.load(kernels + place * SIZE * SIZE + i * SIZE + j, known, 0.0)
                total += value.to(tl.float32) * weight
    if NORMALIZED:
        mean = tl.load(statistics + channel, known, 0.0)
        inverse = tl.load(statistics + width + channel, known, 0.0)
        n = (tl.load(x + at, there, 0.0).to(tl.float32) - mean) * inverse
        total = tl.where(there & (n > 0), total, 0.0)
        out = partial + tl.program_id(0) * 2 * width + channel
        tl.store(out, tl.sum(total, 0)[None, :], known)
        tl.store(out + width, tl.sum(total * n, 0)[None, :], known)
    tl.store(result + at, total, there)
