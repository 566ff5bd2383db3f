"""Building blocks of the derived network, some shared with the supernet (DARTS, cnn/operations.py).

`Norm` makes the batch norm for a number of channels; the caller thereby chooses affine parameters and
running statistics. All maps are float [batch, channels, height, width].
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def relu_conv_bn(channels_in: int, channels: int, norm: Norm) -> nn.Sequential:
    """ReLU, 1×1 convolution, batch norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels_in, channels, 1, bias=False), norm(channels))


def shifted(x: Tensor) -> Tensor:
    """x without its first row and column; padded by zeros where an odd size would lose an output."""
    height, width = x.shape[-2:]
    return F.pad(x, (-1, width % 2, -1, height % 2))


class FactorizedReduce(nn.Module):
    """Halves the map without losing pixels: two 1×1 convolutions of stride 2, one pixel apart."""

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels_in, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels_in, channels // 2, 1, stride=2, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(shifted(x))], 1))  # type: ignore[no-any-return]


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    """Depthwise convolution that keeps the size at stride 1."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def separable(channels: int, kernel: int, stride: int, dilation: int, norm: Norm) -> list[nn.Module]:
    """ReLU, depthwise convolution, pointwise convolution, batch norm."""
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), depthwise(channels, kernel, stride, dilation), pointwise, norm(channels)]


def make_primitive(name: str, channels: int, stride: int, norm: Norm) -> nn.Module:
    """The module of a primitive other than `none`; stride 1 or 2."""
    kind, kernel = name.rsplit("_", 1)[0], int(name[-1]) if name[-1].isdigit() else 0
    if kind == "sep_conv":
        twice = separable(channels, kernel, stride, 1, norm) + separable(channels, kernel, 1, 1, norm)
        return nn.Sequential(*twice)
    if kind == "dil_conv":
        return nn.Sequential(*separable(channels, kernel, stride, 2, norm))
    if kind == "max_pool":
        return nn.MaxPool2d(kernel, stride, padding=1)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel, stride, padding=1, count_include_pad=False)
    assert name == "skip_connect", name
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)
