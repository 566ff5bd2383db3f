"""The continuous network compared with the supernet, and with a genotype's derived cells."""

import pytest
import torch
from torch import nn

from hlrs.config.methods import Darts, PcDarts
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.nas import trajectory
from hlrs.nas.continuous import CONTINUOUS, inherit
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import DartsGenotype, NasBench201Genotype
from hlrs.nas.mixture import Mixture, continuous, decoded
from hlrs.nas.nasbench201 import NasBench201Network
from hlrs.nas.network import initialize
from hlrs.nas.searchers.table import SEARCHERS
from hlrs.nas.spaces import SUPERNETS
from hlrs.nas.supernet import initialize_alphas

LAYOUT = {"in_channels": 3, "classes": 5, "channels": 8, "cells": 3}
PARTIAL = PcDarts(portion=2)
BRANCHES = {"branches": 2, "branch_cells": 1}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def images(size=9):
    return torch.randn(8, 3, size, size, dtype=torch.float64, generator=draw(1))


def make_supernet(space, nodes, searcher=None, **layout):
    """A supernet in double precision, far from undecided."""
    spec = searcher or Darts()
    made = SEARCHERS[type(spec)](spec)
    supernet = SUPERNETS[type(space)](space, made, nodes=nodes, **(LAYOUT | layout))
    initialize(supernet, draw())
    initialize_alphas(supernet, draw(), scale=1.0)
    return supernet.double()


def make_continuous(supernet, space, nodes, mixture, **layout):
    """The network that continues a supernet under a mixture."""
    portion = supernet.portion
    network = CONTINUOUS[type(space)](space, mixture, nodes=nodes, portion=portion, **(LAYOUT | layout))
    inherit(network.double(), supernet.state_dict())
    return network.double()


def architecture(supernet):
    return trajectory.Trajectory(supernet.architecture()).architectures[-1]


@pytest.mark.parametrize("layout", [{}, BRANCHES, {"stem": "imagenet"}], ids=["one", "two branches", "large"])
@pytest.mark.parametrize("searcher", [Darts(), PARTIAL], ids=["all channels", "partial channels"])
@pytest.mark.parametrize(
    ("space", "nodes"),
    [
        (DartsSpace(), 3),
        (DartsSpace(primitives=["none", "skip_connect", "sep_conv_7x7", "conv_7x1_1x7"]), 2),
        (NasBench201Space(), 4),
    ],
    ids=["DARTS", "another choice", "NAS-Bench-201"],
)
def test_it_computes_what_the_supernet_does(space, nodes, searcher, layout):
    if "stem" in layout and not space.large_images:
        return
    supernet = make_supernet(space, nodes, searcher, **layout)
    last, x = architecture(supernet), images(40 if "stem" in layout else 9)
    for mixture in (continuous(space, last), decoded(space, nodes, trajectory.derive(space, last))):
        network = make_continuous(supernet, space, nodes, mixture, **layout)
        supernet.mixture = Mixture(*(weights.double() for weights in mixture))
        with torch.no_grad():
            assert torch.allclose(network(x), supernet(x), rtol=0, atol=1e-7)  # a mixture is float32
    supernet.mixture = None


def test_the_supernets_own_weights_are_those_of_its_last_architecture():
    supernet, x = make_supernet(DartsSpace(), 3, PARTIAL), images()
    mixture = continuous(DartsSpace(), architecture(supernet))
    with torch.no_grad():
        own = supernet(x)
        supernet.mixture = Mixture(*(weights.double() for weights in mixture))
        assert torch.allclose(supernet(x), own, rtol=0, atol=1e-6)


def copy_weights(source, target):
    """Copy convolutions and classifier from one network to another, in their order."""
    ours, theirs = (
        [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)] for network in (source, target)
    )
    assert [m.weight.shape for m in ours] == [m.weight.shape for m in theirs]
    for own, other in zip(ours, theirs, strict=True):
        other.load_state_dict(own.state_dict())


# without pools, whose batch norms the derived network lacks; edges in the order of their states
DARTS = [[("sep_conv_3x3", 0), ("dil_conv_5x5", 1)], [("skip_connect", 0), ("sep_conv_5x5", 2)]]
CELL = [
    [("nor_conv_3x3", 0)],
    [("skip_connect", 0), ("none", 1)],
    [("nor_conv_1x1", 0), ("avg_pool_3x3", 1), ("nor_conv_3x3", 2)],
]
GENOTYPES = [
    (DartsSpace(), 2, DartsGenotype(DARTS, [2, 3], DARTS, [2, 3]), DerivedNetwork),
    (NasBench201Space(), 4, NasBench201Genotype(CELL), NasBench201Network),
]


@pytest.mark.parametrize(("space", "nodes", "genotype", "derived"), GENOTYPES, ids=["DARTS", "NAS-Bench-201"])
def test_a_decoded_network_is_the_genotypes_network_with_the_same_weights(space, nodes, genotype, derived):
    supernet = make_supernet(space, nodes)
    network = make_continuous(supernet, space, nodes, decoded(space, nodes, genotype))
    other = derived(genotype, **LAYOUT).double()
    copy_weights(network, other)
    x = images(16)
    with torch.no_grad():
        assert torch.allclose(network(x), other(x), rtol=0, atol=1e-12)
        assert not torch.allclose(network(x), supernet(x), rtol=0, atol=1e-2)


def test_a_decoded_mixture_by_hand():
    space, nodes = DartsSpace(), 2
    operations, edges = decoded(space, nodes, DartsGenotype(DARTS, [2, 3], DARTS, [2, 3]))
    assert operations.shape == (2, 5, 8)
    chosen = [(0, 4), (1, 7), (2, 3), (4, 5)]  # (edge, operation): edge 3, node 1 from state 1, is dropped
    assert operations[0].nonzero().tolist() == [list(pair) for pair in chosen]
    assert edges[0].tolist() == [1, 1, 1, 0, 1]
    assert torch.equal(operations[0], operations[1])


def test_a_prediction_does_not_depend_on_its_batch():
    space, nodes, x = DartsSpace(), 2, images()
    supernet = make_supernet(space, nodes)
    network = make_continuous(supernet, space, nodes, continuous(space, architecture(supernet)))
    with torch.no_grad():
        network.train()(x)
        network.eval()
        assert torch.allclose(network(x)[:1], network(x[:1]), rtol=0, atol=1e-12)
        assert not torch.allclose(supernet(x)[:1], supernet(x[:2])[:1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_a_cell_without_any_edge_passes_zeros(kind):
    space, nodes = DartsSpace(), 2
    supernet = make_supernet(space, nodes)
    operations, edges = continuous(space, architecture(supernet))
    operations[space.kinds.index(kind)] = 0.0
    network = make_continuous(supernet, space, nodes, Mixture(operations, edges))
    supernet.mixture = Mixture(operations.double(), edges.double())
    with torch.no_grad():
        assert torch.allclose(network(images()), supernet(images()), rtol=0, atol=1e-7)
