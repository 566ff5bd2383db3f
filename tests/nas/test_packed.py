"""Several images per pixel: their layout, and the same results of a network as for single images."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.nas import derived
from hlrs.nas.derived import DerivedNetwork, DropPath, draw_factors
from hlrs.nas.genotype import DartsGenotype
from hlrs.nas.network import initialize
from hlrs.nas.ops import packed

NODES = [  # every operation, also in a reduction
    [("sep_conv_3x3", 0), ("dil_conv_5x5", 1)],
    [("sep_conv_5x5", 1), ("skip_connect", 0)],
    [("dil_conv_3x3", 0), ("max_pool_3x3", 2)],
    [("avg_pool_3x3", 1), ("skip_connect", 3)],
]
GENOTYPE = DartsGenotype(NODES, [2, 3, 4, 5], NODES, [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("batch", "channels", "size", "count"),
    [
        *[(96, 36, 32, 4), (96, 16, 32, 1), (96, 48, 32, 1)],
        *[(64, 24, 32, 2), (64, 20, 64, 4), (96, 5, 64, 16)],
        *[(94, 36, 32, 1), (1, 36, 256, 1)],  # the batch is no multiple of the count
        *[(32, 36, 32, 4), (28, 36, 32, 1), (96, 36, 16, 1)],  # 2²⁰ numbers are 29 maps of 36 channels, 32×32
    ],
)
def test_images_per_pixel_make_channels_of_large_maps_a_multiple_of_16(batch, channels, size, count):
    assert packed.fitting(torch.empty(batch, 3, size, size), channels) == count


def test_layout_of_packed_channels():
    n, count, c, h, w = 2, 3, 4, 5, 6
    x = torch.arange(n * count * c * h * w).view(n * count, c, h, w).to(memory_format=torch.channels_last)
    y = packed.pack(x, count)
    assert y.shape == (n, count * c, h, w)
    assert y.is_contiguous(memory_format=torch.channels_last)
    wide = packed.to_width(y, c)
    assert wide.shape == (n, c, h, count * w)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    for i in range(n * count):
        first = i % count * c
        assert torch.equal(y[i // count, first : first + c], x[i])
        assert torch.equal(wide[i // count, :, :, i % count :: count], x[i])
    assert wide.data_ptr() == y.data_ptr()
    assert torch.equal(packed.from_width(wide, count), y)


def test_gradients_of_packing_are_channels_last():
    x = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(2, 6, 6, 6).contiguous(memory_format=torch.channels_last)
    [found] = torch.autograd.grad(packed.pack(x, 2), x, gradient)
    assert torch.equal(found, gradient.reshape(4, 3, 6, 6))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_equals_that_of_single_images(training):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 5, 7, generator=draw, dtype=torch.float64) * 2 + 3
    weight, bias, mean = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    own, plain = packed.BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    found = []
    for norm, images in ((own, packed.pack(x, 4)), (plain, x)):
        norm.load_state_dict({**norm.state_dict(), "weight": weight, "bias": bias, "running_mean": mean})
        norm.train(training)
        images = images.clone().requires_grad_()
        y = norm(images)
        (y * y.detach().cos()).sum().backward()
        assert y.shape == images.shape
        singles = (values.reshape(x.shape) for values in (y, images.grad))
        found.append([*singles, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(("auxiliary", "branches"), [(True, 1), (False, 2)])
def test_network_gives_the_same_results_as_for_single_images(
    monkeypatch, training, stem, auxiliary, branches
):
    layout = {"in_channels": 3, "classes": 5, "channels": 4, "cells": 4, "stem": stem}
    found, packed_by = [], []

    def spy(x, count):
        packed_by.append(count)
        return packed.pack(x, count)

    monkeypatch.setattr(derived, "pack", spy)
    for count in (4, 1):
        monkeypatch.setattr(derived, "fitting", lambda *_, count=count: count)
        network = DerivedNetwork(
            GENOTYPE, auxiliary=auxiliary, branches=branches, branch_cells=1, **layout
        ).double()
        initialize(network, torch.Generator().manual_seed(0))
        network.train(training)
        draw = torch.Generator().manual_seed(1)
        images = torch.randn(8, 3, 34, 34, generator=draw, dtype=torch.float64, requires_grad=True)
        network.drop_path = DropPath(draw_factors(network.dropped_maps, 8, 0.3, draw))
        logits, other = network.heads(images)
        labels = torch.arange(8) % 5
        loss = F.cross_entropy(logits, labels) + (F.cross_entropy(other, labels) if auxiliary else 0)
        weights = list(network.parameters())
        gradients = torch.autograd.grad(loss, [images, *weights], materialize_grads=True)
        found.append([logits, *gradients, *network.buffers()])
    assert packed_by == [4, 4, 1, 1]  # both states that the first cell reads
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
