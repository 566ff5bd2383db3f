"""Building blocks of the derived network, some shared with the supernet (DARTS, cnn/operations.py).

`Norm` makes the batch norm for a number of channels; the caller thereby chooses affine parameters and
running statistics. All maps are float [batch, channels, height, width].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.nas import kernels
from hlrs.nas.packed import Pointwise, from_width, to_width

Norm = Callable[[int], nn.Module]
EPSILON = 1e-5  # of every batch norm
KERNEL_DEVICE = "cuda"  # whose maps kernels of our own convolve
KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def conv_bn(channels_in: int, channels: int, norm: Norm) -> nn.Sequential:
    """1×1 convolution, batch norm."""
    return nn.Sequential(Pointwise(channels_in, channels), norm(channels))


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


class FactorizedReduce(nn.Module):
    """Halves a rectified map without losing pixels: two 1×1 convolutions of stride 2, one pixel apart."""

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.even = Pointwise(channels_in, channels // 2)
        self.odd = Pointwise(channels_in, channels // 2)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] // self.even.in_channels
        return self.norm(join(count, self.even(every_second(x)), self.odd(every_second(x, 1))))  # type: ignore[no-any-return]


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


# --- depthwise convolution --------------------------------------------------------------------------------


class Depthwise(nn.Conv2d):
    """Depthwise convolution without bias that keeps the size at stride 1, of one image or more to a pixel."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return DepthwiseConv.apply(x, self.kernels(x), self.stride[0])  # type: ignore[no-any-return]

    def kernels(self, x: Tensor) -> Tensor:
        """The weights, repeated for each image to a pixel."""
        count = x.shape[1] // self.in_channels
        return self.weight if count == 1 else self.weight.repeat(count, 1, 1, 1)


class Dilated(Depthwise):
    """Depthwise convolution with dilation 2, by phases (see `to_phases`)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:  # what is read are the even rows and columns
            return DepthwiseConv.apply(every_second(x), self.kernels(x), 1)  # type: ignore[no-any-return]
        if has_phases(x):
            return from_phases(DepthwiseConv.apply(to_phases(x), self.kernels(x), 1))
        return conv(x, self.kernels(x), dilation=2)


def conv(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolution of x [n, c, h, w] by weight [d, c / groups, k, k], k odd, padded by half the kernel."""
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight.to(x.dtype), None, stride, dilation * (weight.shape[-1] // 2), dilation, groups)


class DepthwiseConv(torch.autograd.Function):
    """`conv` with `conv_backward` for its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return conv(x, weight, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("a derived network has no second derivatives")
        x, weight = ctx.saved_tensors
        return *conv_backward(gradient, x, weight, ctx.stride, wanted=ctx.needs_input_grad[:2]), None


def conv_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int = 1,
    dilation: int = 1,
    *,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `conv` by x and by weight, each where it is wanted.

    On a CPU, oneDNN has a fast kernel for the gradient by depthwise weights up to three columns wide, and is
    ten times slower beyond. A column's gradient only needs x moved by that column's offset, so 5×5 is taken
    as 5×3 and 5×2.
    """
    kernel = weight.shape[3]
    padding = dilation * (kernel // 2)
    narrow = x.device.type == "cpu" and weight.shape[1] == 1 and dilation == 1
    width = 3 if narrow else kernel
    backward = partial(_conv_backward, gradient, stride=stride, dilation=dilation)
    if kernel <= width or not wanted[1]:
        return backward(x, weight, padding=(padding, padding), wanted=wanted)
    for_x, _ = backward(x, weight, padding=(padding, padding), wanted=(wanted[0], False))
    parts = []
    for start, columns in zip(range(0, kernel, width), weight.split(width, 3), strict=True):
        left = padding - start
        reach = stride * (gradient.shape[3] - 1) + columns.shape[3]
        window = F.pad(x, (left, reach - left - x.shape[3]))
        parts.append(backward(window, columns, padding=(padding, 0), wanted=(False, True))[1])
    return for_x, torch.cat(parts, 3)  # type: ignore[arg-type]


def takes_kernels(x: Tensor, times: int = 1) -> bool:
    """Whether kernels of our own read the map and write maps so many times as large: on a GPU.

    Where they can be compiled, and count in 32 bits.
    """
    if x.device.type != KERNEL_DEVICE or x.dtype not in KERNEL_TYPES or kernels.missing():
        return False
    return times * x.numel() < 2**31


def _conv_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """PyTorch's gradients by x and weight of a convolution without bias, its groups told by the shapes."""
    if not any(wanted):
        return None, None
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        *(gradient, x, weight.to(x.dtype), None, [stride] * 2, padding, [dilation] * 2, False, [0, 0]),
        x.shape[1] // weight.shape[1],
        (*wanted, False),
    )
    return for_x, for_weight


# --- phases ---------------------------------------------------------------------------------------------
# A 2-dilated kernel treats even and odd rows and columns apart. Taken as four images of a quarter of the
# size, they are convolved by an undilated kernel, whose gradients are about ten times faster on a CPU.


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


def separable(channels: int, depthwise: Depthwise, norm: Norm) -> list[nn.Module]:
    """Depthwise convolution, pointwise convolution, batch norm."""
    return [depthwise, Pointwise(channels, channels), norm(channels)]


def reads_rectified(name: str, stride: int) -> bool:
    """Whether a primitive begins with a ReLU, which its module lacks: one serves all edges of a state."""
    return "conv" in name or (name == "skip_connect" and stride == 2)


def make_primitive(name: str, channels: int, stride: int, norm: Norm) -> nn.Module:
    """The module of a primitive other than `none`, without its first ReLU; stride 1 or 2."""
    kind, kernel = name.rsplit("_", 1)[0], int(name[-1]) if name[-1].isdigit() else 0
    if kind == "sep_conv":
        first, second = Depthwise(channels, kernel, stride), Depthwise(channels, kernel)
        return nn.Sequential(
            *separable(channels, first, norm), nn.ReLU(inplace=True), *separable(channels, second, norm)
        )
    if kind == "dil_conv":
        return nn.Sequential(*separable(channels, Dilated(channels, kernel, stride), norm))
    if kind == "max_pool":
        return nn.MaxPool2d(kernel, stride, padding=1)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel, stride, padding=1, count_include_pad=False)
    assert name == "skip_connect", name
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)
