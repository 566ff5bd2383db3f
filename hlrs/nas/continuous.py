"""The continuous network: a supernet whose architecture is settled, trained and evaluated as a network.

Unlike the supernet, it keeps running statistics in its batch norms, so that a prediction does not depend on
its batch, and leaves out what has weight 0: with the one-hot mixture of a genotype, it is the decoded one.
It computes one edge and one operation at a time, and inherits the supernet's weights by their names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.base import Kinds
from hlrs.config.spaces import DartsSpace, NasBench201Space, Space
from hlrs.nas import nasbench201
from hlrs.nas.mixture import Mixture
from hlrs.nas.nasbench201 import StagedNetwork
from hlrs.nas.network import BranchedNetwork, Cell, CellNetwork
from hlrs.nas.operations import make_operation, reads_rectified

State = Mapping[str, Tensor]
MakeOperation = Callable[[str, int, int], nn.Module]  # (name, channels, stride), without its first ReLU


def plain_norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with running statistics and without affine part, as a supernet's cells have none."""
    return nn.BatchNorm2d(channels, affine=False)


class ContinuousEdge(nn.Module):
    """Σ_o weights[o] · o(x) over the operations with a weight; those are float [operations].

    With a `portion` above 1, the operations see the first channel in so many, and the others, halved at
    stride 2 and times `passing`, are shuffled among theirs (PC-DARTS, Xu et al. 2020, §3.2).
    """

    weights: Tensor
    passing: Tensor

    def __init__(
        self,
        names: Sequence[str],
        weights: Tensor,
        passing: Tensor,
        make: MakeOperation,
        channels: int,
        stride: int,
        portion: int,
    ) -> None:
        super().__init__()
        self.searched, self.stride, self.portion = channels // portion, stride, portion
        self.register_buffer("weights", weights)
        self.register_buffer("passing", passing)
        self.operations = nn.ModuleDict({name: make(name, self.searched, stride) for name in names})

    def forward(self, x: Tensor, rectified: Tensor) -> Tensor:
        """Mix the operations' maps of x [batch, channels, height, width] and of the same rectified."""
        searched, rest = x[:, : self.searched], x[:, self.searched :]
        terms = [
            weight
            * operation(rectified[:, : self.searched] if reads_rectified(name, self.stride) else searched)
            for (name, operation), weight in zip(self.operations.items(), self.weights, strict=True)
        ]
        mixed = sum(terms[1:], terms[0]) if terms else nothing(searched, self.stride)
        if self.portion == 1:
            return mixed
        if self.stride == 2:  # rounds odd sizes up, as the operations do
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        return F.channel_shuffle(torch.cat([mixed, self.passing * rest], 1), self.portion)


class ContinuousNodes(nn.Module):
    """The nodes of a cell, each the sum of its edges with a weight, from the states before it."""

    def __init__(
        self,
        space: Space,
        nodes: int,
        kind: str,
        mixture: Mixture,
        make: MakeOperation,
        channels: int,
        stride: int,
        portion: int,
    ) -> None:
        super().__init__()
        self.inputs, self.stride, every = space.inputs, stride, space.edges(nodes)
        self.count = every[-1][0] + 1
        place = space.kinds.index(kind)
        operations, edges = mixture.operations[place], mixture.edges[place]
        self.edges = nn.ModuleDict()
        for (node, state), weights, passing in zip(every, operations, edges, strict=True):
            weighed = {
                str(name): weight
                for name, weight in zip(space.primitives, weights * passing, strict=True)
                if weight and name != "none"
            }
            if weighed or (portion > 1 and passing):
                own, values = stride if state < self.inputs else 1, torch.tensor([*weighed.values()])
                self.edges[f"{node}_{state}"] = ContinuousEdge(
                    [*weighed], values, passing.clone(), make, channels, own, portion
                )

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """Maps of all nodes, given those of the cell's inputs, [batch, channels, height, width] each."""
        rectified = [F.relu(state) for state in states]
        for node in range(self.count):
            terms = [
                self.edges[name](*both)
                for state, both in enumerate(zip(states, rectified, strict=True))
                if (name := f"{node}_{state}") in self.edges
            ]
            states = [*states, sum(terms[1:], terms[0]) if terms else nothing(states[0], self.stride)]
            rectified = [*rectified, F.relu(states[-1])]
        return states[self.inputs :]

    def inherit(self, state: State) -> None:
        """Copy the weights of a supernet's `OutEdges`, by their names within those of its cell."""
        for name, edge in self.edges.items():
            assert isinstance(edge, ContinuousEdge)
            node, source = map(int, name.split("_"))
            place = max(0, source - self.inputs + 1)  # 0: the cell's inputs, side by side
            sources, edges = 1 if place else self.inputs, self.count - place
            group = (0 if place else source * edges) + node - place
            for operation, module in edge.operations.items():
                found = _weights(state, place, operation)
                for parameter, weight in zip(module.parameters(), found, strict=True):
                    parameter.copy_(weight.chunk(sources * edges)[group])


def _weights(state: State, place: int, operation: str) -> Iterator[Tensor]:
    """Return an operation's weights on all edges from some states, in the order of its plain module's."""
    if operation == "skip_connect":
        names = [f"{place}.skip_even.weight", f"{place}.skip_odd.weight"]
        return (state[name] for name in names if name in state)
    prefix = f"{place}.convolutions.{operation}."
    stages = sorted((int(name.split(".")[-2]), name) for name in state if name.startswith(prefix))
    return (state[name] for _, name in stages)  # at each stage depthwise before pointwise


def nothing(x: Tensor, stride: int) -> Tensor:
    """Return zeros of the size of a map at a stride."""
    return x[:, :, ::stride, ::stride] * 0


# --- the spaces' networks -------------------------------------------------------------------------------


def darts_operation(name: str, channels: int, stride: int) -> nn.Module:
    """Make an operation of DARTS's supernet, where a batch norm follows the pools, too."""
    operation = make_operation(name, channels, stride, plain_norm)
    return nn.Sequential(operation, plain_norm(channels)) if "pool" in name else operation


def nasbench201_operation(name: str, channels: int, stride: int) -> nn.Module:
    """Make an operation of NAS-Bench-201's supernet."""
    operation = nasbench201.make_operation(name, channels, plain_norm)
    if isinstance(operation, nasbench201.ReluConvNorm):
        return nn.Sequential(*list(operation)[1:])
    return operation


class DartsCell(Cell):
    """A cell of DARTS's space; its output is all nodes."""

    def __init__(
        self,
        space: DartsSpace,
        mixture: Mixture,
        nodes: int,
        portion: int,
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__(before, previous, channels, after_reduction, plain_norm)
        kind, stride = ("reduce", 2) if reduction else ("normal", 1)
        self.nodes = ContinuousNodes(space, nodes, kind, mixture, darts_operation, channels, stride, portion)

    def forward(self, before: Tensor, previous: Tensor, context: None) -> Tensor:
        return torch.cat(self.nodes([self.input0(before), self.input1(previous)]), 1)


class DartsContinuous(CellNetwork):
    """The continuous network of DARTS's space; keyword arguments as in `CellNetwork`."""

    def __init__(
        self, space: DartsSpace, mixture: Mixture, *, nodes: int, portion: int, **layout: Any
    ) -> None:
        make_cell = partial(DartsCell, space, mixture, nodes, portion)
        super().__init__(make_cell, nn.BatchNorm2d, nodes, **layout)


class NasBench201Cell(nn.Module):
    """A cell of NAS-Bench-201; its output is the last node."""

    def __init__(
        self, space: NasBench201Space, mixture: Mixture, nodes: int, portion: int, channels: int
    ) -> None:
        super().__init__()
        self.nodes = ContinuousNodes(
            space, nodes, "normal", mixture, nasbench201_operation, channels, 1, portion
        )

    def forward(self, x: Tensor, context: None) -> Tensor:
        return self.nodes([x])[-1]  # type: ignore[no-any-return]


class NasBench201Continuous(StagedNetwork):
    """The continuous network of NAS-Bench-201; keyword arguments as in `StagedNetwork`."""

    def __init__(
        self, space: NasBench201Space, mixture: Mixture, *, nodes: int, portion: int, **layout: Any
    ) -> None:
        make_cell = partial(NasBench201Cell, space, mixture, nodes, portion)
        super().__init__(make_cell, nn.BatchNorm2d, **layout)


# (space, mixture, nodes, portion, layout of the supernet)
CONTINUOUS: Kinds[Callable[..., BranchedNetwork]] = {
    DartsSpace: DartsContinuous,
    NasBench201Space: NasBench201Continuous,
}


def inherit(network: BranchedNetwork, supernet: State) -> None:
    """Copy a supernet's weights to a continuous network of the same layout, in place."""
    of_architecture = ("alphas.", "betas.")
    outside = {
        name: tensor
        for name, tensor in supernet.items()
        if ".out_edges." not in name and not name.startswith(of_architecture)
    }
    missing = set(network.load_state_dict(outside, strict=False).missing_keys)
    assert not [name for name, _ in network.named_parameters() if name in missing and ".edges." not in name]
    with torch.no_grad():
        for name, nodes in network.named_modules():
            if isinstance(nodes, ContinuousNodes):
                prefix = f"{name}.out_edges."
                own = {key.removeprefix(prefix): supernet[key] for key in supernet if key.startswith(prefix)}
                nodes.inherit(own)
