"""Genotypes: the discrete architecture, how it is derived from alphas, and its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlrs.errors import UserError

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

Node = list[
    tuple[str, int]
]  # (primitive, state it reads): states 0 and 1 are the two previous cells' outputs
Alphas = Mapping[str, npt.NDArray[np.float32]]  # {"normal", "reduce"}: [edges, primitives]
EdgeWeights = Mapping[str, npt.NDArray[np.float32]]  # {"normal", "reduce"}: [edges]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell; a cell lists its nodes, `*_concat` the states that form its output."""

    normal: list[Node]
    normal_concat: list[int]
    reduce: list[Node]
    reduce_concat: list[int]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, as the JSON file holds them."""
        cells = {
            name: [[list(edge) for edge in node] for node in getattr(self, name)]
            for name in ("normal", "reduce")
        }
        return {**cells, "normal_concat": self.normal_concat, "reduce_concat": self.reduce_concat}

    def skips(self, cell: str) -> int:
        """Number of skip connections in a cell, "normal" or "reduce"."""
        return sum(primitive == "skip_connect" for node in getattr(self, cell) for primitive, _ in node)


def edges(nodes: int) -> list[tuple[int, int]]:
    """(node, state it reads) of every edge, in the order of the alphas' rows; node i reads 0 to i + 1."""
    return [(node, state) for node in range(nodes) for state in range(node + 2)]


def softmax(alphas: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Softmax over the last axis, the primitives of each edge: [edges, primitives]."""
    shifted = np.exp(alphas.astype(np.float64) - alphas.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def edge_softmax(betas: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the edges that lead to the same node: [edges]  (PC-DARTS, Xu et al. 2020, §3.3)."""
    parts: list[npt.NDArray[np.float64]] = []
    first = 0
    while first < len(betas):
        incoming = slice(first, first + len(parts) + 2)
        parts.append(softmax(betas[incoming]))
        first = incoming.stop
    return np.concatenate(parts).astype(np.float32)


def entropy(alphas: npt.NDArray[np.float32]) -> float:
    """Entropy of softmax(alphas) in nats, mean over the edges; ln 8 = 2.079 at the start."""
    p = softmax(alphas)
    return float(-(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(-1).mean())


def derive(alphas: Alphas, edge_weights: EdgeWeights) -> Genotype:
    """DARTS's rule (§2.4): per node the two strongest edges, each with its best primitive other than `none`.

    An edge's strength is the largest softmax weight among its primitives other than `none`, times its edge
    weight (PC-DARTS's code, model_search.py; 1 in DARTS). A tie keeps the lower state and the earlier
    primitive.
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
    """A genotype from its JSON value; UserError naming `name`, the cell and the node if it is not one."""
    fields = ("normal", "normal_concat", "reduce", "reduce_concat")
    if not isinstance(value, dict) or set(value) != set(fields):
        raise UserError(f"{name}: a genotype is an object with the keys {', '.join(fields)}")
    cells = {}
    for cell in ("normal", "reduce"):
        nodes = value[cell]
        if not isinstance(nodes, list) or not nodes:
            raise UserError(f"{name}: {cell}: a list of nodes is needed")
        cells[cell] = [_node(node, i, f"{name}: {cell}: node {i}") for i, node in enumerate(nodes)]
        _check_concat(value[f"{cell}_concat"], len(nodes), f"{name}: {cell}_concat")
    if len(cells["normal"]) != len(cells["reduce"]) or len(value["normal_concat"]) != len(
        value["reduce_concat"]
    ):
        raise UserError(f"{name}: normal and reduce differ in their number of nodes or outputs")
    return Genotype(cells["normal"], value["normal_concat"], cells["reduce"], value["reduce_concat"])


def _node(edges: Any, index: int, where: str) -> Node:
    if not isinstance(edges, list) or not 1 <= len(edges) <= 2:
        raise UserError(f"{where}: one or two edges [primitive, state] are needed")
    node: Node = []
    for edge in edges:
        if not isinstance(edge, list) or len(edge) != 2:
            raise UserError(f"{where}: {edge!r} is not an edge [primitive, state]")
        primitive, state = edge
        if primitive not in PRIMITIVES[1:]:
            raise UserError(f"{where}: unknown primitive {primitive!r}; allowed: {', '.join(PRIMITIVES[1:])}")
        if not isinstance(state, int) or isinstance(state, bool) or not 0 <= state < index + 2:
            raise UserError(f"{where}: reads state {state!r}; allowed: 0 to {index + 1}")
        node.append((primitive, state))
    return node


def _check_concat(concat: Any, nodes: int, where: str) -> None:
    valid = (
        isinstance(concat, list) and concat and all(isinstance(s, int) and 2 <= s < nodes + 2 for s in concat)
    )
    if not valid or len(set(concat)) < len(concat):
        raise UserError(f"{where}: distinct states from 2 to {nodes + 1} are needed")


def _published(normal: Sequence[tuple[str, int]], reduce: Sequence[tuple[str, int]]) -> Genotype:
    """A genotype in the papers' notation: a flat list of edges, two a node."""

    def pairs(flat: Sequence[tuple[str, int]]) -> list[Node]:
        return [list(flat[i : i + 2]) for i in range(0, len(flat), 2)]

    return Genotype(pairs(normal), [2, 3, 4, 5], pairs(reduce), [2, 3, 4, 5])


# fmt: off
PUBLISHED = {
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
