"""PC-DARTS: its cells compared with one edge and one operation at a time; edge weights."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.config.methods import Darts, PcDarts
from hlrs.config.spaces import DartsSpace
from hlrs.nas.mixed_edges import Divide, OutEdges, Shuffle
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.nas.supernet import DartsSupernet, SearchCell
from tests.nas.test_supernet import bn, conv, relative, small_supernet


def operations(out: OutEdges, group: int, x: Tensor) -> list[Tensor]:
    """All eight operations on the searched channels x, by the slices of an edge's own weights."""
    c, stride = x.shape[1], out.stride

    def own(weight: Tensor) -> Tensor:
        return weight.chunk(out.sources * out.edges)[group]

    def separable(module, dilation=1) -> Tensor:
        y = x
        for i, (depthwise, pointwise) in enumerate(zip(module.depthwise, module.pointwise, strict=True)):
            y = conv(F.relu(y), own(depthwise.weight), stride if i == 0 else 1, dilation, groups=c)
            y = bn(conv(y, own(pointwise.weight)))
        return y

    def reduced() -> Tensor:
        y = F.relu(x)
        even = F.conv2d(y, own(out.skip_even.weight), stride=2)
        odd = F.conv2d(y[:, :, 1:, 1:], own(out.skip_odd.weight), stride=2)
        return bn(torch.cat([even, odd], 1))

    largest = F.max_pool2d(x, 3, stride, 1)
    return [
        torch.zeros_like(largest),
        bn(largest),
        bn(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)),
        x if stride == 1 else reduced(),
        separable(out.convolutions["sep_conv_3x3"]),
        separable(out.convolutions["sep_conv_5x5"]),
        separable(out.convolutions["dil_conv_3x3"], 2),
        separable(out.convolutions["dil_conv_5x5"], 2),
    ]


def plain_edge(out: OutEdges, group: int, x: Tensor, weights: Tensor, portion: int) -> Tensor:
    """Xu et al. 2020, §3.2: the first channels are mixed, the others pass; then the shuffle."""
    searched = x.shape[1] // portion
    mixed = sum(w * y for w, y in zip(weights, operations(out, group, x[:, :searched]), strict=True))
    rest = x[:, searched:] if out.stride == 1 else F.max_pool2d(x[:, searched:], 2)
    both = torch.cat([mixed, rest], 1)
    n, c, h, w = both.shape
    return both.view(n, portion, c // portion, h, w).transpose(1, 2).reshape(n, c, h, w)


def plain_cell(
    cell: SearchCell, before: Tensor, previous: Tensor, alphas: Tensor, betas: Tensor | None, portion: int
) -> Tensor:
    """Node i = Σ_j softmax(betas of i)_j · edge_ij; the rows of alphas and betas in the order of edges()."""
    states = [cell.input0(before), cell.input1(previous)]
    nodes, row = len(cell.nodes.out_edges), 0
    for node in range(nodes):
        incoming = slice(row, row + node + 2)
        edge_weights = torch.ones(node + 2) if betas is None else betas[incoming].softmax(0)
        total = torch.zeros(())
        for state in range(node + 2):
            out = cell.nodes.out_edges[max(0, state - 1)]
            group = state * nodes + node if state < 2 else node - (state - 1)
            edge = plain_edge(out, group, states[state], alphas[row].softmax(0), portion)
            total = total + edge_weights[state] * edge
            row += 1
        states.append(total)
    return torch.cat(states[2:], 1)


def plain_forward(supernet: DartsSupernet, images: Tensor) -> Tensor:
    states = supernet.stem(images)
    for cell in supernet.shared:
        betas = supernet.betas[cell.kind] if supernet.betas else None
        rectified = [F.relu(state) for state in states]
        cells = plain_cell(cell, *rectified, supernet.alphas[cell.kind], betas, supernet.portion)
        states = states[1], cells
    return supernet.classifier(states[1].mean((2, 3)))


def pc_supernet(nodes: int = 3, portion: int = 2, normalized: bool = True, **layout) -> DartsSupernet:
    searcher = PcDartsSearcher(PcDarts(portion=portion, edge_normalization=normalized))
    return small_supernet(nodes, torch.float64, searcher=searcher, **{"channels": 4} | layout)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(("nodes", "portion", "recompute"), [(1, 2, False), (3, 4, True), (4, 2, False)])
def test_logits_and_all_gradients_agree_with_the_plain_cells(nodes, portion, recompute, normalized):
    supernet = pc_supernet(nodes, portion, normalized, recompute=recompute)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(5, 2, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    parameters = list(supernet.parameters())
    names = [name for name, _ in supernet.named_parameters()]
    assert ("betas.normal" in names) == normalized
    fast, plain = supernet(images), plain_forward(supernet, images)
    assert relative(fast, plain) < 1e-10
    gradients = [torch.autograd.grad(F.cross_entropy(y, labels), parameters) for y in (fast, plain)]
    for name, a, b in zip(names, *gradients, strict=True):
        assert relative(a, b) < 1e-5 or float((a - b).norm()) < 1e-12, name


@pytest.mark.parametrize("portion", [2, 4])
@pytest.mark.parametrize("kind", ["normal", "reduce"])  # strides 1 and 2
def test_a_cell_and_its_gradients_agree_with_the_plain_one(kind, portion):
    supernet = pc_supernet(portion=portion)
    cell = next(cell for cell in supernet.shared if cell.kind == kind)
    draw = torch.Generator().manual_seed(4)
    inputs = [
        torch.randn(5, entry[0].in_channels, 6, 6, generator=draw, dtype=torch.float64).requires_grad_()
        for entry in (cell.input0, cell.input1)
    ]
    fast = cell(*inputs, supernet.context())
    alphas, betas = supernet.alphas[kind], supernet.betas[kind]
    plain = plain_cell(cell, *inputs, alphas, betas, portion)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    assert relative(fast, plain) < 1e-10
    gradient = torch.randn(plain.shape, generator=draw, dtype=torch.float64)
    wanted = [*inputs, alphas, betas, *cell.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, wanted, gradient) for y in (fast, plain)), strict=True):
        assert relative(a, b) < 1e-5


def test_second_derivatives_by_the_betas_agree_with_the_plain_cells():
    supernet = pc_supernet(nodes=2)
    images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1])
    found = []
    for forward in (supernet, lambda images: plain_forward(supernet, images)):
        loss = F.cross_entropy(forward(images), labels)
        gradients = torch.autograd.grad(loss, list(supernet.architecture().values()), create_graph=True)
        along = sum((g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in gradients)
        found.append(torch.autograd.grad(along, list(supernet.parameters())))
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-5 or float((a - b).norm()) < 1e-12


@pytest.mark.parametrize("size", [7, 5])
def test_images_of_odd_size_are_accepted(size):
    supernet = pc_supernet(nodes=2, portion=4)
    assert supernet(torch.randn(4, 2, size, size, dtype=torch.float64)).shape == (4, 3)


def test_channels_are_divided_and_shuffled_by_their_number():
    # two sources of four channels, a searched one each; channel 10·s + k
    x = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13]).view(1, 8, 1, 1)
    searched, rest = Divide.apply(x, 2, 4)
    assert searched.flatten().tolist() == [0, 10]
    assert rest.flatten().tolist() == [1, 2, 3, 11, 12, 13]
    # one edge, two searched channels (0, 1), portion 3: [0 1 | 2 3 | 4 5] is read column by column
    shuffled = Shuffle.apply(torch.arange(2.0).view(1, 2, 1, 1), torch.arange(2.0, 6).view(1, 4, 1, 1), 1)
    assert shuffled.flatten().tolist() == [0, 2, 4, 1, 3, 5]
    # two edges stay apart
    both = Shuffle.apply(
        torch.tensor([0.0, 10]).view(1, 2, 1, 1), torch.tensor([1.0, 11]).view(1, 2, 1, 1), 2
    )
    assert both.flatten().tolist() == [0, 1, 10, 11]


def test_weights_are_fewer_by_the_portion_and_its_square():
    # separable convolutions: depthwise weights / portion, 1×1 weights / portion²; counted for one normal cell
    counts = {}
    for searcher in (DartsSearcher(Darts()), PcDartsSearcher(PcDarts(portion=4))):
        supernet = DartsSupernet(
            DartsSpace(), searcher, nodes=4, in_channels=3, classes=10, channels=16, cells=8
        )
        cell = supernet.shared[0]
        counts[searcher.portion] = sum(p.numel() for out in cell.nodes.out_edges for p in out.parameters())
    c = {1: 16, 4: 4}
    for portion, count in counts.items():
        by_edge = (
            2 * (9 + 25) * c[portion] + 4 * c[portion] ** 2 + (9 + 25) * c[portion] + 2 * c[portion] ** 2
        )
        assert count == 14 * by_edge


def test_edge_weights_are_a_softmax_over_the_edges_of_a_node():
    supernet = pc_supernet(nodes=2)
    with torch.no_grad():
        # node 0 reads states 0 and 1, node 1 states 0 to 2
        supernet.betas["normal"].copy_(torch.tensor([0.0, np.log(3), np.log(2), 0.0, np.log(5)]))
    assert DartsSpace().edges(2) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert supernet.edge_weights("normal").tolist() == pytest.approx([1 / 4, 3 / 4, 2 / 8, 1 / 8, 5 / 8])
    assert pc_supernet(normalized=False).edge_weights("normal") is None
