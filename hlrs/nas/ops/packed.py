"""Maps with several images per pixel, and layers that recognize them by the number of channels.

A CPU's vectors hold 16 numbers. Depthwise convolutions and batch norms take 16 channels of a channels-last
map at a time and are two to five times slower if the channels are not a multiple of 16, such as DARTS's 36.
There the maps of a derived network hold k images per pixel, one after the other: float
[n, k·channels, height, width] instead of [n·k, channels, height, width]. Convolutions, batch norms and their
gradients equal those of single images.
"""

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hlrs.nas.ops.convolution import Conv
from hlrs.nas.ops.tracing import exporting

EPSILON = 1e-5  # of every batch norm
VECTOR = 16  # float32 numbers (AVX-512)
LARGE = 2**20  # numbers; with smaller maps, the additional operators cost more than they save


def fitting(images: Tensor, channels: int) -> int:
    """Return the number of images per pixel that makes the channels a multiple of 16.

    It is 1 on a GPU, for small maps, and if it does not divide the batch; images [batch, any, h, w]. It is 1
    in an exported graph, too, which holds for any batch.
    """
    if exporting():
        return 1
    count = VECTOR // gcd(VECTOR, channels)
    batch, _, height, width = images.shape
    fits = images.device.type == "cpu" and batch % count == 0 and batch * channels * height * width >= LARGE
    return count if fits else 1


def pack(x: Tensor, count: int) -> Tensor:
    """Pack `count` images per pixel: [n·count, c, h, w] to channels-last [n, count·c, h, w]."""
    if count == 1:
        return x
    images: Tensor = x.permute(0, 2, 3, 1).unflatten(0, (-1, count))
    return images.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def unpack(x: Tensor, count: int) -> Tensor:
    """Invert `pack`: [n, count·c, h, w] to channels-last [n·count, c, h, w]."""
    if count == 1:
        return x
    images: Tensor = x.permute(0, 2, 3, 1).unflatten(3, (count, -1))
    return images.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def to_width(x: Tensor, channels: int) -> Tensor:
    """View [n, k·channels, h, w] as [n, channels, h, k·w], with the images side by side.

    This suits 1×1 convolutions and concatenation along channels, which ignore the position of a pixel.
    """
    if x.shape[1] == channels:
        return x
    images: Tensor = x.permute(0, 2, 3, 1).unflatten(3, (-1, channels))
    return images.flatten(2, 3).permute(0, 3, 1, 2)


def from_width(x: Tensor, count: int) -> Tensor:
    """Invert `to_width`, for `count` images per pixel."""
    if count == 1:
        return x
    images: Tensor = x.permute(0, 2, 3, 1).unflatten(2, (-1, count))
    return images.flatten(3).permute(0, 3, 1, 2)


class Pointwise(Conv):
    """1×1 convolution, on maps with any number of images per pixel."""

    def __init__(self, channels_in: int, channels: int, primitive: bool = False) -> None:
        super().__init__(channels_in, channels, 1, primitive=primitive)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(to_width(x, self.in_channels))
        return from_width(y, x.shape[1] // self.in_channels)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm on maps with any number of images per pixel, with PyTorch's running statistics."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float | None

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] // self.num_features
        if count == 1:
            return super().forward(x)
        if not self.training:
            mean, variance = torch.stack([self.running_mean, self.running_var]).repeat(1, count)
            weight, bias = torch.stack([self.weight, self.bias]).repeat(1, count)
            return F.batch_norm(x, mean, variance, weight, bias, eps=self.eps)
        y, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        values = x.numel() // self.num_features
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (values / (values - 1)), momentum)
        return y  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """Computes n(x) · weight + bias, and the mean and biased variance [c] of all images.

    PyTorch gives statistics, and in the backward pass sums, of each of the k · c packed channels; they are
    combined per channel. With n = (x − mean)/√(variance + ε), gradient g and N values per channel,

        ∂/∂x = weight/√(variance + ε) · (g − Σg/N − n · Σ(g·n)/N)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Any:
        count = x.shape[1] // len(weight)
        # beside running statistics in float32, which do not change, a CPU has float32 ones of bfloat16 maps
        still = weight.new_zeros(2, x.shape[1])
        each = torch.ops.aten.batch_norm_update_stats(x, still[0], still[1], 0.0)
        means, variances = (values.view(count, -1) for values in each)
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        own = torch.stack([mean, variance, weight, bias]).repeat(1, count)
        ctx.save_for_backward(x, weight, mean, (variance + epsilon).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, own[0], own[1], own[2], own[3], eps=epsilon), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        count = x.shape[1] // len(weight)
        own = torch.stack([weight, mean, inverse]).repeat(1, count)
        mask = False, True, True
        _, *each = torch.ops.aten.native_batch_norm_backward(
            gradient, x, own[0], None, None, own[1], own[2], True, 0.0, mask
        )
        by_weight, by_bias = (values.view(count, -1).sum(0) for values in each)
        slope = inverse * weight
        of_x = -slope * inverse * by_weight * len(weight) / x.numel()
        rest = -slope * by_bias * len(weight) / x.numel() - of_x * mean
        terms = torch.stack([rest, of_x, slope]).repeat(1, count)[:, :, None, None]
        by_x = torch.addcmul(terms[0], x, terms[1]).addcmul_(gradient, terms[2])
        return by_x.to(x.dtype), by_weight, by_bias, None
