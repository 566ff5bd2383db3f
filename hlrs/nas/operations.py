"""The search space's operations (DARTS, cnn/operations.py) as modules of the derived network.

The supernet shares some of them. A `Norm` makes a batch norm for a number of channels, so the caller chooses
affine parameters and running statistics. All maps are float [batch, channels, height, width].
"""

from collections.abc import Callable

from torch import Tensor, nn

from hlrs.nas.ops.convolution import Conv
from hlrs.nas.ops.depthwise import conv, depthwise
from hlrs.nas.ops.layouts import every_second, from_phases, has_phases, join, to_phases
from hlrs.nas.ops.packed import Pointwise, pack, unpack

Norm = Callable[[int], nn.Module]


def conv_bn(channels_in: int, channels: int, norm: Norm) -> nn.Sequential:
    """Make a 1×1 convolution followed by a batch norm."""
    return nn.Sequential(Pointwise(channels_in, channels), norm(channels))


class FactorizedReduce(nn.Module):
    """Halves a rectified map without losing pixels, by two 1×1 convolutions of stride 2 one pixel apart."""

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.even = Pointwise(channels_in, channels // 2)
        self.odd = Pointwise(channels_in, channels // 2)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] // self.even.in_channels
        return self.norm(join(count, self.even(every_second(x)), self.odd(every_second(x, 1))))  # type: ignore[no-any-return]


class Depthwise(Conv):
    """Depthwise convolution, on maps with any number of images per pixel (ops/packed.py)."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, primitive=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.stride[0])

    def convolve(self, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        """Convolve with the weights, repeated for each image of a pixel."""
        count = x.shape[1] // self.in_channels
        kernels = self.weight if count == 1 else self.weight.repeat(count, 1, 1, 1)
        if self.product is not None:
            return self.product(x, kernels, stride, dilation)  # type: ignore[no-any-return]
        return depthwise(x, kernels, stride) if dilation == 1 else conv(x, kernels, stride, dilation)


class Dilated(Depthwise):
    """Depthwise convolution with dilation 2, computed without dilation on phases (`to_phases`)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:  # only even rows and columns are read
            return self.convolve(every_second(x))
        if has_phases(x):
            return from_phases(self.convolve(to_phases(x)))
        return self.convolve(x, dilation=2)


class Factorized(nn.Module):
    """A 1×k convolution, then a k×1 convolution, both dense (NASNet's, in the authors' operations.py)."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        reach, self.channels = kernel // 2, channels
        self.row = Conv(channels, channels, (1, kernel), (1, stride), (0, reach), primitive=True)
        self.column = Conv(channels, channels, (kernel, 1), (stride, 1), (reach, 0), primitive=True)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] // self.channels
        return pack(self.column(self.row(unpack(x, count))), count)


def separable(channels: int, depthwise: Depthwise, norm: Norm) -> list[nn.Module]:
    """Make the modules of a depthwise convolution, a pointwise convolution and a batch norm."""
    return [depthwise, Pointwise(channels, channels, primitive=True), norm(channels)]


def reads_rectified(name: str, stride: int) -> bool:
    """Whether an operation begins with a ReLU; its module lacks it, as one serves all edges of a state."""
    return "conv" in name or (name == "skip_connect" and stride == 2)


def make_operation(name: str, channels: int, stride: int, norm: Norm) -> nn.Module:
    """Make the module of an operation other than `none`, without its first ReLU; stride 1 or 2."""
    kind, kernel = name.rsplit("_", 1)[0], int(name[-1]) if name[-1].isdigit() else 0
    if kind == "sep_conv":
        first, second = Depthwise(channels, kernel, stride), Depthwise(channels, kernel)
        return nn.Sequential(
            *separable(channels, first, norm), nn.ReLU(inplace=True), *separable(channels, second, norm)
        )
    if kind == "dil_conv":
        return nn.Sequential(*separable(channels, Dilated(channels, kernel, stride), norm))
    if name == "conv_7x1_1x7":
        return nn.Sequential(Factorized(channels, kernel, stride), norm(channels))
    if kind == "max_pool":
        return nn.MaxPool2d(kernel, stride, padding=1)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel, stride, padding=1, count_include_pad=False)
    assert name == "skip_connect", name
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)
