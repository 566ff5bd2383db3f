"""The supernet: every edge is a mixture of all operations, with weights from a searcher (DARTS, §2.2).

All edges that leave a cell's two inputs, or one node, are computed together (`OutEdges`), since they read the
same map: one depthwise convolution of that map, repeated for every edge, one grouped 1×1 convolution, pooling
and its batch norm once. The batch norms have no affine part: an edge's weight is passed as their scale, and
its gradient is that of the scale. Maps are channels-last, and 2-dilated convolutions are computed by phases
(ops/layouts.py).

With a `portion` above 1, the operations see one channel in so many (PC-DARTS, Xu et al. 2020, §3.2); the
others bypass them, and both are shuffled together. Edge weights (§3.3) scale those of the operations.

tests/nas/test_supernet.py and tests/nas/searchers/test_pc_darts.py compare this with plain cells that compute
one edge and one operation at a time; docs/benchmarks.md has the gain.

Batch norms always use the batch's statistics: a supernet is never evaluated on its own, and the alphas' steps
(with their trial weights) leave no trace in it.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hlrs.nas.genotype import PRIMITIVES, edges
from hlrs.nas.network import Cell, CellNetwork
from hlrs.nas.ops.depthwise import conv
from hlrs.nas.ops.layouts import Join, channels_last, every_second, from_phases, has_phases, to_phases
from hlrs.nas.ops.separable import Separable, batch_norm
from hlrs.nas.ops.triton_available import takes_kernels
from hlrs.nas.searchers.base import Searcher

# columns of the alphas: 0 is `none`, which adds nothing, then max pool, avg pool, skip, and four convolutions
LINEAR, SKIP, CONVOLUTIONS = slice(1, 4), 3, slice(4, 8)


class BatchNorm(nn.Module):
    """Batch norm by the batch's statistics, without affine part."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x)


class CellWeights(NamedTuple):
    """Weights of a cell's edges, arranged as its `OutEdges` read them, in their order."""

    linear: list[Tensor]  # [edge, operation · source] of the operations without parameters
    convolutions: Tensor  # [operation, all edges]
    skip: Tensor | None  # [source · edge], where the inputs' skip is a factorized reduction
    passing: list[Tensor | None]  # [edge, source] of the channels that bypass the operations; None: none do


class SeparableConv(nn.Module):
    """Weights of one or two depthwise convolutions, each followed by a grouped 1×1 convolution."""

    def __init__(self, groups: int, channels: int, kernel: int, *strides: int) -> None:
        super().__init__()
        wide, self.stride = groups * channels, strides[0]
        self.depthwise = nn.ModuleList(
            nn.Conv2d(wide, wide, kernel, groups=wide, bias=False) for _ in strides
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(wide, wide, 1, groups=groups, bias=False) for _ in strides)

    def weights(self) -> list[Tensor]:
        """Depthwise and 1×1 weights in the order of the stages."""
        convolutions = itertools.chain(*zip(self.depthwise, self.pointwise, strict=True))
        return [convolution.weight for convolution in convolutions]  # type: ignore[misc]

    def forward(self, x: Tensor, scale: Tensor, dilation: int = 1) -> Tensor:
        return Separable.apply(x, scale, self.stride, dilation, *self.weights())  # type: ignore[no-any-return]


class OutEdges(nn.Module):
    """All edges from some states (a cell's two inputs, or one node) to the nodes after them.

    Their maps lie side by side: channel = (source · edges + edge) · channels + c, where `channels` counts
    those the operations see: one in `portion` of each source's.
    """

    over_edges: Tensor

    def __init__(self, sources: int, edges: int, channels: int, stride: int, portion: int = 1) -> None:
        super().__init__()
        self.portion, channels = portion, channels // portion
        self.sources, self.edges, self.channels, self.stride = sources, edges, channels, stride
        groups = sources * edges
        self.sep3, self.sep5 = (SeparableConv(groups, channels, kernel, stride, 1) for kernel in (3, 5))
        # at stride 2, a 2-dilated convolution is an undilated one of the even rows and columns
        self.dil3, self.dil5 = (SeparableConv(groups, channels, kernel, 1) for kernel in (3, 5))
        if stride == 2:
            halves = sources * channels, groups * channels // 2
            self.skip_even, self.skip_odd = (
                nn.Conv2d(*halves, 1, groups=sources, bias=False) for _ in range(2)
            )
        self.register_buffer("over_edges", torch.eye(channels).repeat(sources, edges)[..., None, None], False)

    def forward(
        self,
        x: Tensor,
        linear: Tensor,
        scales: Tensor,
        skip: Tensor | None = None,
        passing: Tensor | None = None,
    ) -> Tensor:
        """Mixtures, summed over the sources: [batch, edge · portion · channels, height, width].

        x [batch, source · portion · channels, height, width]. Weights: `linear` of the operations without
        parameters [edge, operation · source], `scales` of the convolutions [4, source · edge · channels],
        `skip` of a factorized reduction [source · edge · channels], `passing` of the bypassing channels
        [edge, source]; None where there are none.
        """
        if passing is None:
            return self._search(x, linear, scales, skip)
        searched, rest = Divide.apply(x, self.sources, self.portion)
        mixed = self._search(searched, linear, scales, skip)
        if self.stride == 2:  # rounds odd sizes up, as the operations do
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        return Shuffle.apply(mixed, Mix.apply(passing, rest), self.edges)  # type: ignore[no-any-return]

    def _search(self, x: Tensor, linear: Tensor, scales: Tensor, skip: Tensor | None) -> Tensor:
        """Mix all operations."""
        rectified = F.threshold(x, 0, 0)  # a ReLU that saves its input for the backward pass, as the pools do
        mixed = self._convolutions(rectified, scales)
        if skip is not None:
            mixed += self._over_sources(self._skip(rectified, skip))
        mixed += self._linear(x, linear)
        return mixed

    def _convolutions(self, rectified: Tensor, scales: Tensor) -> Tensor:
        """The four convolutions, each batch norm times its scale, summed over the sources."""
        if not takes_kernels(rectified, self.edges):
            return self._plain_convolutions(rectified, scales)
        from hlrs.nas.ops.triton_separable import Mixture  # Triton takes its time to import

        convolutions = (self.sep3, self.sep5, self.dil3, self.dil5)
        weights = [weight for convolution in convolutions for weight in convolution.weights()]
        geometry = self.sources, self.stride
        return Mixture.apply(self._plain_convolutions, rectified, scales, *geometry, *weights)  # type: ignore[no-any-return]

    def _plain_convolutions(self, rectified: Tensor, scales: Tensor) -> Tensor:
        """One operation at a time."""
        repeated = self._repeat(rectified)
        sep3, sep5, dil3, dil5 = scales.unbind()
        mixed = self.sep3(repeated, sep3)
        mixed += self.sep5(repeated, sep5)
        mixed += self._dilated(rectified, dil3, dil5)
        return self._over_sources(mixed)

    def _over_sources(self, maps: Tensor) -> Tensor:
        return torch.add(*maps.chunk(self.sources, 1)) if self.sources > 1 else maps

    def _dilated(self, rectified: Tensor, scale3: Tensor, scale5: Tensor) -> Tensor:
        phased = self.stride == 1 and has_phases(rectified) and not takes_kernels(rectified, self.edges)
        read = to_phases(rectified) if phased else every_second(rectified) if self.stride == 2 else rectified
        x = self._repeat(read)
        dilation = 1 if phased or self.stride == 2 else 2
        mixed = self.dil3(x, scale3, dilation)
        mixed += self.dil5(x, scale5, dilation)
        return from_phases(mixed) if phased else mixed

    def _linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """The operations without parameters, whose maps are the same for all edges."""
        if not takes_kernels(x, max(2, self.edges)):  # both pools' maps are one
            return self._plain_linear(x, weights)
        from hlrs.nas.ops.triton_pooling import Pooled  # Triton takes its time to import

        return Pooled.apply(self._plain_linear, x, weights, self.sources, self.stride)  # type: ignore[no-any-return]

    def _plain_linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """One operation at a time."""
        maps = [
            batch_norm(F.max_pool2d(x, 3, self.stride, 1)),
            batch_norm(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)),
            *([x] if self.stride == 1 else []),
        ]
        return Mix.apply(weights, *maps)  # type: ignore[no-any-return]

    def _skip(self, rectified: Tensor, scale: Tensor) -> Tensor:
        """Factorized reductions."""
        halves = [self.skip_even(every_second(rectified)), self.skip_odd(every_second(rectified, 1))]
        groups = self.sources * self.edges
        joined = torch.cat([half.unflatten(1, (groups, -1)) for half in halves], 2).flatten(1, 2)
        return batch_norm(joined.contiguous(memory_format=torch.channels_last), scale)

    def _repeat(self, x: Tensor) -> Tensor:
        return Repeat.apply(x, self.edges, self.over_edges)  # type: ignore[no-any-return]


class Repeat(torch.autograd.Function):
    """Repeats every source's channels for each edge: [n, s · c, h, w] to [n, s · e · c, h, w].

    The gradient is a sum over the edges. On a CPU, a 1×1 convolution by `over_edges` [s · c, e · c, 1, 1],
    ones where the channels agree, is faster than a reduction.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: int, over_edges: Tensor) -> Tensor:
        ctx.save_for_backward(over_edges)
        ctx.sources = edges * len(over_edges) // over_edges.shape[1]
        sources = [x] if ctx.sources == 1 else x.chunk(ctx.sources, 1)
        return torch.cat([source for source in sources for _ in range(edges)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (over_edges,) = ctx.saved_tensors
        if gradient.is_cuda:  # a reduction is fast enough there, and does not round to tf32 first
            by_edge = _by_pixel(gradient).unflatten(3, (ctx.sources, -1, len(over_edges) // ctx.sources))
            return _as_map(by_edge.sum(4)), None, None
        return conv(gradient, over_edges), None, None


class Mix(torch.autograd.Function):
    """Σ_k weights[edge, k · source] · map_k of the source: [n, edge · c, h, w] of maps [n, source · c, h, w].

    One matrix product for all edges; the maps and the result are channels-last.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *maps: Tensor) -> Tensor:
        ctx.shape, ctx.count = maps[0].shape, len(maps)
        ctx.save_for_backward(weights, *(maps if ctx.needs_input_grad[0] else ()))
        n, channels, h, w = ctx.shape
        edges, own = len(weights), channels * len(maps) // weights.shape[1]
        mixed = weights.to(maps[0].dtype) @ _rows(maps, weights.shape[1])
        interleaved = mixed.as_strided((n * h * w, edges, own), (own, n * h * w * own, 1)).contiguous()
        return channels_last(interleaved, (n, edges * own, h, w))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *maps = ctx.saved_tensors
        n, channels, h, w = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        edges, own = len(weights), gradient.shape[1] // len(weights)
        by_edge = gradient.as_strided((edges, n * h * w, own), (own, edges * own, 1)).reshape(edges, -1)
        for_weights = by_edge @ _rows(maps, weights.shape[1]).T if ctx.needs_input_grad[0] else None
        for_rows = weights.T.to(by_edge.dtype) @ by_edge
        sources = weights.shape[1] // ctx.count
        if sources > 1:
            for_rows = for_rows.view(ctx.count, sources, n * h * w, -1).transpose(1, 2)
        return for_weights, *for_rows.reshape(ctx.count, n, h, w, channels).permute(0, 1, 4, 2, 3).unbind()


def _rows(maps: Sequence[Tensor], count: int) -> Tensor:
    """Channels-last maps [n, s · c, h, w], one for each k: [k · s, n · h · w · c]."""
    joined = torch.cat(list(maps)).permute(0, 2, 3, 1)
    if count > len(maps):
        own = joined.shape[3] * len(maps) // count
        joined = joined.reshape(len(maps), -1, count // len(maps), own).transpose(1, 2)
    return joined.reshape(count, -1)


class Divide(torch.autograd.Function):
    """Splits off the first of `portion` parts of every source's channels.

    x [n, s · p · c, h, w] to [n, s · c, h, w] and [n, s · (p − 1) · c, h, w], all channels-last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sources: int, portion: int) -> tuple[Tensor, Tensor]:
        ctx.sources = sources
        parts = _by_pixel(x).unflatten(3, (sources, portion, -1))
        return _as_map(parts[..., :1, :]), _as_map(parts[..., 1:, :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        channels = gradients[0].shape[1] // ctx.sources
        parts = [_by_pixel(g).unflatten(3, (ctx.sources, -1, channels)) for g in gradients]
        return _as_map(torch.cat(parts, 4)), None, None


class Shuffle(torch.autograd.Function):
    """Shuffles each edge's searched channels and those that bypassed the operations together.

    Maps [n, e · c, h, w] and [n, e · (p − 1) · c, h, w] to [n, e · p · c, h, w], all channels-last. Channel k
    of an edge's part q (0: searched) becomes the edge's channel k · p + q (the authors' channel_shuffle).
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, passed: Tensor, edges: int) -> Tensor:
        ctx.edges, ctx.channels = edges, mixed.shape[1] // edges
        parts = [_by_pixel(x).unflatten(3, (edges, -1, ctx.channels)) for x in (mixed, passed)]
        n, _, h, w = mixed.shape
        channels = mixed.shape[1] + passed.shape[1]
        # written into a new map: a view may not be added to in place
        joined = torch.empty(
            (n, channels, h, w), dtype=mixed.dtype, device=mixed.device, memory_format=torch.channels_last
        )
        by_edge = _by_pixel(joined).unflatten(3, (edges, ctx.channels, -1))
        torch.cat([part.transpose(4, 5) for part in parts], 5, out=by_edge)
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = _by_pixel(gradient).unflatten(3, (ctx.edges, ctx.channels, -1)).transpose(4, 5)
        return _as_map(parts[..., :1, :]), _as_map(parts[..., 1:, :]), None


def _by_pixel(x: Tensor) -> Tensor:
    """[n, c, h, w] as [n, h, w, c], contiguous."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def _as_map(x: Tensor) -> Tensor:
    """[n, h, w, …] as a channels-last map [n, c, h, w]."""
    return x.contiguous().flatten(3).permute(0, 3, 1, 2)


class SearchCell(Cell):
    """A cell whose `nodes` nodes each sum the mixtures from all states before; its output is all nodes."""

    def __init__(
        self,
        nodes: int,
        portion: int,
        recompute: bool,
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__(before, previous, channels, after_reduction, BatchNorm)
        self.kind, self.channels, self.recompute = "reduce" if reduction else "normal", channels, recompute
        # the two inputs feed all nodes, the first node all others, and so on
        inputs = OutEdges(2, nodes, channels, 2 if reduction else 1, portion)
        behind = range(nodes - 1, 0, -1)
        self.out_edges = nn.ModuleList([inputs, *(OutEdges(1, n, channels, 1, portion) for n in behind)])
        self.searched = channels // portion
        self.widths = [2 * nodes * self.searched, *(n * self.searched for n in behind)]

    def forward(self, before: Tensor, previous: Tensor, weights: dict[str, CellWeights]) -> Tensor:
        """Output of the cell, given the weights by kind of cell."""
        own = weights[self.kind]
        if self.recompute and torch.is_grad_enabled():
            recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            return recomputed(self._mix, before, previous, own)  # type: ignore[no-any-return]
        return self._mix(before, previous, own)

    def _mix(self, before: Tensor, previous: Tensor, own: CellWeights) -> Tensor:
        scales = self._per_channel(own.convolutions).split(self.widths, 1)
        skip = None if own.skip is None else self._per_channel(own.skip[None]).squeeze(0)
        inputs = Join.apply(self.input0(before), self.input1(previous))
        sums = self.out_edges[0](inputs, own.linear[0], scales[0], skip, own.passing[0])  # of nodes to come
        nodes = []
        each = list(zip(self.out_edges, own.linear, scales, own.passing, strict=True))
        for out_edges, linear, scale, passing in each[1:]:
            node, rest = sums.split([self.channels, sums.shape[1] - self.channels], 1)
            nodes.append(node.contiguous(memory_format=torch.channels_last))
            sums = out_edges(nodes[-1], linear, scale, passing=passing)
            sums += rest
        return Join.apply(*nodes, sums)  # type: ignore[no-any-return]

    def _per_channel(self, weights: Tensor) -> Tensor:
        """[rows, edges] to [rows, edges · searched channels], contiguous.

        PyTorch's batch norm accepts scales of another layout, but returns wrong gradients for them.
        """
        return weights[..., None].expand(-1, -1, self.searched).flatten(1).contiguous()


class Supernet(CellNetwork):
    """The network that contains all architectures of the search space, weighed by a searcher.

    `alphas` holds one parameter [edges, operations] per kind of cell, `betas` one [edges] where the searcher
    normalizes edges. Channels must be divisible by the searcher's `portion`. `drawn` is what the searcher
    drew for the forward passes to come. With `recompute`, a cell's inner maps are recomputed in the backward
    pass instead of being kept for it.
    """

    order: Tensor
    drawn: Tensor | None = None

    def __init__(self, searcher: Searcher, *, nodes: int, recompute: bool = False, **layout: Any) -> None:
        super().__init__(partial(SearchCell, nodes, searcher.portion, recompute), _stem_norm, nodes, **layout)
        self.searcher, self.portion = searcher, searcher.portion
        connections, kinds = edges(nodes), ("normal", "reduce")
        self.shape = len(kinds), len(connections), len(PRIMITIVES)
        self.incoming = [node + 2 for node in range(nodes)]  # edges per node
        self.alphas = nn.ParameterDict({kind: nn.Parameter(torch.zeros(self.shape[1:])) for kind in kinds})
        normalized = kinds if searcher.edge_normalization else ()
        self.betas = nn.ParameterDict({kind: nn.Parameter(torch.zeros(self.shape[1])) for kind in normalized})
        # rows of the alphas in the order of a cell's out-edges: source by source, edge by edge
        sources = [(0, 1), *((state,) for state in range(2, nodes + 1))]
        rows = [
            [row for state in states for row, (_, read) in enumerate(connections) if read == state]
            for states in sources
        ]
        self.counts = [len(own) for own in rows]
        self.register_buffer("order", torch.tensor(list(itertools.chain(*rows))), persistent=False)

    def context(self) -> dict[str, CellWeights]:
        """Weigh operations and edges of both kinds of cell."""
        drawn = [None] * len(self.alphas) if self.drawn is None else self.drawn.unbind()
        return {
            kind: self._arrange(kind, self.searcher.operation_weights(alphas, own))
            for (kind, alphas), own in zip(self.alphas.items(), drawn, strict=True)
        }

    def edge_weights(self, kind: str) -> Tensor | None:
        """Weights of the edges of one kind of cell: [edges]; None where all are 1."""
        return self.searcher.edge_weights(self.betas.get(kind), self.incoming)

    def _arrange(self, kind: str, weights: Tensor) -> CellWeights:
        by_edge = self.edge_weights(kind)
        if by_edge is not None:
            weights = weights * by_edge[:, None]
        weights, counts = weights[self.order], self.counts
        linear = []
        for i, own in enumerate(weights[:, LINEAR].split(counts)):
            own = own[:, :-1] if i == 0 and kind == "reduce" else own
            sources = 2 if i == 0 else 1
            linear.append(own.unflatten(0, (sources, -1)).permute(1, 2, 0).flatten(1))
        skip = weights[: counts[0], SKIP] if kind == "reduce" else None
        passing: list[Tensor | None] = [None] * len(counts)
        if self.portion > 1:
            by_edge = weights.new_ones(len(self.order)) if by_edge is None else by_edge[self.order]
            inputs, *others = by_edge.split(counts)
            passing = [inputs.unflatten(0, (2, -1)).T, *(own[:, None] for own in others)]
        return CellWeights(linear, weights[:, CONVOLUTIONS].T, skip, passing)

    def architecture(self) -> dict[str, nn.Parameter]:
        """The alphas, and the betas where there are any, by name: alphas.normal, alphas.reduce, ..."""
        named = {"alphas": self.alphas, "betas": self.betas}
        return {f"{name}.{kind}": p for name, group in named.items() for kind, p in group.items()}

    def weights(self) -> list[nn.Parameter]:
        """All parameters but the architecture's."""
        architecture = self.architecture()
        return [p for name, p in self.named_parameters() if name not in architecture]


def _stem_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def initialize_alphas(supernet: Supernet, generator: torch.Generator, scale: float = 1e-3) -> None:
    """Draw alphas and betas from N(0, scale²): with DARTS's 10⁻³, all operations start nearly alike."""
    with torch.no_grad():
        for parameter in supernet.architecture().values():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
