"""Hand-written gradients of convolutions, phases and sums, compared with autograd and finite differences."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from hlrs.nas.bilevel import frozen
from hlrs.nas.mixed_edges import Mix, Repeat
from hlrs.nas.operations import Depthwise, Dilated, FactorizedReduce
from hlrs.nas.ops.depthwise import DepthwiseConv, conv, conv_backward
from hlrs.nas.ops.layouts import Join, every_second, from_phases, to_phases
from hlrs.nas.ops.separable import Separable, batch_norm


def drawn(*shape: int, seed: int = 0, wanted: bool = True) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_(wanted)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def test_weight_gradient_of_a_reduction_on_a_large_map():
    """oneDNN's convolution of stride 2 crashes or computes wrong numbers for these shapes."""
    reduction = FactorizedReduce(8, 8, lambda channels: torch.nn.Identity())
    x = drawn(16, 8, 64, 64, wanted=False).float().contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        outer = drawn(16, 8, 32, 32, seed=1, wanted=False).float()
        outer = outer.contiguous(memory_format=torch.channels_last)
        found = torch.autograd.grad(reduction(x), [reduction.even.weight, reduction.odd.weight], outer)
    maps = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    for gradient, part, of in zip(found, outer.split(4, 1), maps, strict=True):
        expected = torch.einsum("nohw,nihw->oi", part.double(), of.double())
        assert relative(gradient[:, :, 0, 0].double(), expected) < 1e-5


LAST, FIRST = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "size", "layout"),
    [
        *itertools.product((Depthwise, Dilated), (3, 5), (1, 2), [(6, 7)], [LAST]),
        *itertools.product([Dilated], [5], (1, 2), [(6, 6), (7, 7), (2, 2), (1, 1)], [LAST]),
        *itertools.product((Depthwise, Dilated), [3], (1, 2), [(7, 7)], [FIRST]),
    ],
)
def test_depthwise_convolutions_agree_with_autograd(kind, kernel, stride, size, layout):
    module, dilation = kind(4, kernel, stride).double(), 2 if kind is Dilated else 1
    x = drawn(3, 4, *size, wanted=False).contiguous(memory_format=layout).requires_grad_()
    found = module(x)
    padding = dilation * (kernel // 2)
    expected = F.conv2d(x, module.weight, None, stride, padding, dilation, groups=4)
    gradient = drawn(*expected.shape, seed=1, wanted=False).contiguous(memory_format=layout)
    pairs = [torch.autograd.grad(y, (x, module.weight), gradient) for y in (found, expected)]
    for a, b in [(found, expected), *zip(*pairs, strict=True)]:
        assert a.shape == b.shape
        assert relative(a, b) < 1e-10


@pytest.mark.parametrize(("stride", "dilation", "size"), [(1, 1, 6), (2, 1, 7), (1, 2, 7), (1, 2, 3)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_conv_backward_computes_only_wanted_gradients(kernel, stride, dilation, size):
    x, weight = drawn(2, 3, size, size), drawn(3, 1, kernel, kernel, seed=1)
    y = conv(x, weight, stride, dilation)
    gradient = drawn(*y.shape, seed=2, wanted=False)
    expected = torch.autograd.grad(y, (x, weight), gradient)
    for wanted in [(True, True), (True, False), (False, True), (False, False)]:
        with torch.no_grad():
            found = conv_backward(gradient, x, weight, stride, dilation, wanted=wanted)
        for want, a, b in zip(wanted, found, expected, strict=True):
            assert (a is not None) == want
            assert a is None or relative(a, b) < 1e-10


def test_gradient_by_a_dilated_kernel_of_a_map_of_one_pixel():
    x, weight = drawn(2, 3, 1, 1), drawn(3, 1, 5, 5, seed=1)
    [expected] = torch.autograd.grad(conv(x, weight, 1, 2).sum(), weight)
    gradient = torch.ones(2, 3, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        _, found = conv_backward(gradient, x, weight, 1, 2, wanted=(False, True))
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 2, 2), (2, 1, 6, 4)])
def test_phases_are_the_even_and_odd_rows_and_columns(shape, layout):
    x = drawn(*shape, wanted=False).contiguous(memory_format=layout).requires_grad_()
    phases = to_phases(x)
    expected = torch.cat([x[:, :, k // 2 :: 2, k % 2 :: 2] for k in range(4)])
    assert torch.equal(phases, expected)
    assert phases.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_phases(phases), x)
    gradient = drawn(*phases.shape, seed=1, wanted=False)
    for_x, for_x_expected = (torch.autograd.grad(y, x, gradient)[0] for y in (phases, expected))
    assert torch.equal(for_x, for_x_expected)


def test_from_phases_inverts_to_phases_and_its_gradient():
    x, gradient = drawn(8, 3, 2, 3), drawn(2, 3, 4, 6, seed=1, wanted=False)
    joined = from_phases(x)
    assert torch.equal(to_phases(joined), x)
    [for_x] = torch.autograd.grad(joined, x, gradient)
    assert torch.equal(for_x, to_phases(gradient))


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (6, 5), (1, 1)])
@pytest.mark.parametrize("start", [0, 1])
def test_every_second_pixel_and_its_derivatives(size, start):
    x = drawn(2, 3, *size)
    whole = F.pad(x[:, :, start:, start:], (0, start * size[1] % 2, 0, start * size[0] % 2))
    y, expected = every_second(x, start), whole[:, :, ::2, ::2]
    gradient = drawn(*expected.shape, seed=1, wanted=False)
    assert torch.equal(y, expected)
    found, for_x = (torch.autograd.grad(z, x, gradient)[0] for z in (y, expected))
    assert torch.equal(found, for_x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert gradgradcheck(lambda x: every_second(x, start), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_join_concatenates_channels_with_channels_last_gradients(layout):
    maps = [drawn(2, channels, 3, 4, seed=channels) for channels in (2, 3, 5)]
    gradient = drawn(2, 10, 3, 4, wanted=False).contiguous(memory_format=layout)
    joined = Join.apply(*maps)
    assert torch.equal(joined, torch.cat(maps, 1))
    for found, expected in zip(
        torch.autograd.grad(joined, maps, gradient), gradient.split([2, 3, 5], 1), strict=True
    ):
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_derivatives_of_the_depthwise_convolution(kernel, stride):
    def apply(x: Tensor, weight: Tensor) -> Tensor:
        return DepthwiseConv.apply(x, weight, stride)

    inputs = drawn(1, 2, 4, 3), drawn(2, 1, kernel, kernel, seed=1)
    assert gradcheck(apply, inputs)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(apply(*inputs).sum(), inputs, create_graph=True)


@pytest.mark.parametrize(
    ("convolutions", "kernel", "stride", "dilation"),
    [(1, 3, 1, 1), (1, 3, 1, 2), (1, 3, 2, 1), (2, 3, 1, 1), (2, 3, 2, 1), (1, 5, 1, 2), (2, 5, 1, 1)],
)
def test_derivatives_of_separable_convolutions(convolutions, kernel, stride, dilation):
    def apply(x: Tensor, scale: Tensor, *weights: Tensor) -> Tensor:
        return Separable.apply(x, scale, stride, dilation, *weights)

    # 4 channels in 2 groups; these maps between two convolutions avoid the ReLU's kink
    shapes = [(4, 1, kernel, kernel), (4, 2, 1, 1)] * convolutions
    weights = [drawn(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    inputs = drawn(2, 4, 3, 3, seed=7), drawn(4, seed=8), *weights
    assert gradcheck(apply, inputs)
    assert gradgradcheck(apply, inputs, fast_mode=True)


def test_separable_with_weights_frozen_after_the_forward_pass():
    weights = [drawn(4, 1, 3, 3), drawn(4, 2, 1, 1, seed=1)]
    x, scale = drawn(2, 4, 3, 3, seed=7), drawn(4, seed=8)
    expected = torch.autograd.grad(Separable.apply(x, scale, 1, 1, *weights).square().sum(), (x, scale))
    loss = Separable.apply(x, scale, 1, 1, *weights).square().sum()
    with frozen(weights):
        loss.backward()
    assert all(weight.grad is None for weight in weights)
    assert torch.equal(x.grad, expected[0])
    assert torch.equal(scale.grad, expected[1])


@pytest.mark.parametrize("scaled", [True, False])
def test_batch_norm_and_its_derivatives(scaled):
    x, scale = drawn(3, 2, 3, 2), drawn(2, seed=1) if scaled else None
    expected = F.batch_norm(x, None, None, scale, training=True)
    assert relative(batch_norm(x, scale), expected) < 1e-12
    inputs = (x, scale) if scaled else (x,)
    assert gradcheck(batch_norm, inputs)
    assert gradgradcheck(batch_norm, inputs)


def test_separable_whose_weights_need_no_gradients():
    weights = [drawn(4, 1, 3, 3), drawn(4, 2, 1, 1, seed=1)]
    x, scale = drawn(2, 4, 3, 3, seed=7), drawn(4, seed=8)
    expected = torch.autograd.grad(Separable.apply(x, scale, 1, 1, *weights).square().sum(), (x, scale))
    still = Separable.apply(x, scale, 1, 1, *(weight.detach() for weight in weights)).square().sum()
    found = torch.autograd.grad(still, (x, scale), retain_graph=True)
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < 1e-12
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(still, scale, create_graph=True)


@pytest.mark.parametrize("edges", [1, 3])
@pytest.mark.parametrize("sources", [1, 2])
def test_mix_and_its_derivatives(sources, edges):
    # 3 maps of 2 channels per source; weights [edge, map · source]
    weights = drawn(edges, 3 * sources)
    maps = [drawn(2, 2 * sources, 2, 3, seed=1 + k) for k in range(3)]
    by_source = torch.stack(maps).unflatten(2, (sources, 2))
    expected = torch.einsum("eks,knschw->nechw", weights.unflatten(1, (3, sources)), by_source)
    assert relative(Mix.apply(weights, *maps), expected.flatten(1, 2)) < 1e-12
    assert gradcheck(Mix.apply, (weights, *maps))
    assert gradgradcheck(Mix.apply, (weights, *maps), fast_mode=True)


@pytest.mark.parametrize("edges", [1, 3])
@pytest.mark.parametrize("sources", [1, 2])
def test_repeat_and_its_derivatives(sources, edges):
    over_edges = torch.eye(2, dtype=torch.float64).repeat(sources, edges)[..., None, None]

    def apply(x: Tensor) -> Tensor:
        return Repeat.apply(x, edges, over_edges)

    x = drawn(2, 2 * sources, 2, 3)
    expected = x.unflatten(1, (sources, 1, 2)).expand(-1, -1, edges, -1, -1, -1).flatten(1, 3)
    assert torch.equal(apply(x), expected)
    assert gradcheck(apply, (x,))
    assert gradgradcheck(apply, (x,), fast_mode=True)
