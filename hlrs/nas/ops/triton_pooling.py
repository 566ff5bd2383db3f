"""Triton kernels for a GPU: a supernet's operations without weights, with their gradients.

Max pool, average pool and identity give the same maps for all edges from a state. A pool's map is written
once; edges read it through its batch norm. Sums over pixels are taken in parts, as in triton_separable.py.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hlrs.nas.ops.triton_separable import (
    PARTS,
    SIZES,
    TILE,
    Map,
    allocate,
    block_of,
    differentiable,
    statistics_of,
)


class Pooled(torch.autograd.Function):
    """Computes Σ over sources of weights · (n(max pool 3×3), n(average pool 3×3), x) for each edge.

    x [n, sources · c, h, w]; weights [edges, operations · sources], with three operations at stride 1 and,
    without x itself, two at stride 2; result [n, edges · c, h / stride, w / stride]. Windows are padded by 1;
    neither pool counts the padding.

    Second derivatives are those of `plain`, the same function of x and the weights in PyTorch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plain: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        weights: Tensor,
        sources: int,
        stride: int,
    ) -> Tensor:
        ctx.plain, ctx.sources, ctx.stride = plain, sources, stride
        read = x.contiguous(memory_format=torch.channels_last)
        pooled, places = pool(read, stride)
        ctx.save_for_backward(x, weights, *pooled, places)
        return mix(read, pooled, weights, sources, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, *pooled, places = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *differentiable(ctx.plain, (x, weights), (), gradient)[0], None, None
        read, found = x.contiguous(memory_format=torch.channels_last), Map(*pooled)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        edges, c = len(weights), x.shape[1] // ctx.sources
        operations = weights.shape[1] // ctx.sources
        # [sum with max, average, x or 1; source; edge; c]
        totals = sums(gradient, read, found, ctx.sources, edges, ctx.stride).view(4, ctx.sources, edges, c)
        for_weights = totals[:operations].sum(3).permute(2, 0, 1).reshape(weights.shape)
        shares = weights.view(edges, operations, ctx.sources).permute(1, 2, 0)[:2, :, :, None]
        over_n = (shares * totals[:2]).sum(2).view(2, -1)
        total = (shares * totals[3]).sum(2).view(2, -1)
        by_pools = by_pool(gradient, read, found, weights, total, over_n, ctx.sources, ctx.stride)
        return (
            None,
            by_x(gradient, read, by_pools, places, weights, ctx.sources, ctx.stride),
            for_weights,
            None,
            None,
        )


def pool(x: Tensor, stride: int) -> tuple[Map, Tensor]:
    """Compute the max and the average pool [2, n, h, w, c] with statistics, and the places of the maxima.

    A place, int8 [n, h, w, c], is 3 · row + column in the 3×3 window; statistics as in `statistics_of`.
    """
    n, c, h_in, w_in = x.shape
    h, w = -(-h_in // stride), -(-w_in // stride)
    pixels, block = n * h * w, block_of(c, 32)
    blocks = triton.cdiv(pixels, TILE // block)
    maps = torch.empty((2, n, h, w, c), dtype=x.dtype, device=x.device)
    places = torch.empty((n, h, w, c), dtype=torch.int8, device=x.device)
    partial = torch.empty((blocks, 2, 2 * c), dtype=torch.float32, device=x.device)
    _pool_kernel[(blocks, triton.cdiv(c, block))](
        *(x, maps, places, partial, pixels, c, h_in, w_in, h, w),
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
        num_stages=1,
    )
    return Map(maps, statistics_of(partial, pixels, TILE // block)), places


@triton.jit
def _store_block(values, there, partial, first, pixels, width, channel, known, PIXELS: tl.constexpr):
    """Store the mean of a block's values, and the sum of squares around it."""
    values = tl.where(there, values, 0.0)
    mean = tl.sum(values, 0)[None, :] / tl.minimum(pixels - first, PIXELS)
    around = tl.where(there, values - mean, 0.0)
    tl.store(partial + channel, mean, known)
    tl.store(partial + width + channel, tl.sum(around * around, 0)[None, :], known)


@triton.jit(do_not_specialize=SIZES)
def _pool_kernel(
    x,
    maps,
    places,
    partial,
    pixels,
    c,
    h_in,
    w_in,
    h,
    w,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    first = tl.program_id(0) * PIXELS
    pixel = (first + tl.arange(0, PIXELS))[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = channel < c
    there = (pixel < pixels) & known
    row, column = pixel // w % h * STRIDE, pixel % w * STRIDE
    at = x + ((pixel // (h * w) * h_in + row) * w_in + column) * c + channel
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    largest = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    place = tl.zeros((PIXELS, CHANNELS), tl.int32)
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            down, across = row + i - 1, column + j - 1
            inside = there & (down >= 0) & (down < h_in) & (across >= 0) & (across < w_in)
            value = tl.load(at + ((i - 1) * w_in + j - 1) * c, inside, 0.0).to(tl.float32)
            total += value
            larger = inside & (value > largest)
            largest, place = tl.where(larger, value, largest), tl.where(larger, 3 * i + j, place)
    count = _count(row, column, h_in, w_in)
    dtype = x.dtype.element_ty
    largest, average = largest.to(dtype), (total / count).to(dtype)
    out = maps + pixel * c + channel
    tl.store(out, largest, there)
    tl.store(out + pixels * c, average, there)
    tl.store(places + pixel * c + channel, place.to(tl.int8), there)
    own = partial + tl.program_id(0) * 4 * c
    _store_block(largest.to(tl.float32), there, own, first, pixels, 2 * c, channel, known, PIXELS)
    _store_block(average.to(tl.float32), there, own + c, first, pixels, 2 * c, channel, known, PIXELS)


@triton.jit
def _count(row, column, h, w):
    """Count the pixels of an h×w map in the 3×3 window around one."""
    down = 3 - (row == 0).to(tl.int32) - (row == h - 1).to(tl.int32)
    return (down * (3 - (column == 0).to(tl.int32) - (column == w - 1).to(tl.int32))).to(tl.float32)


def mix(x: Tensor, pooled: Map, weights: Tensor, sources: int, stride: int) -> Tensor:
    """Compute each edge's weighted sum over sources and operations: [n, edges · c, h, w]."""
    maps, statistics = pooled
    _, n, h, w, width = maps.shape
    edges, c = len(weights), width // sources
    mixed = allocate(x, (n, edges * c, h, w))
    block = block_of(c, 64)
    _mix_kernel[(triton.cdiv(n * h * w, TILE // block), edges, triton.cdiv(c, block))](
        *(x, maps, statistics, weights.contiguous(), mixed, n * h * w, edges, c, sources),
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
    )
    return mixed


@triton.jit(do_not_specialize=[*SIZES, "edges"])
def _mix_kernel(
    x,
    maps,
    statistics,
    weights,
    mixed,
    pixels,
    edges,
    c,
    sources,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    edge, own = tl.program_id(1), tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known, width = own < c, sources * c
    there = (pixel < pixels) & known
    operations = 3 if STRIDE == 1 else 2
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for source in range(sources):
        channel = source * c + own
        for k in tl.static_range(2):
            weight = tl.load(weights + (edge * operations + k) * sources + source)
            mean = tl.load(statistics + k * width + channel, known, 0.0)
            inverse = tl.load(statistics + (2 + k) * width + channel, known, 0.0)
            value = tl.load(maps + (k * pixels + pixel) * width + channel, there, 0.0).to(tl.float32)
            total += weight * inverse * (value - mean)
        if STRIDE == 1:
            weight = tl.load(weights + (edge * 3 + 2) * sources + source)
            total += weight * tl.load(x + pixel * width + channel, there, 0.0).to(tl.float32)
    tl.store(mixed + (pixel * edges + edge) * c + own, total, there)


def sums(gradient: Tensor, x: Tensor, pooled: Map, sources: int, edges: int, stride: int) -> Tensor:
    """Sum gradient · (n(max), n(average), x, 1) over pixels: [4, source · edge · c], 0 for x at stride 2."""
    maps, statistics = pooled
    _, n, h, w, width = maps.shape
    c = width // sources
    pixels, block = n * h * w, block_of(c, 32)
    columns = triton.cdiv(c, block)
    parts = min(triton.cdiv(pixels, TILE // block), triton.cdiv(PARTS, columns * sources * edges))
    partial = torch.empty((parts, 4, sources * edges * c), dtype=torch.float32, device=x.device)
    _sums_kernel[(parts, sources * edges, columns)](
        *(gradient, x, maps, statistics, partial, pixels, triton.cdiv(pixels, parts), edges, c, sources),
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
    )
    return partial.sum(0)


@triton.jit(do_not_specialize=[*SIZES, "edges"])
def _sums_kernel(
    gradient,
    x,
    maps,
    statistics,
    partial,
    pixels,
    share,
    edges,
    c,
    sources,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    source, edge = tl.program_id(1) // edges, tl.program_id(1) % edges
    own = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known, width, channel = own < c, sources * c, source * c + own
    last = tl.minimum((tl.program_id(0) + 1) * share, pixels)
    mean0, inverse0 = (
        tl.load(statistics + channel, known, 0.0),
        tl.load(statistics + 2 * width + channel, known, 0.0),
    )
    mean1 = tl.load(statistics + width + channel, known, 0.0)
    inverse1 = tl.load(statistics + 3 * width + channel, known, 0.0)
    t0 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t1 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t2 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    t3 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(tl.program_id(0) * share, last, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[:, None]
        there = (pixel < last) & known
        g = tl.load(gradient + (pixel * edges + edge) * c + own, there, 0.0).to(tl.float32)
        at = pixel * width + channel
        t0 += g * (tl.load(maps + at, there, 0.0).to(tl.float32) - mean0)
        t1 += g * (tl.load(maps + pixels * width + at, there, 0.0).to(tl.float32) - mean1)
        if STRIDE == 1:
            t2 += g * tl.load(x + at, there, 0.0).to(tl.float32)
        t3 += g
    step = sources * edges * c
    at = partial + tl.program_id(0) * 4 * step + tl.program_id(1) * c + own
    tl.store(at, tl.sum(t0, 0)[None, :] * inverse0, known)
    tl.store(at + step, tl.sum(t1, 0)[None, :] * inverse1, known)
    tl.store(at + 2 * step, tl.sum(t2, 0)[None, :], known)
    tl.store(at + 3 * step, tl.sum(t3, 0)[None, :], known)


def by_pool(
    gradient: Tensor,
    x: Tensor,
    pooled: Map,
    weights: Tensor,
    total: Tensor,
    over_n: Tensor,
    sources: int,
    stride: int,
) -> Tensor:
    """Compute the gradients by both pools' maps, through their batch norms: [2, n, h, w, sources · c].

    That by the average pool is divided by the number of pixels in the window. total and over_n
    [2, sources · c] are sums over pixels of the gradient by n(map), and of this gradient times n(map).
    """
    maps, statistics = pooled
    _, n, h, w, width = maps.shape
    edges, c = len(weights), width // sources
    result = torch.empty_like(maps)
    block = block_of(c, 64)
    _by_pool_kernel[(triton.cdiv(n * h * w, TILE // block), 2 * sources, triton.cdiv(c, block))](
        *(
            gradient,
            maps,
            statistics,
            weights.contiguous(),
            total,
            over_n,
            result,
            n * h * w,
            edges,
            c,
            sources,
        ),
        *(weights.shape[1] // sources, *x.shape[2:], h, w),
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
    )
    return result


@triton.jit(do_not_specialize=[*SIZES, "edges", "operations"])
def _by_pool_kernel(
    gradient,
    maps,
    statistics,
    weights,
    total,
    over_n,
    result,
    pixels,
    edges,
    c,
    sources,
    operations,
    h_in,
    w_in,
    h,
    w,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    k, source = tl.program_id(1) // sources, tl.program_id(1) % sources
    own = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known, width = own < c, sources * c
    there = (pixel < pixels) & known
    channel = k * width + source * c + own
    by_n = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for edge in range(edges):
        weight = tl.load(weights + (edge * operations + k) * sources + source)
        by_n += weight * tl.load(gradient + (pixel * edges + edge) * c + own, there, 0.0).to(tl.float32)
    mean, inverse = (
        tl.load(statistics + channel, known, 0.0),
        tl.load(statistics + 2 * width + channel, known, 0.0),
    )
    at = (k * pixels + pixel) * width + source * c + own
    n = (tl.load(maps + at, there, 0.0).to(tl.float32) - mean) * inverse
    by_n -= (tl.load(total + channel, known, 0.0) + n * tl.load(over_n + channel, known, 0.0)) / pixels
    if k == 1:  # every pixel of a window has an equal share in its average
        by_n /= _count(pixel // w % h * STRIDE, pixel % w * STRIDE, h_in, w_in)
    tl.store(result + at, inverse * by_n, there)


def by_x(
    gradient: Tensor, x: Tensor, by_pools: Tensor, places: Tensor, weights: Tensor, sources: int, stride: int
) -> Tensor:
    """Compute the gradient by x: through the pools that read a pixel, and directly."""
    n, width, h_in, w_in = x.shape
    edges, c = len(weights), width // sources
    result = allocate(x, x.shape)
    block = block_of(c, 32)
    _by_x_kernel[(triton.cdiv(n * h_in * w_in, TILE // block), sources, triton.cdiv(c, block))](
        *(gradient, by_pools, places, weights.contiguous(), result, n * h_in * w_in, edges, c, sources),
        *(h_in, w_in, *places.shape[1:3]),
        STRIDE=stride,
        PIXELS=TILE // block,
        CHANNELS=block,
        num_stages=1,
    )
    return result


@triton.jit(do_not_specialize=[*SIZES, "edges"])
def _by_x_kernel(
    gradient,
    by_pools,
    places,
    weights,
    result,
    pixels,
    edges,
    c,
    sources,
    h_in,
    w_in,
    h,
    w,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    own = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known, width, source = own < c, sources * c, tl.program_id(1)
    there = (pixel < pixels) & known
    channel = source * c + own
    image, row, column = pixel // (h_in * w_in), pixel // w_in % h_in, pixel % w_in
    written = pixels // (h_in * w_in) * h * w
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in range(3):
        for j in tl.static_range(3):
            down, across = row - i + 1, column - j + 1  # centre of the window
            inside = there & (down >= 0) & (across >= 0) & (down % STRIDE == 0) & (across % STRIDE == 0)
            inside = inside & (down // STRIDE < h) & (across // STRIDE < w)
            at = ((image * h + down // STRIDE) * w + across // STRIDE) * width + channel
            here = tl.load(places + at, inside, -1) == 3 * i + j
            total += tl.load(by_pools + at, inside & here, 0.0).to(tl.float32)
            total += tl.load(by_pools + written * width + at, inside, 0.0).to(tl.float32)
    if STRIDE == 1:
        for edge in range(edges):
            weight = tl.load(weights + (edge * 3 + 2) * sources + source)
            total += weight * tl.load(gradient + (pixel * edges + edge) * c + own, there, 0.0).to(tl.float32)
    tl.store(result + pixel * width + channel, total, there)
