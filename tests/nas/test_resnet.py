"""The ResNet for CIFAR: published sizes, a block by hand, the shortcut, its initialisation, two branches."""

import pytest
import torch
from torch.nn import functional as F

from hlrs.errors import UserError
from hlrs.nas.resnet import ResidualBlock, ResNet, initialize_resnet
from hlrs.pipeline.model_size import describe

SIZES = {"channels": None, "cells": None, "classes": 10, "image_size": 32, "in_channels": 3}
TINY = {"in_channels": 1, "classes": 3}


@pytest.mark.parametrize(
    ("depth", "published"),  # He et al. 2016, table 6, in millions
    [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)],
)
def test_weights_agree_with_the_paper_and_a_count_by_hand(depth, published):
    n = (depth - 2) // 6
    stem = 3 * 16 * 9 + 2 * 16
    stages = n * (2 * 16 * 16 * 9 + 4 * 16)
    for before, channels in ((16, 32), (32, 64)):
        stages += (before + channels) * channels * 9 + 4 * channels
        stages += (n - 1) * (2 * channels * channels * 9 + 4 * channels)
    facts = describe(f"resnet{depth}", **SIZES, auxiliary=False)
    assert facts["weights"] == stem + stages + 64 * 10 + 10
    assert round(facts["weights"] / 1e6, 1 if depth == 110 else 2) == published


def test_size_of_resnet32_to_the_last_weight():
    facts = describe("resnet32", **SIZES, auxiliary=False)
    assert facts["weights"] == 464_154
    # 3→16 on 32²; 10 convolutions of 16; 16→32 and 9 of 32 on 16²; 32→64 and 9 of 64 on 8²; the classifier
    macs = (432 + 10 * 2304) * 1024 + (4608 + 9 * 9216) * 256 + (18_432 + 9 * 36_864) * 64 + 640
    assert facts["multiply_adds"] == macs


def test_a_width_of_64_has_the_size_that_glmc_and_sure_call_resnet32_too():
    facts = describe("resnet32", **{**SIZES, "channels": 64}, auxiliary=False)
    # the same with 64, 128 and 256 channels: weights of the convolutions, two numbers per channel and norm
    convolutions = 3 * 64 * 9 + 10 * 64 * 64 * 9 + (64 + 9 * 128) * 128 * 9 + (128 + 9 * 256) * 256 * 9
    norms = 2 * (64 + 10 * 64 + 10 * 128 + 10 * 256)
    assert facts["weights"] == convolutions + norms + 256 * 10 + 10 == 7_386_186
    macs = (1728 + 10 * 36_864) * 1024 + (73_728 + 9 * 147_456) * 256 + (294_912 + 9 * 589_824) * 64 + 2560
    assert facts["multiply_adds"] == macs
    network = ResNet(20, 6, **TINY)
    assert network.backbone(torch.zeros(2, 1, 8, 8)).shape == (2, 24, 2, 2)


def test_a_block_by_hand():
    block = ResidualBlock(4, 8, 2).train()
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    first, _, _, second, _ = block.residual

    def bn(y):
        return F.batch_norm(y, None, None, training=True)

    residual = bn(
        F.conv2d(F.relu(bn(F.conv2d(x, first.weight, stride=2, padding=1))), second.weight, padding=1)
    )
    shortcut = torch.zeros(3, 8, 3, 3)
    for row in range(3):
        for column in range(3):
            # two zero channels in front, two behind
            shortcut[:, 2:6, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.allclose(block(x), F.relu(residual + shortcut), atol=1e-6)


def test_a_block_with_zero_residual_is_the_identity():
    block = ResidualBlock(4, 4, 1).eval()
    torch.nn.init.zeros_(block.residual[4].weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_a_shortcut_of_the_same_size_is_the_map_itself():
    block, x = ResidualBlock(4, 4, 1), torch.rand(2, 4, 5, 5, requires_grad=True)
    added = block(x).grad_fn.next_functions[0][0]
    view = added.next_functions[1][0]
    assert view.name() == "AliasBackward0"
    assert view.next_functions[0][0].variable is x


def test_maps_are_halved_twice_and_pooled():
    network = ResNet(20, in_channels=3, classes=10)
    assert network.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_weights_are_drawn_with_variance_two_over_the_fan_in():
    networks = [ResNet(20, in_channels=3, classes=1000) for _ in range(2)]
    for network in networks:
        initialize_resnet(network, torch.Generator().manual_seed(1))
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)
    last = networks[0].branches[0] if len(networks[0].branches[0]) else networks[0].shared
    convolution = last[-1].residual[3].weight.detach()  # 64·64·9 numbers, fan-in 576
    assert float(convolution.std()) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert float(convolution.abs().max()) > 3 * (2 / 576) ** 0.5  # normal, not uniform
    assert float(networks[0].classifier.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert float(networks[0].classifier.bias.detach().abs().max()) <= 1 / 8


def test_two_branches_have_separate_last_blocks():
    plain, branched = ResNet(20, **TINY), ResNet(20, **TINY, branches=2, branch_cells=1)
    assert (len(branched.shared), [len(branch) for branch in branched.branches]) == (8, [1, 1])
    more = sum(p.numel() for p in branched.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 2 * 64 * 64 * 9 + 4 * 64 + 64 * 3  # a block, and a classifier of twice the features
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    branched.eval()
    assert not torch.equal(branched.features(x, 0), branched.features(x, 1))
    expected = torch.cat([branched.features(x, 0), branched.features(x, 1)], 1)
    assert torch.equal(branched(x), branched.classifier(expected))


def test_describe_rejects_options_that_a_resnet_lacks():
    with pytest.raises(UserError, match=r"resnet32\b.*omit --cells"):
        describe("resnet32", **{**SIZES, "cells": 15}, auxiliary=False)
    with pytest.raises(UserError, match=r"--channels: 17 is odd"):
        describe("resnet32", **{**SIZES, "channels": 17}, auxiliary=False)
    with pytest.raises(UserError, match=r"resnet32\b.*--stem"):
        describe("resnet32", **SIZES, auxiliary=False, stem="imagenet")
    with pytest.raises(UserError, match=r"--auxiliary\b.*resnet"):
        describe("resnet32", **SIZES, auxiliary=True)
