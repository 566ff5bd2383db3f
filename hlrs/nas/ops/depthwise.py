"""Convolutions of channels-last maps with fast gradients by depthwise weights on a CPU."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.nas.ops.tracing import exporting

Stride = int | tuple[int, int]


def conv(x: Tensor, weight: Tensor, stride: Stride = 1, dilation: int = 1) -> Tensor:
    """Convolve x [n, c, h, w] with weight [d, c / groups, k, l], k and l odd, padded by half the kernel."""
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight.to(x.dtype), None, stride, _padding(weight, dilation), dilation, groups)


def _padding(weight: Tensor, dilation: int) -> tuple[int, int]:
    height, width = weight.shape[2:]
    return dilation * (height // 2), dilation * (width // 2)


def depthwise(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Compute `conv` with its gradients by `conv_backward`."""
    if exporting():
        return conv(x, weight, stride)
    return DepthwiseConv.apply(x, weight, stride)  # type: ignore[no-any-return]


class DepthwiseConv(torch.autograd.Function):
    """`conv` with its gradients by `conv_backward`; RuntimeError if asked for second derivatives."""

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
    stride: Stride = 1,
    dilation: int = 1,
    *,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of `conv` by x and by weight; None for one that is not wanted.

    On a CPU, oneDNN's gradient by depthwise weights is fast up to three columns and ten times slower beyond.
    A column's gradient only needs x shifted by that column's offset, so 5×5 is computed as 5×3 and 5×2.
    """
    kernel, padding = weight.shape[3], _padding(weight, dilation)
    strides = (stride, stride) if isinstance(stride, int) else stride
    narrow = x.device.type == "cpu" and weight.shape[1] == 1 and dilation == 1
    width = 3 if narrow else kernel
    backward = partial(_conv_backward, gradient, stride=strides, dilation=dilation)
    if kernel <= width or not wanted[1]:
        return backward(x, weight, padding=padding, wanted=wanted)
    for_x, _ = backward(x, weight, padding=padding, wanted=(wanted[0], False))
    parts = []
    for start, columns in zip(range(0, kernel, width), weight.split(width, 3), strict=True):
        left = max(padding[1] - start, -x.shape[3])  # a column may see nothing but padding
        reach = strides[1] * (gradient.shape[3] - 1) + columns.shape[3]
        window = F.pad(x, (left, reach - left - x.shape[3]))
        parts.append(backward(window, columns, padding=(padding[0], 0), wanted=(False, True))[1])
    return for_x, torch.cat(parts, 3)  # type: ignore[arg-type]


def _conv_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Compute PyTorch's gradients of a convolution without bias; the shapes give its groups."""
    if not any(wanted):
        return None, None
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        *(gradient, x, weight.to(x.dtype), None, stride, padding, [dilation] * 2, False, [0, 0]),
        x.shape[1] // weight.shape[1],
        (*wanted, False),
    )
    return for_x, for_weight
