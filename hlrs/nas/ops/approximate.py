"""Convolutions by products of 8-bit codes, which may be approximate.

An operand x becomes codes q = z + round(x / s), clipped to 8 bits, with scale s and zero point z: signed,
symmetric codes have z = 0 and s = max|x| / 127; unsigned ones span the range of x and 0, which is a code
(Jacob et al. 2018, §2.1). Then, with the multiplier's products M,

    y = s₁ s₂ Σ [M(q₁, q₂) − z₂ q₁ − z₁ q₂ + z₁ z₂] = s₁ s₂ Σ [(q₁ − z₁)(q₂ − z₂) + M(q₁, q₂) − q₁ q₂].

Sums of codes are exact in float32 up to 2²⁴, so floating-point convolutions compute them: `Codes` hold q − z,
which is 0 where a map is padded. Gradients are those of the exact product of the values s (q − z), straight
through the rounding, and 0 by a value that was clipped.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hlrs.nas.multipliers import CODES, MAGNITUDE, Products, Table, exact_products, truncated_products
from hlrs.nas.ops.depthwise import Stride, conv, conv_backward
from hlrs.nas.ops.tracing import exporting

SIGNED = CODES // 2 - 1  # largest signed code in use
EXACT = 2**24  # whole numbers up to this one are exact in float32
MOMENTUM = 0.1  # of moving ranges, as of batch norms
Convolve = Callable[[Tensor, Tensor], Tensor]


class Operand(NamedTuple):
    """How an operand's values become codes, in each of the equal parts of its channels: float32 [parts].

    `zero`: the code of 0, None of signed codes.
    """

    scale: Tensor
    zero: Tensor | None

    def along(self, channels: int, dim: int) -> "Operand":
        """Spread the parts over so many channels, as tensors that broadcast along a dimension of four."""
        zero = None if self.zero is None else along(self.zero, channels, dim)
        return Operand(along(self.scale, channels, dim), zero)

    def quantize(self, x: Tensor) -> Tensor:
        """Return codes minus that of 0, whole numbers in float32; of an operand that broadcasts."""
        codes = torch.mul(x, 1 / self.scale).round_()
        if self.zero is None:
            return codes.clamp_(-SIGNED, SIGNED)
        return codes.add_(self.zero).clamp_(0, CODES - 1).sub_(self.zero)

    def clips(self, x: Tensor) -> Tensor:
        """Return which values lie beyond the codes; of an operand that broadcasts."""
        codes = torch.mul(x, 1 / self.scale).round_()
        if self.zero is None:
            return codes.abs_() > SIGNED
        return (codes.add_(self.zero) < 0) | (codes > CODES - 1)


def along(values: Tensor, channels: int, dim: int) -> Tensor:
    """Spread a value of each part, [parts], over so many channels in a dimension of four; a scalar of one."""
    if len(values) == 1:
        return values.view(())
    shape = [1] * 4
    shape[dim] = channels
    return values.repeat_interleave(channels // len(values)).view(shape)


def symmetric(low: Tensor, high: Tensor) -> Operand:
    """Return the signed codes of values from low to high."""
    reach = torch.maximum(-low, high)
    return Operand(torch.where(reach > 0, reach, 1) / SIGNED, None)


def affine(low: Tensor, high: Tensor) -> Operand:
    """Return the unsigned codes of values from low to high, and 0."""
    low = low.clamp(max=0)
    span = high.clamp(min=0) - low
    scale = torch.where(span > 0, span, 1) / (CODES - 1)
    return Operand(scale, (-low / scale).round())


class Multiplier(Protocol):
    """What sums products of codes: `codes` makes them of a range, `largest` bounds an exact one's size.

    `table`: its products of all codes.
    """

    largest: int

    @property
    def table(self) -> Table:
        """The products."""

    def codes(self, low: Tensor, high: Tensor) -> Operand:
        """Return the codes for values from low to high."""

    def sums(self, convolve: Convolve, a: Tensor, b: Tensor, of_a: Operand, of_b: Operand) -> Tensor:
        """Sum products of activations' codes a and weights' codes b, which are minus their zero points."""


class Truncated(nn.Module):
    """Multiplier of a `TruncatedMultiplier`, one convolution per bit of an activation that loses products."""

    largest = (CODES // 2) ** 2

    def __init__(self, activation_bits: int = 0, weight_bits: int = 0, columns: int = 0) -> None:
        super().__init__()
        self.omitted = activation_bits, weight_bits, columns

    @property
    def table(self) -> Table:
        """The products, of signed codes."""
        return Table(truncated_products(*self.omitted), True)

    def codes(self, low: Tensor, high: Tensor) -> Operand:
        """Return signed codes."""
        return symmetric(low, high)

    def sums(self, convolve: Convolve, a: Tensor, b: Tensor, of_a: Operand, of_b: Operand) -> Tensor:
        """Sum the products of truncated operands, less the omitted ones, by the bits of a."""
        r, s, v = self.omitted
        total = convolve(_truncated(a, r), _truncated(b, s))
        losing = range(r, min(MAGNITUDE, v - s))
        bits = a.to(torch.int8) if losing else a
        for i in losing:
            omitted = _truncated(b, s) - _truncated(b, min(MAGNITUDE, v - i))
            total -= convolve((bits & 2**i).float(), omitted)
        return total


def _truncated(codes: Tensor, bits: int) -> Tensor:
    """Drop the lowest bits of codes, towards −∞."""
    return codes if bits == 0 else torch.mul(codes, 2.0**-bits).floor_().mul_(2.0**bits)


class Tabulated(nn.Module):
    """Multiplier of a table of products, whose errors are a sum of few products of functions of one operand.

    These are of a singular value decomposition: M(a, b) − a b ≈ Σ_t f_t(a) g_t(b), with so many terms that
    the sum of all errors of a convolution of up to `terms` products, rounded, is exact.
    """

    products: Tensor  # [256, 256]
    f: Tensor  # [rank, 256]
    g: Tensor

    def __init__(self, products: Products, signed: bool, terms: int) -> None:
        super().__init__()
        self.signed, self.terms = signed, terms
        self.largest = (CODES // 2) ** 2 if signed else (CODES - 1) ** 2
        self.register_buffer("products", torch.from_numpy(products).int())
        for name in ("f", "g"):
            self.register_buffer(name, None, persistent=False)
        self.decompose()
        self.register_load_state_dict_post_hook(lambda *_: self.decompose())  # type: ignore[no-untyped-call]

    @property
    def table(self) -> Table:
        """The products."""
        return Table(self.products.cpu().numpy().astype(np.int64), self.signed)

    def decompose(self) -> None:
        """Compute f and g of the products, in place."""
        found = factorize(*self.table, self.terms)
        self.f, self.g = (factors.to(self.products.device) for factors in found)

    def codes(self, low: Tensor, high: Tensor) -> Operand:
        """Return codes as the table has them."""
        return symmetric(low, high) if self.signed else affine(low, high)

    def sums(self, convolve: Convolve, a: Tensor, b: Tensor, of_a: Operand, of_b: Operand) -> Tensor:
        """Sum the exact products, then the errors."""
        total = convolve(a, b)
        if not len(self.f):
            return total
        # a GPU's convolutions may round float32 to tf32
        f, g = (self.f.double(), self.g.double()) if a.is_cuda else (self.f, self.g)
        places_a, places_b, place_of_0 = self._places(a, of_a, 1), self._places(b, of_b, 0), self._zero(of_a)
        error = torch.zeros_like(total, dtype=f.dtype)
        for of_activation, of_weight in zip(f, g, strict=True):
            # a padded pixel has the code of 0, whose error is not 0: convolve differences from it
            padded, weights = of_activation[place_of_0], of_weight[places_b]
            own = of_activation[places_a.permute(0, 2, 3, 1)].permute(0, 3, 1, 2)  # channels-last
            error += convolve(own - along(padded, a.shape[1], 1), weights)
            error += along(padded, len(b), 1) * weights.sum((1, 2, 3))[:, None, None]
        return total + error.round_().to(total.dtype)

    def _places(self, codes: Tensor, operand: Operand, dim: int) -> Tensor:
        """Return where codes minus that of 0 lie in a table; those of NaN anywhere."""
        zero = CODES // 2 if operand.zero is None else along(operand.zero, codes.shape[dim], dim)
        return (codes + zero).nan_to_num_().long()

    def _zero(self, operand: Operand) -> Tensor:
        """Return where the code of 0 lies in a table, in each part: [parts]."""
        zero = torch.full_like(operand.scale, CODES // 2) if operand.zero is None else operand.zero
        return zero.long()


def factorize(products: Products, signed: bool, terms: int) -> tuple[Tensor, Tensor]:
    """Decompose a table's errors, so that sums of `terms` of them round to the exact ones.

    Float32 where its rounding errors, λ√n u Σ|terms| with λ = 4 (Higham & Mary 2019, theorem 2.4), leave the
    sum within a half; else float64.
    """
    error = (products - exact_products(signed)).astype(np.float64)
    u, sizes, v = np.linalg.svd(error)
    for rank in range(CODES + 1):
        f, g = (u[:, :rank] * sizes[:rank] ** 0.5).T, v[:rank] * sizes[:rank, None] ** 0.5
        left = float(np.abs(error - f.T @ g).max()) * terms
        if left < 0.25:
            break
    # differences from the error of a padded pixel are up to twice as large
    spread = 2 * float((np.abs(f).T @ np.abs(g)).max()) if rank else 0.0
    rounding = 4 * (terms * rank) ** 0.5 * 2.0**-24 * terms * spread
    dtype = np.float32 if left + rounding < 0.5 else np.float64
    return torch.from_numpy(f.astype(dtype)), torch.from_numpy(g.astype(dtype))


# --- convolution ------------------------------------------------------------------------------------------


class Product(nn.Module):
    """What a convolution's products are computed by, and the range of its input.

    In `inputs` equal parts of the input's channels, which are maps of their own side by side, and `outputs`
    of the weights, ranges are separate. A `tracked` range is a moving one in training, and fixed in
    evaluation, so that a prediction does not depend on its batch; else it is the batch's.
    """

    ranges: Tensor  # [2, inputs], of values low and high; 0 before the first batch

    def __init__(self, multiplier: Multiplier, inputs: int, outputs: int, tracked: bool) -> None:
        super().__init__()
        self.shared = (multiplier,)  # by all convolutions of a network; no module of this one
        self.inputs, self.outputs, self.tracked = inputs, outputs, tracked
        if tracked:
            self.register_buffer("ranges", torch.zeros(2, inputs))

    def forward(self, x: Tensor, weight: Tensor, stride: Stride = 1, dilation: int = 1) -> Tensor:
        """Compute `depthwise.conv`, in float32; dtype as of x."""
        [multiplier] = self.shared
        with nullcontext() if exporting() else torch.autocast(x.device.type, enabled=False):
            values = x.float()
            with torch.no_grad():
                of_x = multiplier.codes(*self._range(values))
                of_weight = multiplier.codes(*_range(weight, 0, self.outputs))
            arguments = values, weight, *of_x, *of_weight, multiplier, stride, dilation
            y = _convolve(*arguments) if exporting() else _Convolution.apply(*arguments)
        return y.to(x.dtype)

    def _range(self, x: Tensor) -> Tensor:
        if not self.tracked:
            return _range(x, 1, self.inputs)
        if self.training:
            own = _range(x, 1, self.inputs)
            self.ranges.copy_(torch.where(self.ranges.any(), self.ranges.lerp(own, MOMENTUM), own))
        return self.ranges


def _range(x: Tensor, dim: int, parts: int) -> Tensor:
    """Return the lowest and the highest values of each part of the channels, in a dimension: [2, parts]."""
    others = [other for other in range(4) if other != dim or parts == 1]  # named, as ONNX needs them
    return torch.stack([x.amin(others).view(parts, -1).amin(1), x.amax(others).view(parts, -1).amax(1)])


def _convolve(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    """Quantize, sum the products, and scale the sums."""
    *operands, multiplier, stride, dilation = arguments
    of_x, of_weight = Operand(*operands[:2]), Operand(*operands[2:])
    outputs = len(weight)
    scale = along(of_x.scale, outputs, 1) * along(of_weight.scale, outputs, 1)
    codes, on_x = of_weight.along(outputs, 0).quantize(weight), of_x.along(x.shape[1], 1)

    def convolve(a: Tensor, b: Tensor) -> Tensor:
        return conv(a, b, stride, dilation)

    sums = multiplier.sums(convolve, on_x.quantize(x), codes, of_x, of_weight)
    if x.is_cuda:  # cuDNN may transform (Winograd), and so miss a whole number by a little
        sums.round_()
    return sums.mul_(scale)  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        *operands, _, ctx.stride, ctx.dilation = arguments
        ctx.save_for_backward(x, weight, *operands)
        return _convolve(x, weight, *arguments)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *operands = ctx.saved_tensors
        of_x = Operand(*operands[:2]).along(x.shape[1], 1)
        of_weight = Operand(*operands[2:]).along(len(weight), 0)
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and weight.requires_grad
        values = _straight_through(x, of_x), _straight_through(weight, of_weight)
        for_x, for_weight = conv_backward(gradient, *values, ctx.stride, ctx.dilation, wanted=wanted)
        if for_x is not None:
            for_x = for_x.masked_fill(of_x.clips(x), 0)
        return for_x, for_weight, *[None] * 7


def _straight_through(x: Tensor, operand: Operand) -> Tensor:
    """Return the values of x's codes, with the derivative 1 by x, or 0 where it is clipped."""
    with torch.no_grad():
        values = operand.quantize(x) * operand.scale
    if not (torch.is_grad_enabled() and x.requires_grad):
        return values
    return torch.where(operand.clips(x.detach()), values, x + (values - x).detach())
