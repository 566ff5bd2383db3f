"""Implanted cells: the network before any step, what learns, and what a cell adds to a skip."""

import pytest
import torch
from torch.nn import functional as F

from hlrs.config.methods import PcDarts
from hlrs.config.spaces import ImplantSpace
from hlrs.nas.genotype import ImplantGenotype, derive_implant, from_json
from hlrs.nas.implant import ImplantNetwork, ImplantSupernet
from hlrs.nas.network import count_multiply_adds, count_weights, initialize
from hlrs.nas.resnet import ResNet, initialize_resnet
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.nas.supernet import initialize_alphas

LAYOUT = {"in_channels": 1, "classes": 3}
CELL = ImplantGenotype([[("sep_conv_3x3", 0), ("skip_connect", 1)], [("max_pool_3x3", 2)]], [2, 3])


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def backbone():
    """A ResNet of width 8, with running statistics of some images."""
    network = ResNet(20, 8, **LAYOUT)
    initialize_resnet(network, draw())
    network(torch.randn(16, 1, 8, 8, generator=draw(1)))
    return network.eval()


def supernet_on(backbone):
    searcher = PcDartsSearcher(PcDarts())
    network = ImplantSupernet(ImplantSpace(), searcher, nodes=2, channels=8, cells=9, **LAYOUT)
    initialize_alphas(network, draw(2))
    return started(network, backbone)


def network_on(backbone):
    return started(ImplantNetwork(CELL, channels=8, cells=9, **LAYOUT), backbone)


def started(network, backbone):
    initialize(network.learner, draw(3))
    network.load_state_dict(network.state_dict() | backbone.state_dict())
    return network


@pytest.mark.parametrize("make", [supernet_on, network_on])
def test_at_first_the_logits_are_the_backbones_to_the_bit(backbone, make):
    network, x = make(backbone), torch.randn(5, 1, 8, 8, generator=draw(4))
    with torch.no_grad():
        expected = backbone(x)
        assert torch.equal(network(x), expected)  # as it is made, in training mode
        assert torch.equal(network.train()(x), expected)
        assert torch.equal(network.eval()(x), expected)
        torch.nn.init.constant_(network.implants[1].projection, 0.1)
        assert not torch.allclose(network(x), expected, atol=1e-4)


@pytest.mark.parametrize("make", [supernet_on, network_on])
def test_only_the_implants_and_the_architecture_learn(backbone, make):
    network, x = make(backbone).train(), torch.randn(5, 1, 8, 8, generator=draw(4))
    for implant in network.implants:
        torch.nn.init.constant_(implant.projection, 0.1)
    network(x).square().sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learning == {
        name for name, _ in network.named_parameters() if name.startswith(("implants", "alphas", "betas"))
    }
    after = network.state_dict()
    for name, before in backbone.state_dict().items():
        assert torch.equal(after[name], before), name
    if make is supernet_on:
        assert {id(p) for p in network.weights()} == {id(p) for p in network.implants.parameters()}
        assert set(network.architecture()) == {"alphas.normal", "betas.normal"}


def test_an_implant_lies_on_the_last_skip_of_each_stage(backbone):
    """Written out block by block, for a skip that is doubled there, and where it is not."""
    network, x = network_on(backbone).eval(), torch.rand(2, 1, 8, 8, generator=draw(4))
    for implant in network.implants:
        implant.cell.forward = lambda before, previous, context: torch.cat([before, previous], 1)
        channels = len(implant.projection)
        own = torch.eye(channels)[..., None, None]
        with torch.no_grad():
            implant.projection.copy_(torch.cat([0.25 * own, 0.75 * own], 1))
    with torch.no_grad():
        y = F.relu(backbone.stem[1](backbone.stem[0](x)))
        for index, block in enumerate(backbone.shared):
            y = F.relu(block.residual(y) + 2 * y) if index in (2, 5, 8) else block(y)
        assert torch.allclose(network(x), backbone.classifier(y.mean((2, 3))), atol=1e-4)


def test_size_by_hand():
    """ResNet-20 of width 16 on 32×32 pixels, with a cell of one separable convolution and one skip."""
    genotype = ImplantGenotype([[("sep_conv_3x3", 0), ("skip_connect", 1)]], [2])
    with torch.device("meta"):
        network = ImplantNetwork(genotype, channels=16, cells=9, in_channels=3, classes=10)
        alone = ResNet(20, in_channels=3, classes=10)
    weights = multiply_adds = 0
    for c, size in ((16, 32), (32, 16), (64, 8)):
        # two 1×1 convolutions before the cell, two depthwise and two 1×1 in it, and P
        convolutions = 2 * c * c + 2 * (9 * c + c * c) + c * c
        weights += convolutions + 4 * 2 * c  # and four batch norms
        multiply_adds += convolutions * size**2
    assert count_weights(network) - count_weights(alone) == weights
    added = count_multiply_adds(network.eval(), 3, 32) - count_multiply_adds(alone.eval(), 3, 32)
    assert added == multiply_adds


def test_a_genotype_has_one_cell(tmp_path):
    space = ImplantSpace()
    assert space.edges(2) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    alphas = torch.zeros(5, 8).numpy()
    alphas[[0, 1, 2, 3, 4], [4, 3, 1, 5, 6]] = [2.0, 1.0, 0.5, 3.0, 2.5]
    found = derive_implant(space, {"normal": alphas}, {"normal": torch.ones(5).numpy()})
    first, second = found.normal
    assert first == [("sep_conv_3x3", 0), ("skip_connect", 1)]
    assert second == [("sep_conv_5x5", 1), ("dil_conv_3x3", 2)]
    assert found.outputs("normal") == [2, 3]
    assert from_json(found.to_json(), "genotype.json") == found
