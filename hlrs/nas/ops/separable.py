"""The supernet's separable convolutions and batch norms, with their first and second derivatives.

The unrolled step and the sharpness for early stopping need second derivatives. Written out, these are
convolutions and batch norms as well; PyTorch's own take a dozen passes over the maps per batch norm, and a
grouped convolution group by group.

All maps are float [batch, channels, height, width], all statistics and scales [channels]. `for_x` is the
gradient by x; `by_x` is the derivative by x of the gradients, taken along `along`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hlrs.nas.ops import depthwise
from hlrs.nas.ops.packed import EPSILON
from hlrs.nas.ops.triton_available import takes_kernels

Geometry = tuple[int, int]  # stride and dilation
Gradient = Tensor | None  # None: not wanted, or 0


# --- convolution, depthwise or 1×1 in groups --------------------------------------------------------------
# On a GPU, our own kernels: cuDNN is slow with groups, and slow to choose an algorithm for each new shape.


def conv(x: Tensor, weight: Tensor, *geometry: int) -> Tensor:
    """`depthwise.conv` by the fastest implementation, without derivatives; geometry: stride, dilation."""
    if not takes_kernels(x):
        return depthwise.conv(x, weight, *geometry)
    from hlrs.nas.ops import triton_pointwise as pointwise  # Triton is slow to import
    from hlrs.nas.ops import triton_separable

    if weight.shape[1] > 1:
        return pointwise.pointwise(x, weight)
    return triton_separable.depthwise(x, weight, *geometry)


def conv_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, *geometry: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """`depthwise.conv_backward` by the fastest implementation."""
    if not takes_kernels(x):
        return depthwise.conv_backward(gradient, x, weight, *geometry, wanted=wanted)
    from hlrs.nas.ops import triton_pointwise as pointwise
    from hlrs.nas.ops import triton_separable

    if weight.shape[1] > 1:
        return pointwise.pointwise_backward(gradient, x, weight, wanted)
    return triton_separable.depthwise_backward(gradient, x, weight, *geometry, wanted=wanted)


# --- batch norm -----------------------------------------------------------------------------------------


def batch_norm(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Compute n(x) · scale, n(x) = (x − mean)/√(variance + ε), with the batch's statistics; None is 1."""
    return _BatchNorm.apply(x, scale)  # type: ignore[no-any-return]


class Kept(NamedTuple):
    """Saved tensors of a batch norm: x, its mean, and its inverse deviation 1/√(variance + ε)."""

    x: Tensor
    mean: Tensor
    inverse: Tensor


def _normalize(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Kept]:
    if scale is None and x.dtype == torch.bfloat16 and not x.is_cuda:  # else a CPU's statistics are bfloat16
        scale = x.new_ones(x.shape[1], dtype=torch.float32)
    y, *statistics = torch.native_batch_norm(x, scale, None, None, None, True, 0.0, EPSILON)
    return y, Kept(x, *statistics)


def _normalize_backward(gradient: Tensor, kept: Kept, scale: Tensor | None, by_x: bool = True) -> Any:
    """Compute J·(scale · gradient) and Σ gradient · n, the gradients by x and by the scale, if there is one.

    J = inverse · (I − 1·1ᵀ/N − n·nᵀ/N) is the derivative of n, with N values per channel. It is symmetric, so
    the first result is also the change of n when x changes by the gradient.
    """
    x, mean, inverse = kept
    mask = by_x, scale is not None, False
    for_x, for_scale, _ = torch.ops.aten.native_batch_norm_backward(
        gradient, x, scale, None, None, mean, inverse, True, EPSILON, mask
    )
    return for_x, None if scale is None else for_scale  # on a GPU it is computed even if not wanted


def _normalize_twice(
    gradient: Tensor,
    kept: Kept,
    scale: Tensor | None,
    found: tuple[Tensor, Tensor],
    along: Tensor,
    along_scale: Gradient,
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate ⟨along, for_x⟩ + ⟨along_scale, for_scale⟩ by the gradient, by x and by the scale.

    `found` is the result (for_x, for_scale) of `_normalize_backward`. With t = `along`, ṅ = J·t, and means
    over a channel's N values,

        ∂⟨t, for_x⟩/∂gradient = scale · ṅ        ∂⟨t, for_x⟩/∂scale = Σ gradient · ṅ
        ∂⟨t, for_x⟩/∂x = −inverse·(mean(t·n)·for_x + scale·mean(gradient·n)·ṅ + scale·mean(gradient·ṅ)·n)

    and for_scale = Σ gradient · n has the derivatives n by the gradient and J·gradient by x.
    """
    (x, mean, inverse), (for_x, for_scale) = kept, found
    one = torch.ones_like(mean)
    factor = one if scale is None else scale
    changed, along_n = _normalize_backward(along, kept, one)
    # Σ gradient · ṅ in one pass: the gradient by the scale of a batch norm whose normalized map is ṅ
    by_scale = _normalize_backward(gradient, Kept(changed, torch.zeros_like(mean), one), one, by_x=False)[1]
    minus = -inverse * mean.numel() / x.numel()
    by_n = minus * factor * by_scale * inverse
    by_x = torch.addcmul(_per_channel(-by_n * mean), x, _per_channel(by_n))
    by_x.addcmul_(for_x, _per_channel(minus * along_n))
    by_x.addcmul_(changed, _per_channel(minus * factor * for_scale))
    by_gradient = changed if scale is None else changed.mul_(_per_channel(scale))
    if along_scale is not None:
        by_x += _normalize_backward(gradient, kept, along_scale)[0]
        by_gradient += _per_channel(along_scale * inverse) * (x - _per_channel(mean))
    return by_gradient, by_x, by_scale


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Gradient) -> Tensor:
        y, kept = _normalize(x, scale)
        ctx.save_for_backward(scale, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, Gradient]:
        scale, *kept = ctx.saved_tensors
        if not torch.is_grad_enabled():
            for_x, for_scale = _normalize_backward(gradient, Kept(*kept), scale)
            return for_x, for_scale
        factor = torch.ones_like(kept[1]) if scale is None else scale
        for_x, for_scale = _BatchNormGradient.apply(gradient, factor, *kept)
        return for_x, None if scale is None else for_scale


class _BatchNormGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, scale: Tensor, *kept: Tensor) -> Any:
        found = _normalize_backward(gradient, Kept(*kept), scale)
        ctx.save_for_backward(gradient, scale, *found, *kept)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Gradient, along_scale: Gradient) -> tuple[Gradient, ...]:
        gradient, scale, for_x, for_scale, *kept = ctx.saved_tensors
        along = torch.zeros_like(for_x) if along is None else along
        by_gradient, by_x, by_scale = _normalize_twice(
            gradient, Kept(*kept), scale, (for_x, for_scale), along, along_scale
        )
        return by_gradient, by_scale, by_x, None, None


# --- separable convolutions -----------------------------------------------------------------------------


class Stage(NamedTuple):
    """A separable convolution and its batch norm: weights, input, and the batch norm's saved tensors."""

    kernels: Tensor  # depthwise, [c, 1, k, k]
    pointwise: Tensor  # 1×1 in groups, [c, channels of a group, 1, 1]
    x: Tensor
    kept: Kept


class Inner(NamedTuple):
    """Gradients inside a stage, and the output of its depthwise convolution, the `middle`."""

    for_result: Tensor
    for_scale: Tensor
    for_convolved: Tensor
    for_middle: Tensor
    middle: Tensor


class Separable(torch.autograd.Function):
    """One or two separable convolutions, batch norm and ReLU between them, batch norm · scale at the end.

    x [n, c, h, w], scale [c]; per convolution depthwise weights [c, 1, k, k] and 1×1 weights
    [c, channels of a group, 1, 1]. Stride and dilation apply to the first convolution.

    The backward pass saves the inputs of depthwise and the outputs of 1×1 convolutions. The inputs of 1×1
    convolutions are recomputed, only for gradients by their weights. If no weights need gradients, as in the
    alphas' step, x is not saved either; second derivatives then raise RuntimeError.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, stride: int, dilation: int, *weights: Tensor) -> Tensor:
        ctx.geometry = [(stride, dilation), *[(1, 1)] * (len(weights) // 2 - 1)]
        saved: list[Tensor] = []
        for i, geometry in enumerate(ctx.geometry):
            if i > 0:
                x.relu_()
            kernels, pointwise = weights[2 * i : 2 * i + 2]
            last = i + 1 == len(ctx.geometry)
            y, kept = _normalize(conv(conv(x, kernels, *geometry), pointwise), scale if last else None)
            saved += [kernels, pointwise, x, *kept]
            x = y
        ctx.keeps_x = any(ctx.needs_input_grad[4:]) or stride > 1
        if not ctx.keeps_x:
            saved[2] = saved[3]  # the gradient by x needs only x's shape, which equals its convolution's
        ctx.save_for_backward(scale, *saved)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Gradient, ...]:
        scale, *saved = ctx.saved_tensors
        stages = _stages(saved)
        needs_x, _, _, _, *needs = ctx.needs_input_grad
        wanted = [needs_x]
        for i, stage in enumerate(stages):
            wanted += _wanted(needs[2 * i : 2 * i + 2], stage)
        if not torch.is_grad_enabled():
            found = _backward(gradient, scale, stages, ctx.geometry, wanted)
        elif ctx.keeps_x:
            found = _SeparableGradient.apply(gradient, scale, ctx.geometry, wanted, *saved)
        else:
            raise RuntimeError("second derivatives of a supernet need weights that require gradients")
        for_x, for_scale, *for_weights = found
        return for_x, for_scale, None, None, *for_weights


def _stages(saved: Sequence[Tensor]) -> list[Stage]:
    by_stage = (saved[i : i + 6] for i in range(0, len(saved), 6))
    return [Stage(kernels, pointwise, x, Kept(*kept)) for kernels, pointwise, x, *kept in by_stage]


def _wanted(needs: Sequence[bool], stage: Stage) -> list[bool]:
    """Return whether the depthwise and the 1×1 weights get gradients: not if frozen since the forward pass.

    By freezing them, a caller asks an autograd function for gradients by the alphas alone.
    """
    weights = stage.kernels, stage.pointwise
    return [need and weight.requires_grad for need, weight in zip(needs, weights, strict=True)]


def _backward(
    gradient: Tensor,
    scale: Tensor,
    stages: list[Stage],
    geometry: list[Geometry],
    wanted: Sequence[bool],
    inner: list[Inner] | None = None,
) -> list[Gradient]:
    """Compute the gradients by x, by the scale and by each convolution's weights.

    `wanted` is for x, then for each weight. `inner` collects the inner tensors, last stage first.
    """
    for_scale: Gradient = None
    for_weights: list[Gradient] = []
    for i in reversed(range(len(stages))):
        kernels, pointwise, x, kept = stages[i]
        needs_kernels, needs_pointwise = wanted[1 + 2 * i : 3 + 2 * i]
        last = i + 1 == len(stages)
        if not last:
            gradient = torch.ops.aten.threshold_backward(gradient, stages[i + 1].x, 0)
        factor = scale if last else None if inner is None else torch.ones_like(kept.mean)
        for_convolved, over_n = _normalize_backward(gradient, kept, factor)
        for_scale = over_n if last else for_scale
        middle = kept.x if not needs_pointwise and inner is None else conv(x, kernels, *geometry[i])
        for_middle: Any  # a Tensor, since it is wanted
        for_middle, for_pointwise = conv_backward(
            for_convolved, middle, pointwise, wanted=(True, needs_pointwise)
        )
        if inner is not None:
            inner.append(Inner(gradient, over_n, for_convolved, for_middle, middle))
        needs = wanted[0] or i > 0, needs_kernels
        for_x: Any
        for_x, for_kernels = conv_backward(for_middle, x, kernels, *geometry[i], wanted=needs)
        for_weights = [for_kernels, for_pointwise, *for_weights]
        gradient = for_x
    return [gradient, for_scale, *for_weights]


class _SeparableGradient(torch.autograd.Function):
    """`_backward` as a differentiable function of the gradient, the scale, x and the weights.

    Its backward pass receives directions for the results. It pushes them forward through the stages, as if
    they were changes of x and of the weights, and then goes back through the stages.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        scale: Tensor,
        geometry: list[Geometry],
        wanted: Sequence[bool],
        *saved: Tensor,
    ) -> tuple[Gradient, ...]:
        inner: list[Inner] = []
        found = _backward(gradient, scale, _stages(saved), geometry, wanted, inner)
        ctx.geometry, ctx.count = geometry, len(saved)
        ctx.save_for_backward(scale, *saved, *(tensor for one in reversed(inner) for tensor in one))
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Gradient, along_scale: Gradient, *along_weights: Gradient) -> Any:
        scale, *saved = ctx.saved_tensors
        stages, gradients = _stages(saved[: ctx.count]), saved[ctx.count :]
        inner = [Inner(*gradients[i : i + 5]) for i in range(0, len(gradients), 5)]
        changes = []
        for i, (stage, own, geometry) in enumerate(zip(stages, inner, ctx.geometry, strict=True)):
            by_weights = along_weights[2 * i : 2 * i + 2]
            if i + 1 == len(stages):
                change = _change(stage, own, geometry, along, by_weights, scale, along_scale)
                along = change.result
            else:
                change = _change(stage, own, geometry, along, by_weights)
                along = torch.ops.aten.threshold_backward(change.result, stages[i + 1].x, 0)
            changes.append(change)
        by_saved: list[Gradient] = []
        later: Gradient = None
        for i in reversed(range(len(stages))):
            wanted = _wanted(ctx.needs_input_grad[4 + 6 * i : 6 + 6 * i], stages[i])
            by_weights = along_weights[2 * i : 2 * i + 2]
            by_x, *found = _back(stages[i], inner[i], ctx.geometry[i], changes[i], by_weights, later, wanted)
            by_saved = [*found, by_x if i == 0 else None, None, None, None, *by_saved]
            later = torch.ops.aten.threshold_backward(by_x, stages[i].x, 0) if i > 0 else None
        return along, changes[-1].scale, None, None, *by_saved


class Change(NamedTuple):
    """Changes inside a stage when its input and weights change, and derivatives at its batch norm."""

    x: Gradient
    middle: Gradient
    result: Tensor  # derivative by the gradient of the stage's result
    convolved: Tensor  # derivative by the input of the batch norm
    scale: Tensor  # derivative by the scale


def _change(
    stage: Stage,
    inner: Inner,
    geometry: Geometry,
    along: Gradient,
    along_weights: Sequence[Gradient],
    scale: Tensor | None = None,
    along_scale: Gradient = None,
) -> Change:
    """Go forward through one stage: the result of a convolution changes with both its factors."""
    along_kernels, along_pointwise = along_weights
    middle = _sum(
        None if along is None else conv(along, stage.kernels, *geometry),
        None if along_kernels is None else conv(stage.x, along_kernels, *geometry),
    )
    convolved = _sum(
        None if middle is None else conv(middle, stage.pointwise),
        None if along_pointwise is None else conv(inner.middle, along_pointwise),
    )
    by_gradient, by_x, by_scale = _normalize_twice(
        inner.for_result,
        stage.kept,
        scale,
        (inner.for_convolved, inner.for_scale),
        torch.zeros_like(inner.for_convolved) if convolved is None else convolved,
        along_scale,
    )
    return Change(along, middle, by_gradient, by_x, by_scale)


def _back(
    stage: Stage,
    inner: Inner,
    geometry: Geometry,
    change: Change,
    along_weights: Sequence[Gradient],
    later: Gradient,
    wanted: Sequence[bool],
) -> tuple[Tensor, Gradient, Gradient]:
    """Go back through one stage: derivatives by x, and by the depthwise and 1×1 weights if wanted.

    `later` is the derivative by the stage's result, from the next stage.
    """
    needs_kernels, needs_pointwise = wanted
    along_kernels, along_pointwise = along_weights
    by_convolved = change.convolved
    if later is not None:
        by_convolved += _normalize_backward(later, stage.kept, None)[0]
    by_middle, by_pointwise = _conv_twice(
        by_convolved,
        inner.for_convolved,
        inner.middle,
        stage.pointwise,
        change.middle,
        along_pointwise,
        (1, 1),
        needs_pointwise,
    )
    by_x, by_kernels = _conv_twice(
        by_middle, inner.for_middle, stage.x, stage.kernels, change.x, along_kernels, geometry, needs_kernels
    )
    return by_x, by_kernels, by_pointwise


def _conv_twice(
    by_result: Tensor,
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    along: Gradient,
    along_weight: Gradient,
    geometry: Geometry,
    needs_weight: bool,
) -> tuple[Any, Gradient]:
    """Differentiate a convolution and its gradients by x and by the weight.

    The function is ⟨by_result, conv(x, weight)⟩ + ⟨along, for_x⟩ + ⟨along_weight, for_weight⟩, where for_x
    and for_weight are the gradients of the convolution, given the `gradient` by its result.
    """
    by_x, by_weight = conv_backward(by_result, x, weight, *geometry, wanted=(True, needs_weight))
    if along_weight is not None:
        by_x = _sum(by_x, conv_backward(gradient, x, along_weight, *geometry, wanted=(True, False))[0])
    if needs_weight and along is not None:
        by_weight = _sum(
            by_weight, conv_backward(gradient, along, weight, *geometry, wanted=(False, True))[1]
        )
    return by_x, by_weight


def _sum(a: Gradient, b: Gradient) -> Gradient:
    """Add two gradients, in place of a; None counts as 0."""
    if a is None or b is None:
        return b if a is None else a
    return a.add_(b)
