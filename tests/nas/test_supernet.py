"""The supernet compared with one edge and one operation at a time, as in DARTS's cnn/model_search.py."""

import itertools
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hlrs.config.methods import Darts
from hlrs.config.spaces import DARTS_PRIMITIVES, DartsSpace
from hlrs.nas import bilevel
from hlrs.nas.mixed_edges import DARTS_OWN, DARTS_SHARED, BatchNorm, OutEdges, Primitives, SeparableConv
from hlrs.nas.network import count_weights, initialize
from hlrs.nas.operations import make_operation, reads_rectified
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import DartsSupernet, SearchCell, initialize_alphas
from hlrs.training.optim import optimizer_step


def bn(x: Tensor) -> Tensor:
    """Batch norm written out: biased variance, eps 1e-5."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def conv(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] - 1) // 2, dilation, groups)


def plain_mixture(
    out: OutEdges,
    group: int,
    x: Tensor,
    weights: Tensor,
    names: Sequence[str] = tuple(DartsSpace().primitives),
) -> Tensor:
    """One edge: Σ_o weights[o] · o(x), each operation on its own with the edge's own slice of the weights.

    `group` is source · edges + edge; `names` are the operations of the weights.
    """
    c, stride = out.channels, out.stride

    def own(weight: Tensor) -> Tensor:
        return weight[group * c : (group + 1) * c]

    def separable(x: Tensor, module: SeparableConv, dilation: int = 1) -> Tensor:
        for i, (depthwise, pointwise) in enumerate(zip(module.depthwise, module.pointwise, strict=True)):
            x = conv(F.relu(x), own(depthwise.weight), stride if i == 0 else 1, dilation, groups=c)
            x = bn(conv(x, own(pointwise.weight)))
        return x

    def skip() -> Tensor:
        if stride == 1:
            return x
        half = slice(group * c // 2, (group + 1) * c // 2)
        y = F.relu(x)
        even = F.conv2d(y, out.skip_even.weight[half], stride=2)
        odd = F.conv2d(y[:, :, 1:, 1:], out.skip_odd.weight[half], stride=2)
        return bn(torch.cat([even, odd], 1))

    def factorized() -> Tensor:
        row, column = (own(layer.weight) for layer in out.convolutions["conv_7x1_1x7"].layers)
        y = F.conv2d(F.relu(x), row, None, (1, stride), (0, 3))
        return bn(F.conv2d(y, column, None, (stride, 1), (3, 0)))

    def result(name: str) -> Tensor:
        if name == "none":
            return torch.zeros_like(F.max_pool2d(x, 3, stride, 1))
        if name == "max_pool_3x3":
            return bn(F.max_pool2d(x, 3, stride, 1))
        if name == "avg_pool_3x3":
            return bn(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
        if name == "skip_connect":
            return skip()
        if name == "conv_7x1_1x7":
            return factorized()
        return separable(x, out.convolutions[name], dilation=2 if name.startswith("dil") else 1)

    return sum((w * result(name) for w, name in zip(weights, names, strict=True)), torch.zeros(()))


def plain_cell(cell: SearchCell, before: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
    """DARTS's cell: node i = Σ over all states before it; the rows of `weights` in the order of edges()."""
    states = [cell.input0(before), cell.input1(previous)]
    nodes = len(cell.nodes.out_edges)
    row = 0
    for node in range(nodes):
        total = torch.zeros(())
        for state in range(node + 2):
            # the first OutEdges holds the edges of both inputs in turn; each later state has its own
            out = cell.nodes.out_edges[max(0, state - 1)]
            group = state * nodes + node if state < 2 else node - (state - 1)
            total = total + plain_mixture(out, group, states[state], weights[row])
            row += 1
        states.append(total)
    return torch.cat(states[2:], 1)


def small_supernet(nodes: int, dtype: torch.dtype, seed: int = 0, searcher=None, **layout) -> DartsSupernet:
    draw = torch.Generator().manual_seed(seed)
    layout = {"in_channels": 2, "classes": 3, "channels": 4, "cells": 3} | layout
    supernet = DartsSupernet(DartsSpace(), searcher or DartsSearcher(Darts()), nodes=nodes, **layout)
    supernet = supernet.to(dtype)
    initialize(supernet, draw)
    initialize_alphas(supernet, draw, scale=1.0)
    return supernet


def plain_forward(supernet: DartsSupernet, images: Tensor) -> Tensor:
    states = supernet.stem(images)
    for cell in supernet.shared:
        weights = torch.softmax(supernet.alphas[cell.kind], -1)
        states = states[1], plain_cell(cell, *(F.relu(state) for state in states), weights)
    return supernet.classifier(states[1].mean((2, 3)))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


EVERY = DARTS_PRIMITIVES[1:]


@pytest.mark.parametrize("stride", [1, 2])
def test_every_subset_of_the_operations_agrees_with_plain_edges(stride):
    """All 511 of DARTS's operations and NASNet's two: the maps, and the gradients of a random direction."""
    draw = torch.Generator().manual_seed(0)
    subsets = [
        [name for i, name in enumerate(EVERY) if choice >> i & 1] for choice in range(1, 2 ** len(EVERY))
    ]
    x = torch.randn(3, 4, 6, 4, generator=draw, dtype=torch.float64).requires_grad_()
    for names in subsets:
        primitives = Primitives.chosen(names, DARTS_SHARED, DARTS_OWN)
        out = OutEdges(primitives, 2, 1, 2, stride).double()  # two sources, one edge each
        for parameter in out.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        weights = torch.rand(2, len(names), generator=draw, dtype=torch.float64).requires_grad_()
        by_name = {name: weights[:, i] for i, name in enumerate(names)}
        shared = [by_name[name] for name in primitives.shared_at(stride)]
        linear = torch.stack(shared).flatten()[None] if shared else weights.new_zeros(1, 0)
        own = [by_name[name].repeat_interleave(2) for name in primitives.own]
        skip = by_name["skip_connect"].repeat_interleave(2) if primitives.reduces(stride) else None
        fast = out(x, linear, torch.stack(own) if own else weights.new_zeros(0, 4), skip)
        plain = sum(plain_mixture(out, s, x[:, 2 * s : 2 * s + 2], weights[s], names) for s in range(2))
        assert relative(fast, plain) < 1e-9, names
        wanted, gradient = [x, weights, *out.parameters()], torch.randn(plain.shape, generator=draw)
        for a, b in zip(
            *(torch.autograd.grad(y, wanted, gradient.double()) for y in (fast, plain)), strict=True
        ):
            assert float((a - b).norm()) < 1e-6 * float(b.norm()) + 1e-9, names


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_logits_and_both_gradients_agree_with_the_plain_cells(nodes):
    supernet = small_supernet(nodes, torch.float64)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(5, 2, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    parameters = list(supernet.parameters())
    fast, plain = supernet(images), plain_forward(supernet, images)
    assert relative(fast, plain) < 1e-10
    gradients = [torch.autograd.grad(F.cross_entropy(y, labels), parameters) for y in (fast, plain)]
    for a, b in zip(*gradients, strict=True):
        assert relative(a, b) < 1e-5 or float((a - b).norm()) < 1e-12


def test_agreement_survives_twenty_optimizer_steps_in_float32():
    # with seed 0, a map before a ReLU is so near 0 that its gradient depends on rounding
    networks = [small_supernet(2, torch.float32, seed=1) for _ in range(2)]
    forwards = [networks[0], lambda images: plain_forward(networks[1], images)]
    optimizers = [torch.optim.SGD(n.parameters(), 0.02, momentum=0.9) for n in networks]
    draw = torch.Generator().manual_seed(2)
    for _ in range(20):
        images = torch.randn(8, 2, 8, 8, generator=draw)
        labels = torch.randint(0, 3, (8,), generator=draw)
        for forward, optimizer in zip(forwards, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(forward(images), labels).backward()
            optimizer.step()
    images = torch.randn(8, 2, 8, 8, generator=draw)
    assert relative(forwards[0](images), forwards[1](images)) < 1e-3
    for a, b in zip(networks[0].alphas.values(), networks[1].alphas.values(), strict=True):
        assert relative(a, b) < 1e-4


@pytest.mark.parametrize("size", [7, 9, 5])
def test_images_of_odd_size_are_accepted(size):
    supernet = small_supernet(2, torch.float32)
    assert supernet(torch.randn(4, 2, size, size)).shape == (4, 3)


def test_number_of_weights_matches_the_authors_code():
    # "param size = 1.930618MB" in the logs of DARTS's train_search.py (16 channels, 8 cells, CIFAR-10)
    with torch.device("meta"):
        supernet = DartsSupernet(
            DartsSpace(), DartsSearcher(Darts()), nodes=4, in_channels=3, classes=10, channels=16, cells=8
        )
    assert count_weights(supernet) == 1_930_618
    assert [a.shape for a in supernet.alphas.values()] == [(14, 8), (14, 8)]


def test_rows_of_the_alphas_are_grouped_by_the_state_they_leave():
    supernet = small_supernet(3, torch.float32)
    rows = [own.tolist() for own in supernet.order.split(supernet.counts)]
    assert rows == [[0, 2, 5, 1, 3, 6], [4, 7], [8]]
    assert [DartsSpace().edges(3)[row] for row in rows[1]] == [(1, 2), (2, 2)]


def test_branches_have_their_own_last_cells_and_share_the_rest():
    supernet = small_supernet(1, torch.float32, cells=4, branches=2, branch_cells=1)
    assert (len(supernet.shared), [len(b) for b in supernet.branches]) == (3, [1, 1])
    images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    for branch in (0, 1):
        supernet.zero_grad()
        supernet.features(images, branch).square().sum().backward()
        grads = [
            sum(float(p.grad.abs().sum()) for p in b.parameters() if p.grad is not None)
            for b in supernet.branches
        ]
        assert grads[branch] > 0
        assert grads[1 - branch] == 0
        assert all(p.grad is not None for p in supernet.shared.parameters())
    assert supernet.classifier.in_features == 2 * supernet.features(images, 0).shape[1]


def test_a_forward_pass_changes_no_state():
    supernet = small_supernet(2, torch.float32)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    supernet(torch.randn(4, 2, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def mixture_of_operations(out: OutEdges, group: int, x: Tensor, weights: Tensor) -> Tensor:
    """`plain_mixture` by the derived network's operations, which take maps of odd size too."""
    kinds = {
        "sep_conv_3x3": out.convolutions["sep_conv_3x3"],
        "sep_conv_5x5": out.convolutions["sep_conv_5x5"],
        "dil_conv_3x3": out.convolutions["dil_conv_3x3"],
        "dil_conv_5x5": out.convolutions["dil_conv_5x5"],
    }
    mixed = torch.zeros(())
    for name, weight in list(zip(DartsSpace().primitives, weights, strict=True))[1:]:
        operation = make_operation(name, out.channels, out.stride, BatchNorm)
        convolutions = []
        if name in kinds:
            pairs = zip(kinds[name].depthwise, kinds[name].pointwise, strict=True)
            convolutions = list(itertools.chain(*pairs))
        elif name == "skip_connect" and out.stride == 2:
            convolutions = [out.skip_even, out.skip_odd]
        own = [convolution.weight.chunk(out.sources * out.edges)[group] for convolution in convolutions]
        names = [name for name, _ in operation.named_parameters()]
        state = F.relu(x) if reads_rectified(name, out.stride) else x
        y = torch.func.functional_call(operation, dict(zip(names, own, strict=True)), (state,))
        mixed = mixed + weight * (bn(y) if "pool" in name else y)
    return mixed


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (6, 5)])
@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_cell_agrees_with_the_derived_networks_operations(nodes, kind, size, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "plain_mixture", mixture_of_operations)
    supernet = small_supernet(nodes, dtype)
    cell = next(cell for cell in supernet.shared if cell.kind == kind)
    draw = torch.Generator().manual_seed(4)
    inputs = [
        torch.randn(5, entry[0].in_channels, *size, generator=draw, dtype=dtype).requires_grad_()
        for entry in (cell.input0, cell.input1)
    ]
    fast = cell(*inputs, supernet.context())
    plain = plain_cell(cell, *inputs, supernet.alphas[kind].softmax(-1))
    wanted = [*inputs, supernet.alphas[kind], *cell.parameters()]
    gradient = torch.randn(plain.shape, generator=draw, dtype=dtype)
    assert relative(fast, plain) < tolerance
    for a, b in zip(*(torch.autograd.grad(y, wanted, gradient) for y in (fast, plain)), strict=True):
        assert relative(a, b) < tolerance


def loss_of(supernet: DartsSupernet, batch: int = 8, size: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(6)
    images = torch.randn(batch, 2, size, size, generator=draw)
    return F.cross_entropy(supernet(images), torch.randint(0, 3, (batch,), generator=draw))


def kept_for_backward(supernet: DartsSupernet) -> tuple[Tensor, int]:
    """The loss, and the bytes its graph keeps besides the parameters."""
    own = {p.untyped_storage().data_ptr() for p in supernet.parameters()}
    kept = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()  # kept alive, so no address recurs
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(supernet)
    return loss, sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


def test_recomputing_changes_no_bit_and_keeps_less_than_half():
    results = []
    for recompute in (False, True):
        supernet = small_supernet(2, torch.float32, recompute=recompute)
        loss, kept = kept_for_backward(supernet)
        results.append((loss, kept, torch.autograd.grad(loss, list(supernet.parameters()))))
    (loss, kept, gradients), (same_loss, kept_less, same_gradients) = results
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert 0 < kept_less < kept / 2


@pytest.mark.parametrize("recompute", [False, True])
def test_frozen_weights_save_memory_and_get_no_gradients(recompute):
    supernet = small_supernet(2, torch.float32, recompute=recompute)
    alphas = list(supernet.alphas.values())
    loss, kept = kept_for_backward(supernet)
    gradients = torch.autograd.grad(loss, alphas)
    with bilevel.frozen(supernet.weights()):
        loss, kept_frozen = kept_for_backward(supernet)
        loss.backward()
    assert kept_frozen <= kept if recompute else kept_frozen < 0.85 * kept
    assert all(weight.grad is None for weight in supernet.weights())
    for a, b in zip(alphas, gradients, strict=True):
        assert relative(a.grad, b) < 1e-5


class Count(TorchDispatchMode):
    """Counts what is dispatched inside the block, by name."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_operators_of_a_search_step():
    supernet = DartsSupernet(
        DartsSpace(), DartsSearcher(Darts()), nodes=4, in_channels=3, classes=10, channels=16, cells=8
    )
    alphas, weights = list(supernet.alphas.values()), supernet.weights()
    adam = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3, fused=True)
    sgd = torch.optim.SGD(weights, 0.025, 0.9, weight_decay=3e-4, fused=True)
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([1, 2])

    def loss() -> Tensor:
        return F.cross_entropy(supernet(images), labels)

    def gradients(order: int) -> list[Tensor]:
        if order == 1:
            return bilevel.first_order(alphas, weights, loss)
        still = [torch.zeros_like(weight) for weight in weights]
        return bilevel.second_order(alphas, weights, loss, loss, still, 0.025)

    def step(order: int) -> None:
        for a, gradient in zip(alphas, gradients(order), strict=True):
            a.grad = gradient
        adam.step()
        with bilevel.frozen(alphas):
            optimizer_step(loss(), weights, sgd, 5.0)

    step(1)  # the optimizers' buffers are made in the first one
    counts = []
    for order in (1, 2):
        with Count() as counting:
            step(order)
        counts.append(counting.operators)
    # the reference, DARTS's cnn/model_search.py and train_search.py, dispatches 41,108 (docs/benchmarks.md)
    total = counts[0].total()  # a variable, so that a failure does not list all counts
    assert 1000 < total <= 41_108 // 5
    # unrolled: 13 convolutions or gradients of one where the plain step has 5, and what is recomputed
    convolutions = [count["convolution"] + count["convolution_backward"] for count in counts]
    assert 2.5 * convolutions[0] < convolutions[1] < 2.8 * convolutions[0]
