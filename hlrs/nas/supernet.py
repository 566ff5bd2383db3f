"""The supernet: every edge is the mixture of all primitives, weighted by softmax(alpha) (DARTS, §2.2).

All edges that leave one state are computed together, since they read the same map: one convolution of
`edges` × `channels` channels instead of `edges` small ones, pooling and its batch norm once. The batch norms
have no affine part, so an edge's weight is passed as their scale and its gradient comes out of theirs.
tests/test_supernet.py holds the plain cell, an edge and a primitive at a time, that pins this one.

Batch norms use the batch's statistics always: a supernet is never evaluated by itself, and the alphas' steps
(with their trial weights) leave no trace in it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.nas.genotype import PRIMITIVES, edges
from hlrs.nas.network import Cell, CellNetwork
from hlrs.nas.primitives import depthwise, shifted

MAX_POOL, AVG_POOL, SKIP = 1, 2, 3  # columns of the alphas; 0 is `none`, which adds nothing
CONVOLUTIONS = slice(4, 8)  # sep 3×3, sep 5×5, dil 3×3, dil 5×5


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm without affine part and running statistics."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def normalize(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Batch norm over the batch's statistics, times `scale` [channels]."""
    return F.batch_norm(x, None, None, weight=scale, training=True)


def grouped_pointwise(groups: int, channels: int) -> nn.Conv2d:
    """`groups` independent 1×1 convolutions of `channels` channels, side by side."""
    return nn.Conv2d(groups * channels, groups * channels, 1, groups=groups, bias=False)


class OutEdges(nn.Module):
    """All edges that leave one state: the mixtures [batch, edges, channels, height, width]."""

    def __init__(self, channels: int, edges: int, stride: int) -> None:
        super().__init__()
        self.channels, self.edges, self.stride = channels, edges, stride
        wide = edges * channels  # channel = edge · channels + c
        self.sep3, self.sep5 = depthwise(wide, 3, stride), depthwise(wide, 5, stride)
        self.dil3, self.dil5 = depthwise(wide, 3, stride, 2), depthwise(wide, 5, stride, 2)
        self.pointwise = grouped_pointwise(4 * edges, channels)
        self.sep3_second, self.sep5_second = depthwise(wide, 3, 1), depthwise(wide, 5, 1)
        self.pointwise_second = grouped_pointwise(2 * edges, channels)
        if stride == 2:
            self.skip_even = nn.Conv2d(channels, wide // 2, 1, stride=2, bias=False)
            self.skip_odd = nn.Conv2d(channels, wide // 2, 1, stride=2, bias=False)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [batch, channels, height, width]; weights [edges, 8], in the order of PRIMITIVES."""
        rectified = F.relu(x)
        mixed = self._convolutions(rectified, weights[:, CONVOLUTIONS]) + self._pools(x, weights)
        if self.stride == 2:
            mixed = mixed + self._reducing_skip(rectified, weights[:, SKIP])
        return mixed

    def _convolutions(self, rectified: Tensor, weights: Tensor) -> Tensor:
        spread = rectified.repeat(1, self.edges, 1, 1)
        maps = [convolution(spread) for convolution in (self.sep3, self.sep5, self.dil3, self.dil5)]
        separable, dilated = self.pointwise(torch.cat(maps, 1)).chunk(2, 1)
        sep3, sep5 = F.relu(normalize(separable)).chunk(2, 1)
        separable = self.pointwise_second(torch.cat([self.sep3_second(sep3), self.sep5_second(sep5)], 1))
        scale = weights.T.repeat_interleave(self.channels, 1).flatten()  # primitive, edge, channel
        mixed = normalize(torch.cat([separable, dilated], 1), scale)
        return torch.unflatten(mixed, 1, (4, self.edges, self.channels)).sum(1)

    def _pools(self, x: Tensor, weights: Tensor) -> Tensor:
        """The primitives without weights of their own: the same map for every edge."""
        pooled = [
            F.max_pool2d(x, 3, self.stride, padding=1),
            F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False),
        ]
        maps = normalize(torch.cat(pooled, 1)).unflatten(1, (2, self.channels))
        chosen = [MAX_POOL, AVG_POOL]
        if self.stride == 1:
            maps, chosen = torch.cat([maps, x.unsqueeze(1)], 1), [*chosen, SKIP]
        return torch.einsum("ek,bkchw->bechw", weights[:, chosen], maps)

    def _reducing_skip(self, rectified: Tensor, weights: Tensor) -> Tensor:
        halves = [self.skip_even(rectified), self.skip_odd(shifted(rectified))]
        joined = torch.cat([half.unflatten(1, (self.edges, -1)) for half in halves], 2).flatten(1, 2)
        mixed = normalize(joined, weights.repeat_interleave(self.channels))
        return torch.unflatten(mixed, 1, (self.edges, self.channels))


class SearchCell(Cell):
    """A cell of `nodes` nodes, each the sum of the mixtures from all states before it; output: all nodes."""

    def __init__(
        self, nodes: int, before: int, previous: int, channels: int, reduction: bool, after_reduction: bool
    ) -> None:
        super().__init__(before, previous, channels, after_reduction, batch_norm)
        self.kind = "reduce" if reduction else "normal"
        # states 0 and 1 feed all nodes, state 2 (the first node) all but itself, and so on
        counts = [nodes, *range(nodes, 0, -1)]
        strides = [2 if reduction and state < 2 else 1 for state in range(nodes + 1)]
        self.out_edges = nn.ModuleList(OutEdges(channels, n, s) for n, s in zip(counts, strides, strict=True))

    def forward(self, before: Tensor, previous: Tensor, weights: dict[str, list[Tensor]]) -> Tensor:
        """weights: for each kind of cell and each state, the softmax weights of its out-edges [edges, 8]."""
        own = weights[self.kind]
        first, second, *rest = zip(self.out_edges, own, strict=True)
        sums = first[0](self.input0(before), first[1]) + second[0](self.input1(previous), second[1])
        nodes = [sums[:, 0]]
        for out_edges, edge_weights in rest:
            sums = sums[:, 1:] + out_edges(nodes[-1], edge_weights)
            nodes.append(sums[:, 0])
        return torch.cat(nodes, 1)


class Supernet(CellNetwork):
    """The network that is searched in; `alphas` holds one parameter [edges, 8] for each kind of cell."""

    def __init__(self, *, nodes: int, **layout: Any) -> None:
        super().__init__(partial(SearchCell, nodes), _stem_norm, nodes, **layout)
        connections = edges(nodes)
        self.alphas = nn.ParameterDict(
            {
                kind: nn.Parameter(torch.zeros(len(connections), len(PRIMITIVES)))
                for kind in ("normal", "reduce")
            }
        )
        # rows of the alphas that belong to the out-edges of each state
        self.rows = [[i for i, (_, s) in enumerate(connections) if s == state] for state in range(nodes + 1)]

    def context(self) -> dict[str, list[Tensor]]:
        """Softmax weights of every state's out-edges."""
        weights = {kind: alphas.softmax(-1) for kind, alphas in self.alphas.items()}
        return {kind: [w[rows] for rows in self.rows] for kind, w in weights.items()}

    def weights(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        return [p for name, p in self.named_parameters() if not name.startswith("alphas.")]


def _stem_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def initialize_alphas(supernet: Supernet, generator: torch.Generator, scale: float = 1e-3) -> None:
    """alpha ~ N(0, scale²); DARTS's code uses 10⁻³, so that all primitives start alike."""
    with torch.no_grad():
        for alphas in supernet.alphas.values():
            alphas.copy_(scale * torch.randn(alphas.shape, generator=generator))
