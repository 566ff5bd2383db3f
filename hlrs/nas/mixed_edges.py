"""The edges of a supernet: each is a mixture of all operations, with weights from a searcher (DARTS, §2.2).

All edges that leave a cell's inputs, or one node, are computed together (`OutEdges`), since they read the
same map: one depthwise convolution of that map, repeated for every edge, one grouped 1×1 convolution, pooling
and its batch norm once. The batch norms have no affine part: an edge's weight is passed as their scale, and
its gradient is that of the scale. Maps are channels-last, and 2-dilated convolutions are computed by phases
(ops/layouts.py).

A space lists its operations in a table (`Primitives`); any subset of one can be searched. The GPU's kernels
know DARTS's four separable convolutions and its pools, and take over wherever all of these are there; any
other operation is computed by PyTorch beside them.

With a `portion` above 1, the operations see one channel in so many (PC-DARTS, Xu et al. 2020, §3.2); the
others bypass them, and both are shuffled together. Edge weights (§3.3) scale those of the operations.

tests/nas/test_supernet.py and tests/nas/searchers/test_pc_darts.py compare this with plain cells that compute
one edge and one operation at a time; docs/benchmarks.md has the gain.

Batch norms always use the batch's statistics: a supernet is never evaluated on its own, and the alphas' steps
(with their trial weights) leave no trace in it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.base import Choices
from hlrs.nas.ops.convolution import Conv
from hlrs.nas.ops.depthwise import conv
from hlrs.nas.ops.layouts import channels_last, every_second, from_phases, has_phases, to_phases
from hlrs.nas.ops.separable import Separable, batch_norm
from hlrs.nas.ops.triton_available import takes_kernels

# those that the GPU's kernels compute together
FUSED_CONVOLUTIONS = ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
FUSED_POOLS = ["max_pool_3x3", "avg_pool_3x3"]


class BatchNorm(nn.Module):
    """Batch norm by the batch's statistics, without affine part."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x)


# --- operations with weights ----------------------------------------------------------------------------


Reading = Literal["once", "repeated", "dilated"]


class Convolutions(nn.Module):
    """Base of an operation's weights on all edges from some states.

    Called with the rectified maps as it `reads` them and `scale`, float [source · edge · channels], of the
    batch norm at its end, it returns the maps of all edges: [batch, source · edge · channels, height, width].
    """

    reads: ClassVar[Reading]  # for all edges, by edge, with every second pixel


class SeparableConv(Convolutions):
    """One or two depthwise convolutions, each followed by a grouped 1×1 convolution."""

    reads: ClassVar[Reading] = "repeated"

    def __init__(self, kernel: int, sources: int, edges: int, channels: int, *strides: int) -> None:
        super().__init__()
        groups = sources * edges
        wide, self.stride = groups * channels, strides[0]
        of_edges = partial(Conv, wide, wide, primitive=True, parts=(groups, groups))
        self.depthwise = nn.ModuleList(of_edges(kernel, groups=wide) for _ in strides)
        self.pointwise = nn.ModuleList(of_edges(1, groups=groups) for _ in strides)

    def weights(self) -> list[Tensor]:
        """Depthwise and 1×1 weights in the order of the stages."""
        convolutions = itertools.chain(*zip(self.depthwise, self.pointwise, strict=True))
        return [convolution.weight for convolution in convolutions]  # type: ignore[misc]

    @property
    def approximate(self) -> bool:
        """Whether products are approximate."""
        return self.depthwise[0].product is not None

    def forward(self, x: Tensor, scale: Tensor, dilation: int = 1) -> Tensor:
        if self.approximate:
            return self._approximated(x, scale, dilation)
        return Separable.apply(x, scale, self.stride, dilation, *self.weights())  # type: ignore[no-any-return]

    def _approximated(self, x: Tensor, scale: Tensor, dilation: int) -> Tensor:
        """Compute the stages by their products."""
        geometry = self.stride, dilation
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = pointwise(depthwise.product(x, depthwise.weight, *geometry))  # type: ignore[operator]
            last = pointwise is self.pointwise[-1]
            x, geometry = (batch_norm(x, scale) if last else F.relu(batch_norm(x))), (1, 1)
        return x


class DilatedConv(SeparableConv):
    """The same of maps that are read with dilation 2."""

    reads = "dilated"


class DenseConv(Convolutions):
    """Convolutions of all channels one after the other, kernels [(rows, columns)], then a batch norm."""

    reads = "once"

    def __init__(
        self, kernels: Sequence[tuple[int, int]], sources: int, edges: int, channels: int, stride: int
    ) -> None:
        super().__init__()
        groups, wide = sources, sources * edges * channels
        self.layers = nn.Sequential()
        before = sources * channels
        for height, width in kernels:
            strides = (stride if height > 1 else 1, stride if width > 1 else 1)
            padding = height // 2, width // 2
            convolution = Conv(
                *(before, wide, (height, width), strides, padding),
                groups=groups,
                primitive=True,
                parts=(groups, sources * edges),
            )
            self.layers.append(convolution)
            before, groups = wide, sources * edges

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return batch_norm(self.layers(x), scale)


# --- tables of operations -------------------------------------------------------------------------------


def normalized_max_pool(x: Tensor, stride: int) -> Tensor:
    """Take the maximum of windows of 3×3 pixels, then normalize, as in DARTS's supernet."""
    return batch_norm(F.max_pool2d(x, 3, stride, 1))


def normalized_avg_pool(x: Tensor, stride: int) -> Tensor:
    """Average over windows of 3×3 pixels, then normalize, as in DARTS's supernet."""
    return batch_norm(avg_pool(x, stride))


def avg_pool(x: Tensor, stride: int) -> Tensor:
    """Average over windows of 3×3 pixels, those within the map."""
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def skip(x: Tensor, stride: int) -> Tensor:
    """Return the map itself, at stride 1."""
    assert stride == 1
    return x


Shared = Callable[[Tensor, int], Tensor]  # (map, stride) -> map, one for all edges
Own = Callable[
    [int, int, int, int], Convolutions
]  # (sources, edges, channels, stride) -> weights of all edges


@dataclass(frozen=True)
class Primitives:
    """The operations that are searched, other than `none`: those without weights, and those with their own.

    A `skip_connect` of stride 2 is a factorized reduction.
    """

    shared: Mapping[str, Shared]
    own: Mapping[str, Own]

    @classmethod
    def chosen(
        cls, names: Sequence[str], shared: Mapping[str, Shared], own: Mapping[str, Own]
    ) -> "Primitives":
        """Take the operations with these names from a space's tables, in the tables' order."""
        return cls(
            {name: compute for name, compute in shared.items() if name in names},
            {name: make for name, make in own.items() if name in names},
        )

    def shared_at(self, stride: int) -> list[str]:
        """Name the operations without weights at a stride."""
        return [name for name in self.shared if stride == 1 or name != "skip_connect"]

    def reduces(self, stride: int) -> bool:
        """Whether there are factorized reductions at a stride."""
        return stride == 2 and "skip_connect" in self.shared


def separable(kernel: int, sources: int, edges: int, channels: int, stride: int) -> Convolutions:
    """Make the weights of a separable convolution, which is applied twice."""
    return SeparableConv(kernel, sources, edges, channels, stride, 1)


def dilated(kernel: int, sources: int, edges: int, channels: int, stride: int) -> Convolutions:
    """Make the weights of a dilated convolution, which at stride 2 reads every second pixel at stride 1."""
    return DilatedConv(kernel, sources, edges, channels, 1)


DARTS_SHARED: Choices[Shared] = {
    "max_pool_3x3": normalized_max_pool,
    "avg_pool_3x3": normalized_avg_pool,
    "skip_connect": skip,
}
DARTS_OWN: Choices[Own] = {
    "sep_conv_3x3": partial(separable, 3),
    "sep_conv_5x5": partial(separable, 5),
    "dil_conv_3x3": partial(dilated, 3),
    "dil_conv_5x5": partial(dilated, 5),
    "sep_conv_7x7": partial(separable, 7),
    "conv_7x1_1x7": partial(DenseConv, ((1, 7), (7, 1))),
}
NASBENCH201_SHARED: Choices[Shared] = {"skip_connect": skip, "avg_pool_3x3": avg_pool}
NASBENCH201_OWN: Choices[Own] = {
    "nor_conv_1x1": partial(DenseConv, ((1, 1),)),
    "nor_conv_3x3": partial(DenseConv, ((3, 3),)),
}


# --- edges ----------------------------------------------------------------------------------------------


class OutEdges(nn.Module):
    """All edges from some states (a cell's inputs, or one node) to the nodes after them.

    Their maps lie side by side: channel = (source · edges + edge) · channels + c, where `channels` counts
    those the operations see: one in `portion` of each source's.
    """

    over_edges: Tensor

    def __init__(
        self,
        primitives: Primitives,
        sources: int,
        edges: int,
        channels: int,
        stride: int,
        portion: int = 1,
    ) -> None:
        super().__init__()
        self.primitives, self.portion, channels = primitives, portion, channels // portion
        self.sources, self.edges, self.channels, self.stride = sources, edges, channels, stride
        self.convolutions = nn.ModuleDict(
            {name: make(sources, edges, channels, stride) for name, make in primitives.own.items()}
        )
        if primitives.reduces(stride):
            halves = sources * channels, sources * edges * channels // 2
            parts = sources, sources * edges
            self.skip_even, self.skip_odd = (Conv(*halves, 1, groups=sources, parts=parts) for _ in range(2))
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
        parameters [edge, operation · source], `scales` of the convolutions [operation, source · edge ·
        channels], `skip` of a factorized reduction [source · edge · channels], `passing` of the bypassing
        channels [edge, source]; None where there are none.
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
        terms = self._convolved(rectified, scales)
        if skip is not None:
            terms.append(self._over_sources(self._skip(rectified, skip)))
        if linear.shape[1]:
            terms.append(self._linear(x, linear))
        return _total(terms)

    def _convolved(self, rectified: Tensor, scales: Tensor) -> list[Tensor]:
        """Return the convolutions' maps, each batch norm times its scale, as few sums."""
        names = list(self.convolutions)
        fuses = names[:4] == FUSED_CONVOLUTIONS and takes_kernels(rectified, self.edges)
        if not fuses or self.convolutions[names[0]].approximate:
            return [self._plain(names, rectified, scales)] if names else []
        from hlrs.nas.ops.triton_separable import Mixture  # Triton takes its time to import

        fused, rest = names[:4], names[4:]
        weights = [weight for name in fused for weight in self.convolutions[name].weights()]  # type: ignore[operator]
        plain, geometry = partial(self._plain, fused), (self.sources, self.stride)
        mixed = Mixture.apply(plain, rectified, scales[:4], *geometry, *weights)
        return [mixed, *([self._plain(rest, rectified, scales[4:])] if rest else [])]

    def _plain(self, names: Sequence[str], rectified: Tensor, scales: Tensor) -> Tensor:
        """Sum the convolutions of these names over the sources, one operation at a time."""
        reading: dict[str, list[tuple[nn.Module, Tensor]]] = {"once": [], "repeated": [], "dilated": []}
        for name, scale in zip(names, scales.unbind(), strict=True):
            own = self.convolutions[name]
            reading[own.reads].append((own, scale))  # type: ignore[index]
        terms = [own(rectified, scale) for own, scale in reading["once"]]
        if reading["repeated"]:
            repeated = self._repeat(rectified)
            terms += [own(repeated, scale) for own, scale in reading["repeated"]]
        if reading["dilated"]:
            terms.append(self._dilated(rectified, reading["dilated"]))
        return self._over_sources(_total(terms))

    def _over_sources(self, maps: Tensor) -> Tensor:
        return torch.add(*maps.chunk(self.sources, 1)) if self.sources > 1 else maps

    def _dilated(self, rectified: Tensor, chosen: Sequence[tuple[nn.Module, Tensor]]) -> Tensor:
        phased = self.stride == 1 and has_phases(rectified) and not takes_kernels(rectified, self.edges)
        read = to_phases(rectified) if phased else every_second(rectified) if self.stride == 2 else rectified
        x = self._repeat(read)
        dilation = 1 if phased or self.stride == 2 else 2
        mixed = _total([own(x, scale, dilation) for own, scale in chosen])
        return from_phases(mixed) if phased else mixed

    def _linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """The operations without parameters, whose maps are the same for all edges."""
        names = self.primitives.shared_at(self.stride)
        known = names == [*FUSED_POOLS, *(["skip_connect"] if self.stride == 1 else [])]
        if not known or not takes_kernels(x, max(2, self.edges)):  # both pools' maps are one
            return self._plain_linear(x, weights)
        from hlrs.nas.ops.triton_pooling import Pooled  # Triton takes its time to import

        return Pooled.apply(self._plain_linear, x, weights, self.sources, self.stride)  # type: ignore[no-any-return]

    def _plain_linear(self, x: Tensor, weights: Tensor) -> Tensor:
        """One operation at a time."""
        names, shared = self.primitives.shared_at(self.stride), self.primitives.shared
        return Mix.apply(weights, *(shared[name](x, self.stride) for name in names))  # type: ignore[no-any-return]

    def _skip(self, rectified: Tensor, scale: Tensor) -> Tensor:
        """Factorized reductions."""
        halves = [self.skip_even(every_second(rectified)), self.skip_odd(every_second(rectified, 1))]
        groups = self.sources * self.edges
        joined = torch.cat([half.unflatten(1, (groups, -1)) for half in halves], 2).flatten(1, 2)
        return batch_norm(joined.contiguous(memory_format=torch.channels_last), scale)

    def _repeat(self, x: Tensor) -> Tensor:
        return Repeat.apply(x, self.edges, self.over_edges)  # type: ignore[no-any-return]


def _total(terms: Sequence[Tensor]) -> Tensor:
    """Add maps into the first one."""
    total = terms[0]
    for term in terms[1:]:
        total += term
    return total


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
        for_weights = None
        if ctx.needs_input_grad[0]:
            # in float32: oneDNN divides by zero in some long bfloat16 sums of few numbers (torch 2.15, AMX)
            rows = _rows(maps, weights.shape[1]).to(weights.dtype)
            for_weights = by_edge.to(weights.dtype) @ rows.T
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
