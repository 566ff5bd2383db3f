"""Memory layouts: phases of dilated convolutions, every second pixel, joined maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.nas.ops.packed import from_width, to_width


def every_second(x: Tensor, start: int = 0) -> Tensor:
    """Every second row and column, the first of index `start`, channels-last as its gradient is.

    x [n, c, h, w] to [n, c, ⌈h/2⌉, ⌈w/2⌉], with zeros where an odd size has one less from 1 on. A 1×1
    convolution of these is one of stride 2. oneDNN's weight gradient of the latter writes beyond its memory
    on a CPU (torch 2.15; maps of 56×56 and more, four output channels and fewer): the process dies, or goes
    on with other numbers.
    """
    found: Tensor = _EverySecond.apply(x, start)
    lacking = [start * size % 2 for size in x.shape[:1:-1]]
    return F.pad(found, (0, lacking[0], 0, lacking[1])) if any(lacking) else found


class _EverySecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int) -> Tensor:
        ctx.shape, ctx.start = x.shape, start
        return x[:, :, start::2, start::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _AmongZeros.apply(gradient, ctx.shape, ctx.start), None


class _AmongZeros(torch.autograd.Function):
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
    """Concatenation along the channels of maps with so many images to a pixel."""
    return from_width(Join.apply(*(to_width(x, x.shape[1] // count) for x in maps)), count)


class Join(torch.autograd.Function):
    """Concatenation along the channels; the gradients come back as channels-last maps of their own.

    Slices of the joined map's gradient would make every batch norm behind them several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        parts = gradient.split(ctx.channels, 1)
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in parts)


def has_phases(x: Tensor) -> bool:
    """Whether x [n, c, h, w] falls into four phases of equal size."""
    return x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def to_phases(x: Tensor) -> Tensor:
    """[n, c, 2h, 2w] to channels-last [4n, c, h, w], phase by phase."""
    return _ToPhases.apply(x)  # type: ignore[no-any-return]


def from_phases(x: Tensor) -> Tensor:
    """Inverse of `to_phases`."""
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
    """Contiguous x, its last dimension the channels, seen as a map [n, c, h, w]."""
    _, c, h, w = shape
    return x.as_strided(shape, (h * w * c, 1, w * c, c))
