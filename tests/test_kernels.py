"""The Triton kernels, interpreted on the CPU, beside PyTorch's convolutions in double precision."""

import pytest
import torch
from torch.nn import functional as F

from hlrs.nas import bilevel, kernels, primitives
from hlrs.nas.network import initialize
from hlrs.nas.supernet import Supernet, initialize_alphas

SHAPES = {
    "as the supernet's": (2, 8, 16, 16, 12),
    "widths that are no powers of two": (2, 2, 36, 20, 9),
    "wider than a block": (1, 2, 80, 130, 5),
    "narrower than a matrix unit's": (3, 4, 4, 6, 6),
}


def operands(n, groups, a, b, size):
    draw = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(shape, generator=draw)
        for shape in ((n, groups * a, size, size + 1), (groups * b, a, 1, 1), (n, groups * b, size, size + 1))
    )
    return x, weight, gradient


def expected(x, weight, gradient):
    x, weight, gradient = (t.double().requires_grad_() for t in (x, weight, gradient))
    y = F.conv2d(x, weight, groups=x.shape[1] // weight.shape[1])
    return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)


def differ(found, right):
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pointwise_and_its_gradients(monkeypatch, shape):
    x, weight, gradient = operands(*shape)
    y, by_x, by_weight = expected(x, weight, gradient)
    found = kernels.pointwise(x, weight)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert differ(found, y) < 1e-6
    for programs in (kernels.PROGRAMS, 3):
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        gradients = kernels.pointwise_backward(gradient, x, weight, (True, True))
        assert gradients[1].shape == weight.shape
        assert max(map(differ, gradients, (by_x, by_weight))) < 1e-6
    assert kernels.pointwise_backward(gradient, x, weight, (False, False)) == (None, None)


def test_a_step_through_the_kernels_is_that_without(monkeypatch):
    """First and second derivatives of a supernet that takes the kernels' way, as one on a GPU does."""

    def gradients():
        draw = torch.Generator().manual_seed(0)
        supernet = Supernet(nodes=2, in_channels=3, classes=4, channels=4, cells=3)
        initialize(supernet, draw)
        initialize_alphas(supernet, draw)
        images, labels = torch.randn(2, 4, 3, 8, 8, generator=draw), torch.tensor([0, 1, 2, 3])
        validation, training = (lambda half=half: F.cross_entropy(supernet(half), labels) for half in images)
        alphas, weights = list(supernet.alphas.values()), supernet.weights()
        still = [torch.zeros_like(weight) for weight in weights]
        return [
            *bilevel.first_order(alphas, weights, validation),
            *torch.autograd.grad(training(), weights),
            *bilevel.second_order(alphas, weights, training, validation, still, 0.1),
        ]

    plain = gradients()
    taken = []
    monkeypatch.setattr(primitives, "KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(primitives, "kernels", lambda: taken.append(1) or kernels)
    found = gradients()
    assert len(taken) > 100
    for a, b in zip(found, plain, strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())
