"""Layouts of maps: subsampled, split into the four phases of a dilated convolution, joined by channels.

All maps are float [n, c, h, w] and stay channels-last, the layout that oneDNN is fast on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.nas.ops.packed import from_width, to_width
from hlrs.nas.ops.tracing import exporting


def every_second(x: Tensor, start: int = 0) -> Tensor:
    """Take every second row and column from `start` (0 or 1) on: [n, c, h, w] to [n, c, ⌈h/2⌉, ⌈w/2⌉].

    Where an odd size has one fewer from 1 on, zeros are added. A 1×1 convolution of the result equals one of
    stride 2 on x, whose weight gradient in oneDNN writes beyond its memory on a CPU (torch 2.15; maps of
    56×56 and more, at most four output channels): the process crashes or computes wrong numbers.
    """
    taken: Tensor = x[:, :, start::2, start::2] if exporting() else _EverySecond.apply(x, start)
    missing = [start * size % 2 for size in x.shape[:1:-1]]
    return F.pad(taken, (0, missing[0], 0, missing[1])) if any(missing) else taken


class _EverySecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int) -> Tensor:
        ctx.shape, ctx.start = x.shape, start
        return x[:, :, start::2, start::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _AmongZeros.apply(gradient, ctx.shape, ctx.start), None


class _AmongZeros(torch.autograd.Function):
    """Inverse of `_EverySecond`, with zeros for the pixels that it skipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: torch.Size, start: int) -> Tensor:
        ctx.start = start
        y = channels_last(x.new_zeros(shape.numel()), shape)
        y[:, :, start::2, start::2] = x
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _EverySecond.apply(gradient, ctx.start), None, None


def join(count: int, *maps: Tensor) -> Tensor:
    """Concatenate maps with `count` images per pixel (ops/packed.py) along the channels of each image."""
    if exporting():
        return torch.cat(maps, 1)  # `fitting` makes the count 1
    return from_width(Join.apply(*(to_width(x, x.shape[1] // count) for x in maps)), count)


class Join(torch.autograd.Function):
    """Concatenates along the channels, with a separate channels-last gradient for each map.

    Slices of the joined gradient would make every batch norm that reads them several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        parts = gradient.split(ctx.channels, 1)
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in parts)


# --- phases: a convolution of dilation 2 acts on each quarter of the pixels without dilation ----------------


def has_phases(x: Tensor) -> bool:
    """Whether to split a map: height and width are even, so that the four phases have equal sizes."""
    return not exporting() and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def to_phases(x: Tensor) -> Tensor:
    """Split maps by even and odd rows and columns: [n, c, 2h, 2w] to [4n, c, h, w], phase by phase."""
    return _ToPhases.apply(x)  # type: ignore[no-any-return]


def from_phases(x: Tensor) -> Tensor:
    """Invert `to_phases`: [4n, c, h, w] to [n, c, 2h, 2w]."""
    return _FromPhases.apply(x)  # type: ignore[no-any-return]


class _ToPhases(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        split = x.as_strided((2, 2, n, h // 2, w // 2, c), (w * c, c, h * w * c, 2 * w * c, 2 * c, 1))
        return channels_last(split.contiguous(), (4 * n, c, h // 2, w // 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return from_phases(gradient)


class _FromPhases(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x, phase = x.contiguous(memory_format=torch.channels_last), n // 4 * h * w * c
        joined = x.as_strided((n // 4, h, 2, w, 2, c), (h * w * c, w * c, 2 * phase, c, phase, 1))
        return channels_last(joined.contiguous(), (n // 4, c, 2 * h, 2 * w))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return to_phases(gradient)


def channels_last(x: Tensor, shape: Sequence[int]) -> Tensor:
    """View contiguous x, whose last dimension is the channels, as a map of `shape` (n, c, h, w)."""
    _, c, h, w = shape
    return x.as_strided(shape, (h * w * c, 1, w * c, c))
