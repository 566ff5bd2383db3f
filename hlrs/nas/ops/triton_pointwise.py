"""Triton kernels for a GPU: 1×1 convolutions in groups on channels-last maps, with their gradients.

cuDNN multiplies matrices group by group; its gradients take three to twelve times as long as moving their
memory does (docs/benchmarks.md).

A map [n, groups · a, h, w] is stored as [pixel, group, a] with n · h · w pixels. Each program sums over a
part of the pixels and PyTorch adds the parts: without atomic additions, every run gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hlrs.nas.ops.triton_separable import allocate, block_of, precision

PROGRAMS = 2048  # that share a sum over pixels: a few per multiprocessor


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve x [n, groups · a, h, w] with 1×1 weights [groups · b, a, 1, 1]: [n, groups · b, h, w]."""
    a = weight.shape[1]
    groups = x.shape[1] // a
    return _pointwise(x, weight, groups, a, len(weight) // groups, transposed=False)


def pointwise_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of `pointwise` by x and by weight; None for one that is not wanted."""
    a = weight.shape[1]
    groups = x.shape[1] // a
    b = len(weight) // groups
    return (
        _pointwise(gradient, weight, groups, b, a, transposed=True) if wanted[0] else None,
        _by_weight(gradient, x, weight) if wanted[1] else None,
    )


def _pointwise(x: Tensor, weight: Tensor, groups: int, a: int, b: int, transposed: bool) -> Tensor:
    x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
    n, _, h, w = x.shape
    y = allocate(x, (n, groups * b, h, w))
    grid = triton.cdiv(n * h * w, 128), groups, triton.cdiv(b, block_of(b, 64))
    _pointwise_kernel[grid](
        *(x, weight, y, n * h * w, groups, a, b),
        TRANSPOSED=transposed,
        PIXELS=128,
        A=block_of(a, 64),
        B=block_of(b, 64),
        PRECISION=precision(),
    )
    return y


@triton.jit(do_not_specialize=["pixels"])
def _pointwise_kernel(
    x,
    weight,
    y,
    pixels,
    groups,
    a,
    b,
    TRANSPOSED: tl.constexpr,
    PIXELS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute y for some pixels and channels of a group: x · Wᵀ or, TRANSPOSED, x · W."""
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    group = tl.program_id(1)
    written = tl.program_id(2) * B + tl.arange(0, B)[None, :]
    own = weight + group * a * b
    rows = x + (pixel.to(tl.int64) * groups + group) * a
    total = tl.zeros((PIXELS, B), tl.float32)
    for begin in range(0, a, A):
        read = begin + tl.arange(0, A)
        at = own + (read[:, None] * b + written if TRANSPOSED else written * a + read[:, None])
        columns = tl.load(at, (read[:, None] < a) & (written < b), 0.0).to(x.dtype.element_ty)
        values = tl.load(rows + read[None, :], (pixel < pixels) & (read[None, :] < a), 0.0)
        total = tl.dot(values, columns, total, input_precision=PRECISION)
    at = y + (pixel.to(tl.int64) * groups + group) * b + written
    tl.store(at, total, (pixel < pixels) & (written < b))


def _by_weight(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    n, channels, h, w = x.shape
    a = weight.shape[1]
    groups = channels // a
    b = len(weight) // groups
    blocks = triton.cdiv(a, block_of(a, 64)), triton.cdiv(b, block_of(b, 64))
    parts = min(triton.cdiv(n * h * w, 256), triton.cdiv(PROGRAMS, groups * blocks[0] * blocks[1]))
    found = torch.empty((parts, *weight.shape), dtype=torch.float32, device=x.device)
    _by_weight_kernel[(parts, groups, blocks[0] * blocks[1])](
        *(gradient, x, found, n * h * w, triton.cdiv(n * h * w, parts), groups, a, b),
        PIXELS=64,
        A=block_of(a, 64),
        B=block_of(b, 64),
        PRECISION=precision(),
    )
    return found.sum(0).to(weight.dtype)


@triton.jit(do_not_specialize=["pixels", "own"])
def _by_weight_kernel(
    gradient,
    x,
    found,
    pixels,
    own,
    groups,
    a,
    b,
    PIXELS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute gradientᵀ · x over `own` pixels, for some channels of a group."""
    part, group = tl.program_id(0), tl.program_id(1)
    blocks = (a + A - 1) // A
    read = tl.program_id(2) % blocks * A + tl.arange(0, A)[None, :]
    written = tl.program_id(2) // blocks * B + tl.arange(0, B)[:, None]
    last = tl.minimum(part * own + own, pixels)
    total = tl.zeros((B, A), tl.float32)
    for begin in range(part * own, last, PIXELS):
        pixel = begin + tl.arange(0, PIXELS).to(tl.int64)
        at = x + (pixel[:, None] * groups + group) * a + read
        rows = tl.load(at, (pixel[:, None] < last) & (read < a), 0.0)
        at = gradient + (pixel[None, :] * groups + group) * b + written
        columns = tl.load(at, (pixel[None, :] < last) & (written < b), 0.0)
        total = tl.dot(columns, rows, total, input_precision=PRECISION)
    at = found + ((part * groups + group) * b + written) * a + read
    tl.store(at, total, (written < b) & (read < a))
