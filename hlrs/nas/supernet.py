"""The supernet: the network that contains all architectures of a search space, weighed by a searcher."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hlrs.config.spaces import DartsCells, DartsSpace, Space
from hlrs.nas.mixed_edges import DARTS_OWN, DARTS_SHARED, BatchNorm, OutEdges, Primitives
from hlrs.nas.mixture import Mixture
from hlrs.nas.network import BranchedNetwork, Cell, CellNetwork, MakeCell
from hlrs.nas.ops.layouts import Join
from hlrs.nas.searchers.base import Searcher


class CellWeights(NamedTuple):
    """Weights of a cell's edges, arranged as its `OutEdges` read them, in their order."""

    linear: list[Tensor]  # [edge, operation · source] of the operations without parameters
    convolutions: Tensor  # [operation, all edges]
    skip: Tensor | None  # [source · edge], where the inputs' skip is a factorized reduction
    passing: list[Tensor | None]  # [edge, source] of the channels that bypass the operations; None: none do


class MixedNodes(nn.Module):
    """The nodes of a cell, each the sum of the mixtures from all states before it.

    `sources` are the cell's inputs, side by side; only the edges from these have the `stride`. With
    `recompute`, inner maps are recomputed in the backward pass instead of being kept for it.
    """

    def __init__(
        self,
        primitives: Primitives,
        sources: int,
        nodes: int,
        channels: int,
        stride: int,
        portion: int,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.channels, self.recompute, self.searched = channels, recompute, channels // portion
        # the inputs feed all nodes, the first node all others, and so on
        inputs = OutEdges(primitives, sources, nodes, channels, stride, portion)
        behind = range(nodes - 1, 0, -1)
        others = [OutEdges(primitives, 1, n, channels, 1, portion) for n in behind]
        self.out_edges = nn.ModuleList([inputs, *others])
        self.widths = [sources * nodes * self.searched, *(n * self.searched for n in behind)]

    def forward(self, inputs: Tensor, own: CellWeights) -> list[Tensor]:
        """Maps of all nodes, [batch, channels, height, width] each.

        Inputs [batch, source · channels, height, width].
        """
        if self.recompute and torch.is_grad_enabled():
            recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            return recomputed(self._mix, inputs, own)  # type: ignore[no-any-return]
        return self._mix(inputs, own)

    def _mix(self, inputs: Tensor, own: CellWeights) -> list[Tensor]:
        scales = self._per_channel(own.convolutions).split(self.widths, 1)
        skip = None if own.skip is None else self._per_channel(own.skip[None]).squeeze(0)
        sums = self.out_edges[0](inputs, own.linear[0], scales[0], skip, own.passing[0])  # of nodes to come
        nodes = []
        each = list(zip(self.out_edges, own.linear, scales, own.passing, strict=True))
        for out_edges, linear, scale, passing in each[1:]:
            node, rest = sums.split([self.channels, sums.shape[1] - self.channels], 1)
            nodes.append(node.contiguous(memory_format=torch.channels_last))
            sums = out_edges(nodes[-1], linear, scale, passing=passing) + rest
        return [*nodes, sums]

    def _per_channel(self, weights: Tensor) -> Tensor:
        """[rows, edges] to [rows, edges · searched channels], contiguous.

        PyTorch's batch norm accepts scales of another layout, but returns wrong gradients for them.
        """
        return weights[..., None].expand(-1, -1, self.searched).flatten(1).contiguous()


class Supernet(BranchedNetwork):
    """The network that contains all architectures of a search space, weighed by a searcher.

    `alphas` holds one parameter [edges, operations] per kind of cell, `betas` one [edges] where the searcher
    normalizes edges. `drawn` is what the searcher drew for the forward passes to come; a `mixture` takes the
    place of its weights. `nodes` of a cell as its space counts them, `network` the arguments of the network
    whose cells these are.
    """

    order: Tensor
    drawn: Tensor | None = None
    mixture: Mixture | None = None

    def __init__(
        self,
        primitives: Primitives,
        space: Space,
        nodes: int,
        searcher: Searcher,
        *network: Any,
        **layout: Any,
    ) -> None:
        super().__init__(*network, **layout)
        self.searcher, self.portion, self.columns = (
            searcher,
            searcher.portion,
            [str(name) for name in space.primitives],
        )
        self.primitives, self.inputs = primitives, space.inputs
        connections, kinds = space.edges(nodes), space.kinds
        self.shape = len(kinds), len(connections), len(self.columns)
        last = connections[-1][0]
        self.incoming = [node + self.inputs for node in range(last + 1)]  # edges per node
        self.alphas = nn.ParameterDict({kind: nn.Parameter(torch.zeros(self.shape[1:])) for kind in kinds})
        normalized = kinds if searcher.edge_normalization else ()
        self.betas = nn.ParameterDict({kind: nn.Parameter(torch.zeros(self.shape[1])) for kind in normalized})
        # rows of the alphas in the order of a cell's out-edges: source by source, edge by edge
        first = tuple(range(self.inputs))
        sources = [first, *((state,) for state in range(self.inputs, last + self.inputs))]
        rows = [
            [row for state in states for row, (_, read) in enumerate(connections) if read == state]
            for states in sources
        ]
        self.counts = [len(own) for own in rows]
        self.register_buffer("order", torch.tensor(list(itertools.chain(*rows))), persistent=False)

    def context(self) -> dict[str, CellWeights]:
        """Weigh operations and edges of each kind of cell."""
        if self.mixture is not None:
            by_kind = zip(self.alphas, *self.mixture, strict=True)
            return {kind: self._arrange(kind, weights, edges) for kind, weights, edges in by_kind}
        drawn = [None] * len(self.alphas) if self.drawn is None else self.drawn.unbind()
        return {
            kind: self._arrange(kind, self.searcher.operation_weights(alphas, own), self.edge_weights(kind))
            for (kind, alphas), own in zip(self.alphas.items(), drawn, strict=True)
        }

    def edge_weights(self, kind: str) -> Tensor | None:
        """Weights of the edges of one kind of cell: [edges]; None where all are 1."""
        return self.searcher.edge_weights(self.betas.get(kind), self.incoming)

    def _arrange(self, kind: str, weights: Tensor, by_edge: Tensor | None) -> CellWeights:
        if by_edge is not None:
            weights = weights * by_edge[:, None]
        weights, counts = weights[self.order], self.counts
        linear = []
        for i, own in enumerate(self._columns(weights, self.primitives.shared_at(1)).split(counts)):
            if kind == "reduce" and i == 0:  # without the skip, which comes last
                own = own[:, : len(self.primitives.shared_at(2))]
            sources = self.inputs if i == 0 else 1
            linear.append(own.unflatten(0, (sources, -1)).permute(1, 2, 0).flatten(1))
        reduced = kind == "reduce" and "skip_connect" in self.columns
        skip = weights[: counts[0], self.columns.index("skip_connect")] if reduced else None
        passing: list[Tensor | None] = [None] * len(counts)
        if self.portion > 1:
            by_edge = weights.new_ones(len(self.order)) if by_edge is None else by_edge[self.order]
            inputs, *others = by_edge.split(counts)
            passing = [inputs.unflatten(0, (self.inputs, -1)).T, *(own[:, None] for own in others)]
        return CellWeights(linear, self._columns(weights, list(self.primitives.own)).T, skip, passing)

    def _columns(self, weights: Tensor, names: Sequence[str]) -> Tensor:
        """Take operations' columns of weights [edges, operations]: [edges, len(names)]."""
        if not names:
            return weights[:, :0]
        places = [self.columns.index(name) for name in names]
        if places[-1] - places[0] == len(places) - 1:  # side by side, as all of DARTS's are
            return weights[:, places[0] : places[-1] + 1]
        return torch.cat([weights[:, place, None] for place in places], 1)

    def architecture(self) -> dict[str, nn.Parameter]:
        """The alphas, and the betas where there are any, by name: alphas.normal, alphas.reduce, ..."""
        named = {"alphas": self.alphas, "betas": self.betas}
        return {f"{name}.{kind}": p for name, group in named.items() for kind, p in group.items()}

    def weights(self) -> list[nn.Parameter]:
        """All parameters that learn but the architecture's."""
        architecture = self.architecture()
        return [p for name, p in self.learner.named_parameters() if name not in architecture]


def initialize_alphas(supernet: Supernet, generator: torch.Generator, scale: float = 1e-3) -> None:
    """Draw alphas and betas from N(0, scale²): with DARTS's 10⁻³, all operations start nearly alike."""
    with torch.no_grad():
        for parameter in supernet.architecture().values():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def stem_norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with an affine part that always uses the batch's statistics."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


# --- DARTS ----------------------------------------------------------------------------------------------


class SearchCell(Cell):
    """A cell of DARTS's space; its output is all nodes."""

    def __init__(
        self,
        primitives: Primitives,
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
        self.kind, stride = ("reduce", 2) if reduction else ("normal", 1)
        self.nodes = MixedNodes(primitives, 2, nodes, channels, stride, portion, recompute)

    def forward(self, before: Tensor, previous: Tensor, weights: dict[str, CellWeights]) -> Tensor:
        """Output of the cell, given the weights by kind of cell."""
        inputs = Join.apply(self.input0(before), self.input1(previous))
        return Join.apply(*self.nodes(inputs, weights[self.kind]))  # type: ignore[no-any-return]


def search_cells(
    space: DartsCells, searcher: Searcher, nodes: int, recompute: bool
) -> tuple[Primitives, MakeCell]:
    """Return the operations of a space of DARTS's cells, and what makes its mixed cells."""
    primitives = Primitives.chosen(space.primitives, DARTS_SHARED, DARTS_OWN)
    return primitives, partial(SearchCell, primitives, nodes, searcher.portion, recompute)


class DartsSupernet(Supernet, CellNetwork):
    """The supernet of DARTS's space; keyword arguments as in `CellNetwork`.

    Channels must be divisible by the searcher's `portion`.
    """

    def __init__(
        self, space: DartsSpace, searcher: Searcher, *, nodes: int, recompute: bool = False, **layout: Any
    ) -> None:
        primitives, make_cell = search_cells(space, searcher, nodes, recompute)
        super().__init__(primitives, space, nodes, searcher, make_cell, stem_norm, nodes, **layout)
