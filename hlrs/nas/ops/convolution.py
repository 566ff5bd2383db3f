"""Convolutions whose products can be approximate."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Conv(nn.Conv2d):
    """Convolution without bias, kernels odd, padded to keep the size at stride 1.

    A `product` computes it in place of PyTorch (ops/approximate.py). In a supernet maps lie side by side: its
    input and its output have `parts` equal parts. A `primitive` belongs to an operation that is searched.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        *,
        groups: int = 1,
        primitive: bool = False,
        parts: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(channels_in, channels, kernel, stride, padding, groups=groups, bias=False)
        self.primitive, self.parts = primitive, parts
        self.product: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.product is None:
            return super().forward(x)
        return self.product(x, self.weight, self.stride, self.dilation[0])  # type: ignore[no-any-return]


@contextmanager
def exact(network: nn.Module) -> Iterator[None]:
    """Compute a network's products exactly, in floating point, inside the block."""
    products = {module: module.product for module in network.modules() if isinstance(module, Conv)}
    for convolution in products:
        convolution.product = None
    try:
        yield
    finally:
        for convolution, product in products.items():
            convolution.product = product
