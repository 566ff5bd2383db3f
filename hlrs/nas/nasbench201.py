"""Networks of NAS-Bench-201 (Dong & Yang 2020, §2.1): the supernet, and that of one cell."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Head
from hlrs.config.spaces import NasBench201Space
from hlrs.nas.genotype import NasBench201Genotype, Node
from hlrs.nas.mixed_edges import NASBENCH201_OWN, NASBENCH201_SHARED, Primitives
from hlrs.nas.network import LINEAR, BranchedNetwork
from hlrs.nas.operations import Norm
from hlrs.nas.ops.convolution import Conv
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.supernet import CellWeights, MixedNodes, Supernet, stem_norm

STAGES = 3


class ReluConvNorm(nn.Sequential):
    """A ReLU, a convolution, and a batch norm."""

    def __init__(
        self,
        before: int,
        channels: int,
        kernel: int,
        norm: Norm,
        stride: int = 1,
        primitive: bool = False,
    ) -> None:
        convolution = Conv(before, channels, kernel, stride, kernel // 2, primitive=primitive)
        super().__init__(nn.ReLU(), convolution, norm(channels))


class Reduction(nn.Module):
    """The fixed residual block between two stages, which halves the map and doubles its channels.

    The shortcut averages 2×2 pixels before its 1×1 convolution; odd sizes are rounded up (our own reading).
    """

    def __init__(self, before: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ReluConvNorm(before, 2 * before, 3, norm, stride=2), ReluConvNorm(2 * before, 2 * before, 3, norm)
        )
        self.shortcut = Conv(before, 2 * before, 1)

    def forward(self, x: Tensor, context: Any) -> Tensor:
        averaged = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        return self.shortcut(averaged) + self.residual(x)  # type: ignore[no-any-return]


class StagedNetwork(BranchedNetwork):
    """Stem, three stages of `cells` / 3 cells with residual reductions between, batch norm, ReLU, pooling.

    `make_cell` makes a cell of so many channels, which is called with its input and the network's context.
    With two `branches`, each has its own last `branch_cells` cells and what follows them. Images, `head`
    and `dual` as in `BranchedNetwork`.
    """

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        norm: Norm,
        *,
        in_channels: int,
        classes: int,
        channels: int,
        cells: int,
        stem: str = "cifar",
        branches: int = 1,
        branch_cells: int = 0,
        head: Head = LINEAR,
        dual: bool = False,
    ) -> None:
        assert stem == "cifar"  # config.params refuses others
        width = channels * 2 ** (STAGES - 1)
        super().__init__(width, classes, branches, head, dual)
        self.stem = nn.Sequential(Conv(in_channels, channels, 3, padding=1), norm(channels))
        plan = _plan(make_cell, norm, channels, cells)
        shared, own = plan, plan[:0]
        while branches > 1 and sum(searched for searched, _ in own) < branch_cells:
            shared, own = shared[:-1], [shared[-1], *own]
        self.shared = nn.ModuleList(make() for _, make in shared)
        self.branches = nn.ModuleList(
            nn.ModuleList([*(make() for _, make in own), norm(width)]) for _ in range(branches)
        )

    def context(self) -> Any:
        """Return what every cell receives besides its input."""
        return None

    def backbone(self, images: Tensor) -> tuple[Tensor, Any]:
        """Compute the last shared map, [batch, channels, height, width]; return it with the context."""
        context = self.context()
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        for module in self.shared:
            x = module(x, context)
        return x, context

    def tail(self, shared: tuple[Tensor, Any], branch: int) -> Tensor:
        """Compute the pooled features of one branch: [batch, width]."""
        x, context = shared
        *own, norm = self.branches[branch].children()
        for module in own:
            x = module(x, context)
        return F.relu(norm(x)).mean((2, 3))


def _plan(
    make_cell: Callable[[int], nn.Module], norm: Norm, channels: int, cells: int
) -> list[tuple[bool, Callable[[], nn.Module]]]:
    """List what makes each cell and reduction, and whether it is a cell, in their order."""
    plan: list[tuple[bool, Callable[[], nn.Module]]] = []
    for stage in range(STAGES):
        if stage:
            plan.append((False, partial(Reduction, channels, norm)))
            channels *= 2
        plan += itertools.repeat((True, partial(make_cell, channels)), cells // STAGES)
    return plan


# --- one cell -------------------------------------------------------------------------------------------


class Zero(nn.Module):
    """The operation `none`: x · 0, which keeps the weights before it in the graph (the authors' code)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def make_operation(name: str, channels: int, norm: Norm = nn.BatchNorm2d) -> nn.Module:
    """Make the module of an operation."""
    if name.startswith("nor_conv"):
        return ReluConvNorm(channels, channels, int(name[-1]), norm, primitive=True)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return Zero() if name == "none" else nn.Identity()


class GenotypeCell(nn.Module):
    """A genotype's cell: each node sums its edges; the last node is the output."""

    def __init__(self, nodes: list[Node], channels: int) -> None:
        super().__init__()
        self.reads = [[state for _, state in node] for node in nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(make_operation(name, channels) for name, _ in node) for node in nodes
        )

    def forward(self, x: Tensor, context: None) -> Tensor:
        states = [x]
        for node, reads in zip(self.nodes, self.reads, strict=True):
            edges = zip(node.children(), reads, strict=True)
            total, *others = [operation(states[state]) for operation, state in edges]
            for term in others:
                total = total + term
            states.append(total)
        return states[-1]


class NasBench201Network(StagedNetwork):
    """The network of a genotype; keyword arguments as in `StagedNetwork`."""

    def __init__(self, genotype: NasBench201Genotype, **layout: Any) -> None:
        super().__init__(partial(GenotypeCell, genotype.normal), nn.BatchNorm2d, **layout)


# --- all cells ------------------------------------------------------------------------------------------


class SearchedCell(nn.Module):
    """A cell with all operations on each edge."""

    def __init__(
        self, primitives: Primitives, nodes: int, portion: int, recompute: bool, channels: int
    ) -> None:
        super().__init__()
        self.nodes = MixedNodes(primitives, 1, nodes, channels, 1, portion, recompute)

    def forward(self, x: Tensor, weights: dict[str, CellWeights]) -> Tensor:
        """Output of the cell, given the weights by kind of cell."""
        return self.nodes(x, weights["normal"])[-1]  # type: ignore[no-any-return]


class NasBench201Supernet(Supernet, StagedNetwork):
    """The supernet of NAS-Bench-201's space; keyword arguments as in `StagedNetwork`.

    Channels must be divisible by the searcher's `portion`.
    """

    def __init__(
        self,
        space: NasBench201Space,
        searcher: Searcher,
        *,
        nodes: int,
        recompute: bool = False,
        **layout: Any,
    ) -> None:
        primitives = Primitives.chosen(space.primitives, NASBENCH201_SHARED, NASBENCH201_OWN)
        make_cell = partial(SearchedCell, primitives, nodes - 1, searcher.portion, recompute)
        super().__init__(primitives, space, nodes, searcher, make_cell, stem_norm, **layout)
