"""NAS-Bench-201's networks, compared with one edge and one operation at a time, and its cells' strings."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Darts, Gdas, PcDarts
from hlrs.config.spaces import NASBENCH201_PRIMITIVES, NasBench201Space
from hlrs.errors import UserError
from hlrs.nas import bilevel
from hlrs.nas.genotype import (
    NasBench201Genotype,
    darts_from_json,
    derive_nasbench201,
    from_json,
    nasbench201_from_json,
)
from hlrs.nas.nasbench201 import STAGES, NasBench201Network, NasBench201Supernet, Reduction
from hlrs.nas.network import count_multiply_adds, count_weights, initialize
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.gdas import GdasSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.nas.supernet import initialize_alphas
from tests.messages import says
from tests.nas.test_supernet import bn, relative

CONV = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
MIXED = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


def small_supernet(primitives=NASBENCH201_PRIMITIVES, searcher=None, **layout) -> NasBench201Supernet:
    space = NasBench201Space(primitives=list(primitives))
    layout = {"nodes": 4, "in_channels": 2, "classes": 3, "channels": 4, "cells": 3} | layout
    supernet = NasBench201Supernet(space, searcher or DartsSearcher(Darts()), **layout).double()
    draw = torch.Generator().manual_seed(0)
    initialize(supernet, draw)
    initialize_alphas(supernet, draw, scale=1.0)
    return supernet


def plain_cell(cell: nn.Module, x: Tensor, weights: Tensor, names: list[str]) -> Tensor:
    """The authors' cell (cell_searchs/search_cells.py): node i sums its edges from all nodes before it."""
    every = cell.nodes.out_edges
    states, row = [x], 0
    for node in range(1, len(every) + 1):
        total = torch.zeros_like(x)
        for state in range(node):
            out, place, c = every[state], node - 1 - state, states[state].shape[1]
            own = slice(place * c, (place + 1) * c)
            for weight, name in zip(weights[row], names, strict=True):
                y = states[state]
                if name == "none":
                    continue
                if name == "avg_pool_3x3":
                    y = F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
                if name.startswith("nor_conv"):
                    kernels = out.convolutions[name].layers[0].weight[own]
                    y = bn(F.conv2d(F.relu(y), kernels, padding=kernels.shape[-1] // 2))
                total = total + weight * y
            row += 1
        states.append(total)
    return states[-1]


def plain_forward(supernet: NasBench201Supernet, images: Tensor, weights: Tensor) -> Tensor:
    x = supernet.stem(images)
    *tail, norm = supernet.branches[0]
    for module in [*supernet.shared, *tail]:
        if isinstance(module, Reduction):
            (first, first_norm), (second, second_norm) = [list(layer)[1:] for layer in module.residual]
            y = first_norm(F.conv2d(F.relu(x), first.weight, stride=2, padding=1))
            y = second_norm(F.conv2d(F.relu(y), second.weight, padding=1))
            x = y + F.conv2d(F.avg_pool2d(x, 2), module.shortcut.weight)
        else:
            x = plain_cell(module, x, weights, supernet.columns)
    return supernet.classifier(F.relu(norm(x)).mean((2, 3)))


def images_of(size=8):
    return torch.randn(5, 2, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 1, 0])
SUBSETS = [
    [name for i, name in enumerate(NASBENCH201_PRIMITIVES) if choice >> i & 1] for choice in range(2, 32)
]


@pytest.mark.parametrize("names", SUBSETS, ids="-".join)
def test_logits_and_gradients_agree_with_the_plain_cells_for_every_subset(names):
    supernet = small_supernet(names)
    fast = supernet(images_of())
    plain = plain_forward(supernet, images_of(), supernet.alphas["normal"].softmax(-1))
    assert relative(fast, plain) < 1e-10
    parameters = list(supernet.parameters())
    gradients = [
        torch.autograd.grad(F.cross_entropy(y, LABELS), parameters, materialize_grads=True)
        for y in (fast, plain)
    ]
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm()) < 1e-7 * float(b.norm()) + 1e-10


def test_the_second_order_gradient_agrees_with_differences():
    """∇_α L_val(w − ξ ∇L_train(w, α), α), by central differences of the unrolled loss."""
    supernet = small_supernet()
    alphas, weights = list(supernet.alphas.values()), supernet.weights()

    def loss(images):
        return lambda: F.cross_entropy(supernet(images), LABELS)

    training, validation = loss(images_of()), loss(images_of().flip(0))
    none = [torch.zeros_like(weight) for weight in weights]
    [found] = bilevel.second_order(alphas, weights, training, validation, none, 0.05)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def unrolled(distance):
        with bilevel.moved(alphas, [direction], distance):
            step = torch.autograd.grad(training(), weights)
            with bilevel.moved(weights, step, -0.05):
                return float(validation().detach())

    difference = (unrolled(1e-5) - unrolled(-1e-5)) / 2e-5
    assert float((found * direction).sum()) == pytest.approx(difference, rel=1e-4)


def test_pc_darts_mixes_a_part_of_the_channels_and_weighs_the_edges():
    """If the only operation is the identity, channels are only shuffled and averaged over a node's edges."""
    supernet = small_supernet(["skip_connect"], PcDartsSearcher(PcDarts(portion=2)))
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        for betas in supernet.betas.values():
            betas.zero_()
        found = supernet.shared[0](x, supernet.context())
    order = [0, 2, 1, 3]  # channel k of part q becomes k · 2 + q
    one = x[:, order]
    two = (x + one)[:, order] / 2
    three = (x + one + two)[:, order] / 3
    assert relative(found, three) < 1e-12


def test_gdas_computes_the_drawn_cell():
    searcher = GdasSearcher(Gdas())
    supernet = small_supernet(searcher=searcher)
    drawn = searcher.draw(supernet.shape, torch.Generator().manual_seed(4), 0, 10)
    supernet.drawn = drawn.double()
    chosen = (supernet.alphas["normal"].log_softmax(-1) + supernet.drawn[0, 0]).argmax(-1)
    one_hot = F.one_hot(chosen, 5).double()
    assert relative(supernet(images_of()), plain_forward(supernet, images_of(), one_hot)) < 1e-10


def test_branches_have_their_own_last_cells_and_what_follows_them():
    supernet = small_supernet(cells=6, branches=2, branch_cells=3)  # stages of two cells
    shared = [type(module).__name__ for module in supernet.shared]
    assert shared == ["SearchedCell", "SearchedCell", "Reduction", "SearchedCell"]
    for branch in supernet.branches:
        own = [type(module).__name__ for module in branch]
        assert own == ["SearchedCell", "Reduction", "SearchedCell", "SearchedCell", "BatchNorm2d"]
    assert supernet(images_of()).shape == (5, 3)


def test_a_space_has_as_many_stages_as_its_networks():
    assert NasBench201Space.stages == STAGES


@pytest.mark.parametrize("size", [7, 9, 5])
def test_images_of_odd_size_are_accepted(size):
    assert small_supernet()(images_of(size)).shape == (5, 3)
    assert network(MIXED, in_channels=2, classes=3, cells=3).double()(images_of(size)).shape == (5, 3)


# --- one cell -------------------------------------------------------------------------------------------


def network(cell: str, **layout) -> NasBench201Network:
    layout = {"in_channels": 3, "classes": 10, "channels": 16, "cells": 15} | layout
    return NasBench201Network(NasBench201Genotype(NasBench201Space.parse_cell(cell)), **layout)


def test_the_largest_cell_has_its_published_size():
    """The benchmark's record of the cell of six 3×3 convolutions: 220.12 MFLOPs, 1.531546 MB on CIFAR-10."""
    with torch.device("meta"):
        model = network(CONV)
    assert count_weights(model) == 1_531_546
    assert count_multiply_adds(model.eval(), 3, 32) == pytest.approx(220.12e6, abs=5e3)


def test_the_supernet_with_one_hot_weights_is_the_network_of_the_cell():
    supernet = small_supernet()
    derived = network(MIXED, in_channels=2, classes=3, channels=4, cells=3).double()
    rows = [
        (node, state, name)
        for node, edges in enumerate(NasBench201Space.parse_cell(MIXED))
        for name, state in edges
    ]
    one_hot = F.one_hot(torch.tensor([NASBENCH201_PRIMITIVES.index(name) for *_, name in rows]), 5).double()
    pairs = [(supernet.stem, derived.stem), (supernet.classifier, derived.classifier)]
    for ours, theirs in zip(
        [*supernet.shared, *supernet.branches[0][:-1]],
        [*derived.shared, *derived.branches[0][:-1]],
        strict=True,
    ):
        if isinstance(ours, Reduction):
            pairs.append((ours, theirs))
            continue
        for node, state, name in rows:
            if name.startswith("nor_conv"):
                out = ours.nodes.out_edges[state]
                kernels = out.convolutions[name].layers[0].weight.chunk(out.edges)[node - state]
                theirs.nodes[node][state][1].weight.data.copy_(kernels)
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict(), strict=False)  # which has no running statistics
    assert relative(derived.train()(images_of()), plain_forward(supernet, images_of(), one_hot)) < 1e-10


def test_a_cell_that_passes_nothing_still_trains():
    model = network("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", in_channels=2, classes=3, cells=3)
    loss = F.cross_entropy(model(images_of().float()), LABELS)
    assert all(gradient is not None for gradient in torch.autograd.grad(loss, list(model.parameters())))


# --- genotypes ------------------------------------------------------------------------------------------


def test_a_cell_is_read_and_written_in_the_benchmarks_notation():
    cell = NasBench201Space.parse_cell(MIXED)
    assert cell == [
        [("none", 0)],
        [("skip_connect", 0), ("nor_conv_1x1", 1)],
        [("avg_pool_3x3", 0), ("none", 1), ("nor_conv_3x3", 2)],
    ]
    assert str(NasBench201Genotype(cell)) == MIXED
    genotype = nasbench201_from_json({"cell": MIXED}, "g.json")
    assert genotype.to_json() == {"cell": MIXED}
    assert (str(genotype), genotype.skips("normal"), genotype.outputs("normal")) == (MIXED, 1, [3])
    assert from_json({"cell": MIXED}, "g.json") == genotype


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ["''", "not a cell"]),
        ("nor_conv_3x3~0", ["not a cell"]),
        ("|nor_conv_5x5~0|", ["node 1", "'nor_conv_5x5'", "nor_conv_3x3"]),
        ("|none~0|+|none~0|", ["node 2", "nodes 0 to 1"]),
        ("|none~1|", ["node 1", "nodes 0 to 0"]),
        ("|none|", ["not a cell"]),
        ("|none~0|+", ["not a cell"]),
        ("|||none~0||", ["not a cell"]),
    ],
)
def test_a_malformed_cell_is_named(text, facts):
    with pytest.raises(UserError) as error:
        nasbench201_from_json({"cell": text}, "path/g.json")
    says(str(error.value), "path/g.json", *facts)


def test_a_genotype_of_one_space_is_refused_under_the_other():
    darts = {"normal": [], "normal_concat": [], "reduce": [], "reduce_concat": []}
    with pytest.raises(UserError) as error:
        nasbench201_from_json(darts, "g.json")
    says(str(error.value), "g.json", "of space darts", "search.space", "nasbench201")
    with pytest.raises(UserError) as error:
        darts_from_json({"cell": MIXED}, "g.json")
    says(str(error.value), "g.json", "of space nasbench201", "search.space", "darts")


def test_the_cell_with_the_largest_alphas_is_derived_none_included():
    alphas = np.zeros((6, 5), dtype=np.float32)  # none, skip, 1x1, 3x3, avg_pool
    alphas[range(6), [0, 1, 2, 4, 0, 3]] = 0.5
    ones = {"normal": np.ones(6, dtype=np.float32)}
    assert str(derive_nasbench201(NasBench201Space(), {"normal": alphas}, ones)) == MIXED
    subset = NasBench201Space(primitives=["avg_pool_3x3", "skip_connect"])
    assert subset.primitives == ["skip_connect", "avg_pool_3x3"]  # in the space's order, as all columns are
    alphas = np.array([[0, 0], [0, 1], [2, 1]], dtype=np.float32)
    ones = {"normal": np.ones(3, dtype=np.float32)}
    expected = "|skip_connect~0|+|avg_pool_3x3~0|skip_connect~1|"
    assert str(derive_nasbench201(subset, {"normal": alphas}, ones)) == expected
