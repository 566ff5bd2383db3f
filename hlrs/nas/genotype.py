"""Genotypes: discrete architectures, their derivation from alphas, and their JSON format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlrs.config.base import Choices
from hlrs.errors import UserError

PRIMITIVES = (  # the operations, in DARTS's order and under its name
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

# edges (operation, state it reads); states 0 and 1 are the outputs of the two previous cells, 2 + i is node i
Node = list[tuple[str, int]]
Alphas = Mapping[str, npt.NDArray[np.float32]]  # {"normal", "reduce"}: [edges, operations]
EdgeWeights = Mapping[str, npt.NDArray[np.float32]]  # {"normal", "reduce"}: [edges]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell, each a list of nodes; `*_concat` lists the states in a cell's output."""

    normal: list[Node]
    normal_concat: list[int]
    reduce: list[Node]
    reduce_concat: list[int]

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as in the JSON file."""
        cells = {
            name: [[list(edge) for edge in node] for node in getattr(self, name)]
            for name in ("normal", "reduce")
        }
        return {**cells, "normal_concat": self.normal_concat, "reduce_concat": self.reduce_concat}

    def skips(self, cell: str) -> int:
        """Count the skip connections in a cell, "normal" or "reduce"."""
        return sum(operation == "skip_connect" for node in getattr(self, cell) for operation, _ in node)


def edges(nodes: int) -> list[tuple[int, int]]:
    """List (node, state it reads) per edge, in the order of the alphas' rows; node i reads 0 to i + 1."""
    return [(node, state) for node in range(nodes) for state in range(node + 2)]


def softmax(alphas: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Softmax over the operations of each edge: [edges, operations]."""
    shifted = np.exp(alphas.astype(np.float64) - alphas.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def edge_softmax(betas: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the edges into each node: [edges]  (PC-DARTS, Xu et al. 2020, §3.3)."""
    parts: list[npt.NDArray[np.float64]] = []
    first = 0
    while first < len(betas):
        incoming = slice(first, first + len(parts) + 2)
        parts.append(softmax(betas[incoming]))
        first = incoming.stop
    return np.concatenate(parts).astype(np.float32)


def entropy(alphas: npt.NDArray[np.float32]) -> float:
    """Return the mean entropy of softmax(alphas) over the edges, in nats; ln 8 = 2.079 at the start."""
    p = softmax(alphas)
    return float(-(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(-1).mean())


def derive(alphas: Alphas, edge_weights: EdgeWeights) -> Genotype:
    """Derive a genotype: per node the two strongest edges, each with its best operation other than `none`.

    DARTS, §2.4. An edge's strength is the largest softmax weight among its operations other than `none`,
    times its edge weight (1 in DARTS; PC-DARTS's code, model_search.py). On a tie, the lower state and the
    earlier operation win.
    """
    cells = {
        name: _derive_cell(softmax(alphas[name]) * edge_weights[name][:, None])
        for name in ("normal", "reduce")
    }
    concat = list(range(2, 2 + len(cells["normal"])))
    return Genotype(cells["normal"], concat, cells["reduce"], concat)


def _derive_cell(weights: npt.NDArray[np.float64]) -> list[Node]:
    best = weights[:, 1:].argmax(-1) + 1  # `none` comes first
    strength = weights[:, 1:].max(-1)
    cell: list[Node] = []
    first = 0
    while first < len(weights):
        incoming = slice(first, first + len(cell) + 2)
        strongest = np.argsort(-strength[incoming], kind="stable")[:2].tolist()
        cell.append([(PRIMITIVES[best[incoming][state]], state) for state in strongest])
        first = incoming.stop
    return cell


def from_json(value: Any, name: str) -> Genotype:
    """Parse a genotype from its JSON value; UserError names the file `name`, the cell and the node."""
    fields = ("normal", "normal_concat", "reduce", "reduce_concat")
    if not isinstance(value, dict) or set(value) != set(fields):
        raise UserError(f"{name}: expected a genotype, an object with the keys {', '.join(fields)}")
    cells = {}
    for cell in ("normal", "reduce"):
        nodes = value[cell]
        if not isinstance(nodes, list) or not nodes:
            raise UserError(f"{name}: {cell}: expected a list of nodes")
        cells[cell] = [_node(node, i, f"{name}: {cell}: node {i}") for i, node in enumerate(nodes)]
        _check_concat(value[f"{cell}_concat"], len(nodes), f"{name}: {cell}_concat")
    if len(cells["normal"]) != len(cells["reduce"]) or len(value["normal_concat"]) != len(
        value["reduce_concat"]
    ):
        raise UserError(f"{name}: normal and reduce must have the same number of nodes and of outputs")
    return Genotype(cells["normal"], value["normal_concat"], cells["reduce"], value["reduce_concat"])


def _node(edges: Any, index: int, where: str) -> Node:
    if not isinstance(edges, list) or not 1 <= len(edges) <= 2:
        raise UserError(f"{where}: expected one or two edges [operation, state]")
    node: Node = []
    for edge in edges:
        if not isinstance(edge, list) or len(edge) != 2:
            raise UserError(f"{where}: {edge!r} is not an edge [operation, state]")
        operation, state = edge
        if operation not in PRIMITIVES[1:]:
            raise UserError(f"{where}: unknown operation {operation!r}; allowed: {', '.join(PRIMITIVES[1:])}")
        if not isinstance(state, int) or isinstance(state, bool) or not 0 <= state < index + 2:
            raise UserError(f"{where}: reads state {state!r}; allowed: 0 to {index + 1}")
        node.append((operation, state))
    return node


def _check_concat(concat: Any, nodes: int, where: str) -> None:
    valid = (
        isinstance(concat, list) and concat and all(isinstance(s, int) and 2 <= s < nodes + 2 for s in concat)
    )
    if not valid or len(set(concat)) < len(concat):
        raise UserError(f"{where}: expected distinct states from 2 to {nodes + 1}")


def _published(normal: Sequence[tuple[str, int]], reduce: Sequence[tuple[str, int]]) -> Genotype:
    """Make a genotype from the papers' notation: a flat list of edges, two per node."""

    def pairs(flat: Sequence[tuple[str, int]]) -> list[Node]:
        return [list(flat[i : i + 2]) for i in range(0, len(flat), 2)]

    return Genotype(pairs(normal), [2, 3, 4, 5], pairs(reduce), [2, 3, 4, 5])


# fmt: off
PUBLISHED: Choices[Genotype] = {
    # Liu et al. 2019, first and second order, as in the authors' cnn/genotypes.py
    "DARTS_V1": _published(
        [("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
         ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2)],
        [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
         ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0)],
    ),
    "DARTS_V2": _published(
        [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
         ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)],
        [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
         ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)],
    ),
    # Xu et al. 2020, found on CIFAR-10
    "PC_DARTS": _published(
        [("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
         ("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1)],
        [("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
         ("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2)],
    ),
    # Chen et al. 2019, found on CIFAR-10
    "PDARTS": _published(
        [("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1),
         ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4)],
        [("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
         ("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3)],
    ),
}
# fmt: on
