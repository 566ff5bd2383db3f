"""The derived network: published sizes, a forward pass by hand, drop path, auxiliary head, branches."""

import pytest
import torch
from torch.nn import functional as F

from hlrs.errors import UserError
from hlrs.nas.derived import AuxiliaryHead, DerivedNetwork, DropPath, draw_factors, pool_to_two
from hlrs.nas.genotype import PUBLISHED, DartsGenotype
from hlrs.nas.network import initialize
from hlrs.pipeline.model_size import describe

CIFAR = {"channels": 36, "cells": 20, "classes": 10, "image_size": 32, "in_channels": 3}
SMALL = {"in_channels": 1, "classes": 3, "channels": 4, "cells": 3}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("DARTS_V2", 3_349_342),  # "param size = 3.349342MB" in the logs of DARTS's train.py
        ("PDARTS", 3_433_798),  # Chen et al. 2019, table 1: 3.4 M
        ("PC_DARTS", 3_634_678),  # Xu et al. 2020, table 1: 3.6 M
    ],
)
def test_published_genotypes_have_their_published_number_of_weights(name, weights):
    assert describe(name, **CIFAR, auxiliary=True)["weights"] == weights


def test_multiply_adds_of_a_network_counted_by_hand():
    skip = [[("skip_connect", 0), ("skip_connect", 1)]]
    genotype = DartsGenotype(skip, [2], skip, [2])
    with torch.device("meta"):
        network = DerivedNetwork(genotype, auxiliary=False, **SMALL)
    from hlrs.nas.network import count_multiply_adds, count_weights

    # stem 1→12, 3×3 on 8×8; cell 0 (normal, 4 channels): two 1×1 inputs 12→4 on 8×8
    macs, weights = 12 * 9 * 64 + 2 * 12 * 4 * 64, 12 * 9 + 2 * 12 + 2 * (12 * 4 + 8)
    # cell 1 (reduction, 8): inputs 12→8 and 4→8 on 8×8, two factorized reductions 8→8 onto 4×4
    macs += (12 + 4) * 8 * 64 + 2 * 8 * 8 * 16
    weights += (12 + 4) * 8 + 2 * 16 + 2 * (8 * 8 + 16)
    # cell 2 (reduction, 16, after a reduction): factorized 4→16 onto 4×4, 8→16 on 4×4, two 16→16 onto 2×2
    macs += (4 + 8) * 16 * 16 + 2 * 16 * 16 * 4
    weights += (4 + 8) * 16 + 2 * 32 + 2 * (16 * 16 + 32)
    macs, weights = macs + 16 * 3, weights + 16 * 3 + 3
    assert count_weights(network) == weights
    assert count_multiply_adds(network.eval(), 1, 8) == macs


def test_forward_pass_of_one_node_by_hand():
    genotype = DartsGenotype([[("max_pool_3x3", 0), ("skip_connect", 1)]], [2], [[("avg_pool_3x3", 1)]], [2])
    network = DerivedNetwork(genotype, auxiliary=False, **SMALL)
    initialize(network, torch.Generator().manual_seed(0))
    network.train()
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def bn(y):
        return F.batch_norm(y, None, None, training=True)

    def half(y, module):
        y = F.relu(y)
        halves = (module.even.weight, y), (module.odd.weight, y[:, :, 1:, 1:])
        return bn(torch.cat([F.conv2d(x, weight, stride=2) for weight, x in halves], 1))

    stem = bn(network.stem.layers[0](x))
    normal, reduce1, reduce2 = network.shared
    inputs = [bn(c.input0[0](F.relu(stem))) if i < 2 else None for i, c in enumerate(network.shared)]
    cell0 = F.max_pool2d(inputs[0], 3, 1, 1) + bn(normal.input1[0](F.relu(stem)))
    cell1 = F.avg_pool2d(bn(reduce1.input1[0](F.relu(cell0))), 3, 2, 1, count_include_pad=False)
    assert half(cell0, reduce2.input0).shape == (5, 16, 4, 4)
    cell2 = F.avg_pool2d(bn(reduce2.input1[0](F.relu(cell1))), 3, 2, 1, count_include_pad=False)
    expected = network.classifier(cell2.mean((2, 3)))
    assert torch.allclose(network(x), expected, atol=1e-5)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = torch.ones(20_000, 2, 1, 1)
    factors = draw_factors(2, len(x), 0.3, torch.Generator().manual_seed(0))
    drop = DropPath(factors)
    y = drop(x)
    kept = y[:, 0, 0, 0] > 0
    assert torch.equal(y[:, 0], y[:, 1])  # both channels of an image
    assert torch.allclose(y[kept], torch.tensor(1 / 0.7))
    assert abs(float(kept.float().mean()) - 0.7) < 4 * (0.7 * 0.3 / 20_000) ** 0.5
    assert torch.equal(drop(x)[:, 0, 0, 0], factors[1])  # the next map's factors


def test_drop_path_acts_in_training_only_and_skips_identities():
    skip = [[("skip_connect", 1)]]
    identity = DerivedNetwork(DartsGenotype(skip, [2], skip, [2]), auxiliary=False, **SMALL)
    pool = [[("max_pool_3x3", 1)]]
    pooled = DerivedNetwork(DartsGenotype(pool, [2], pool, [2]), auxiliary=False, **SMALL)
    cell = identity.shared[0]
    x = torch.randn(64, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    drop = DropPath(draw_factors(1, 64, 0.9, torch.Generator().manual_seed(0)))
    assert torch.equal(cell(x, x, drop), cell(x, x, None))
    assert (identity.dropped_maps, pooled.dropped_maps) == (2, 3)  # the skips of two reductions; all pools
    cell = pooled.shared[0]
    assert float((cell(x, x, drop).flatten(1).abs().sum(1) == 0).float().mean()) > 0.7
    pooled.drop_path = drop
    assert pooled.eval().context() is None
    assert pooled.train().context() is drop


@pytest.mark.parametrize("size", [1, 2, 4, 6, 7, 8, 14, 16])
def test_auxiliary_head_accepts_any_size_and_pools_as_darts_at_8_and_7(size):
    head = AuxiliaryHead(6, 3).eval()
    x = torch.randn(2, 6, size, size, generator=torch.Generator().manual_seed(0))
    assert head(x).shape == (2, 3)
    stride = {8: 3, 7: 2}.get(size)  # of AvgPool2d(5) in AuxiliaryHeadCIFAR and AuxiliaryHeadImageNet
    if stride:
        expected = head.classifier(head.features(F.avg_pool2d(F.relu(x), 5, stride)).flatten(1))
        assert torch.allclose(head(x), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_small_maps_are_pooled_adaptively_by_operators_with_deterministic_gradients(size):
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    weights = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    pooled, expected = pool_to_two(ours), F.adaptive_avg_pool2d(theirs, 2)
    assert torch.allclose(pooled, expected, rtol=1e-12)
    for y in (pooled, expected):
        (y * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12)
    # in PyTorch's list of operators without a deterministic gradient is only the adaptive one
    assert pooled.grad_fn.name() in ("AvgPool2DBackward0", "ExpandBackward0")


def test_auxiliary_logits_come_from_two_thirds_of_the_cells():
    network = DerivedNetwork(
        PUBLISHED["DARTS_V1"], auxiliary=True, in_channels=3, classes=5, channels=4, cells=6
    )
    logits, auxiliary = network.heads(torch.randn(2, 3, 32, 32))
    assert (network.tap, logits.shape, auxiliary.shape) == (4, (2, 5), (2, 5))
    assert torch.equal(network.eval()(torch.zeros(1, 3, 32, 32)), network.heads(torch.zeros(1, 3, 32, 32))[0])


def test_initialisation_follows_pytorchs_bounds_and_the_seed():
    networks = [DerivedNetwork(PUBLISHED["PDARTS"], auxiliary=False, **SMALL) for _ in range(2)]
    for network in networks:
        initialize(network, torch.Generator().manual_seed(7))
    for a, b in zip(*(n.parameters() for n in networks), strict=True):
        assert torch.equal(a, b)
    stem = networks[0].stem.layers[0].weight.detach()
    assert float(stem.abs().max()) <= 1 / 3  # fan-in 9
    assert float(stem.std()) == pytest.approx((1 / 3) / 3**0.5, rel=0.15)


def test_describe_rejects_an_unknown_genotype_and_odd_channels(tmp_path):
    with pytest.raises(UserError, match=r"DARTS_V3\b.*DARTS_V1\b.*supernet, resnet20\b"):
        describe("DARTS_V3", **CIFAR, auxiliary=False)
    with pytest.raises(UserError, match=r"--channels\b.*\b5\b.*odd"):
        describe("DARTS_V2", **{**CIFAR, "channels": 5}, auxiliary=False)
