"""Genotypes: discrete architectures, their derivation from alphas, and their JSON format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from hlrs.config.base import Choices, Kinds
from hlrs.config.spaces import DartsPrimitive, DartsSpace, ImplantSpace, NasBench201Space, Space
from hlrs.errors import UserError
from hlrs.nas.relaxation import Relax, softmax

# edges (operation, state it reads); a cell's inputs are its first states, then come its nodes
Node = list[tuple[str, int]]
Alphas = Mapping[str, npt.NDArray[np.float32]]  # kind of cell -> [edges, operations]
EdgeWeights = Mapping[str, npt.NDArray[np.float32]]  # kind of cell -> [edges]

# the keys of a genotype's JSON object, by space
KEYS: Choices[tuple[str, ...]] = {
    "darts": ("normal", "normal_concat", "reduce", "reduce_concat"),
    "nasbench201": ("cell",),
    "implant": ("normal", "normal_concat"),
}


class Genotype(ABC):
    """A discrete architecture of a `space`: the nodes of each kind of cell, each node a list of edges."""

    space: ClassVar[str]

    @property
    @abstractmethod
    def cells(self) -> dict[str, list[Node]]:
        """Return the nodes by kind of cell."""

    @abstractmethod
    def outputs(self, kind: str) -> list[int]:
        """List the states in the output of a kind of cell."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and strings, as in the JSON file."""

    def skips(self, kind: str) -> int:
        """Count the skip connections in a kind of cell."""
        return sum(operation == "skip_connect" for node in self.cells[kind] for operation, _ in node)


# --- from alphas ----------------------------------------------------------------------------------------


def edge_softmax(betas: npt.NDArray[np.float32], inputs: int) -> npt.NDArray[np.float32]:
    """Softmax over the edges into each node: [edges]; the first node has `inputs`.

    PC-DARTS, Xu et al. 2020, §3.3.
    """
    return np.concatenate([softmax(own) for own in into_nodes(betas, inputs)]).astype(np.float32)


def into_nodes(by_edge: npt.NDArray[Any], inputs: int) -> list[npt.NDArray[Any]]:
    """Split rows [edges, …] into those of the edges into each node; the first node has `inputs`."""
    parts: list[npt.NDArray[Any]] = []
    first = 0
    while first < len(by_edge):
        parts.append(by_edge[first : first + len(parts) + inputs])
        first += len(parts[-1])
    return parts


def entropy(weights: npt.NDArray[np.float64]) -> float:
    """Return the mean entropy over the edges, in nats; ln 8 = 2.079 for 8 equal weights."""
    return float((weights * -np.log(np.maximum(weights, np.finfo(np.float64).tiny))).sum(-1).mean())


def first_choice(space: Space) -> int:
    """Return the alphas' column of the first operation that can be chosen: `none` may come before."""
    return int(space.primitives[0] == "none" and not space.derives_none)


def contested(space: Space, nodes: int) -> list[list[int]]:
    """Return the alphas' rows of each node with more incoming edges than a genotype keeps."""
    every = space.edges(nodes)
    rows = [[row for row, (end, _) in enumerate(every) if end == node] for node in range(nodes)]
    return [own for own in rows if space.kept is not None and len(own) > space.kept]


def strongest_edges(
    space: Space, weights: npt.NDArray[np.float64], alphas: npt.NDArray[np.float32]
) -> list[Node]:
    """Derive a cell from weights [edges, operations]: each edge's best operation, each node's best edges.

    DARTS, §2.4: a node keeps `space.kept` edges, the strongest first, or all of them in order. An edge's
    strength is its largest weight. On a tie, as among weights of exactly 0, the larger alpha wins, then the
    lower state and the earlier operation.
    """
    operations = range(first_choice(space), len(space.primitives))
    cell: list[Node] = []
    for rows in into_nodes(np.stack([weights, alphas], -1), space.inputs):
        edges = [[tuple(strength) for strength in row] for row in rows.tolist()]
        best = [max(operations, key=edge.__getitem__) for edge in edges]
        strengths = [edge[operation] for edge, operation in zip(edges, best, strict=True)]
        order = [*range(len(edges))]
        if space.kept:
            order = sorted(order, key=strengths.__getitem__, reverse=True)[: space.kept]
        cell.append([(space.primitives[best[state]], state) for state in order])
    return cell


# --- DARTS ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DartsGenotype(Genotype):
    """A normal and a reduction cell; `*_concat` lists the states in a cell's output."""

    space: ClassVar[str] = "darts"
    normal: list[Node]
    normal_concat: list[int]
    reduce: list[Node]
    reduce_concat: list[int]

    @property
    def cells(self) -> dict[str, list[Node]]:
        """Return the nodes by kind of cell, normal and reduce."""
        return {"normal": self.normal, "reduce": self.reduce}

    def outputs(self, kind: str) -> list[int]:
        """List the states in the output of a kind of cell."""
        return list(getattr(self, f"{kind}_concat"))

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as in the JSON file."""
        cells = {kind: [[list(edge) for edge in node] for node in cell] for kind, cell in self.cells.items()}
        return {**cells, "normal_concat": self.normal_concat, "reduce_concat": self.reduce_concat}


def derive_darts(
    space: DartsSpace, alphas: Alphas, edge_weights: EdgeWeights, relax: Relax = softmax
) -> DartsGenotype:
    """Derive both cells; an edge's weights are the relaxation of its alphas times its edge weight.

    Edge weights are 1 in DARTS; those of PC-DARTS act as in its code (model_search.py).
    """
    cells = {
        kind: strongest_edges(space, relax(alphas[kind]) * edge_weights[kind][:, None], alphas[kind])
        for kind in space.kinds
    }
    concat = list(range(2, 2 + len(cells["normal"])))
    return DartsGenotype(cells["normal"], concat, cells["reduce"], concat)


def darts_from_json(value: Any, name: str) -> DartsGenotype:
    """Parse a genotype from its JSON value; UserError names the file `name`, the cell and the node."""
    _check_space(value, "darts", name)
    cells = {cell: _cell(value, cell, name) for cell in ("normal", "reduce")}
    if len(cells["normal"]) != len(cells["reduce"]) or len(value["normal_concat"]) != len(
        value["reduce_concat"]
    ):
        raise UserError(f"{name}: normal and reduce must have the same number of nodes and of outputs")
    return DartsGenotype(cells["normal"], value["normal_concat"], cells["reduce"], value["reduce_concat"])


def _cell(value: Any, kind: str, name: str) -> list[Node]:
    """Parse the nodes of a kind of cell, and check which of them its output joins."""
    nodes = value[kind]
    if not isinstance(nodes, list) or not nodes:
        raise UserError(f"{name}: {kind}: expected a list of nodes")
    cell = [_node(node, i, f"{name}: {kind}: node {i}") for i, node in enumerate(nodes)]
    _check_concat(value[f"{kind}_concat"], len(nodes), f"{name}: {kind}_concat")
    return cell


def _space_of(value: Any) -> str | None:
    """Name the space whose genotypes have a JSON value's keys; None if there is none."""
    keys = set(value) if isinstance(value, dict) else set()
    return next((space for space, own in KEYS.items() if keys == set(own)), None)


def _check_space(value: Any, space: str, name: str) -> None:
    """Reject what is no genotype of a space, and name the space whose genotype it is."""
    found = _space_of(value)
    if found is None:
        raise UserError(f"{name}: expected a genotype, an object with the keys {', '.join(KEYS[space])}")
    if found != space:
        raise UserError(
            f"{name}: a genotype of space {found}, not of {space}; set search.space to {{kind: {found}}}, or "
            f"give one of {space}"
        )


def _node(edges: Any, index: int, where: str) -> Node:
    if not isinstance(edges, list) or not 1 <= len(edges) <= 2:
        raise UserError(f"{where}: expected one or two edges [operation, state]")
    node: Node = []
    allowed = [name for name in get_args(DartsPrimitive) if name != "none"]
    for edge in edges:
        if not isinstance(edge, list) or len(edge) != 2:
            raise UserError(f"{where}: {edge!r} is not an edge [operation, state]")
        operation, state = edge
        if operation not in allowed:
            raise UserError(f"{where}: unknown operation {operation!r}; allowed: {', '.join(allowed)}")
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


# --- NAS-Bench-201 --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NasBench201Genotype(Genotype):
    """A cell of NAS-Bench-201; each node sums all edges into it, and the last is the output."""

    space: ClassVar[str] = "nasbench201"
    normal: list[Node]

    @property
    def cells(self) -> dict[str, list[Node]]:
        """Return the nodes of the one kind of cell, normal."""
        return {"normal": self.normal}

    def outputs(self, kind: str) -> list[int]:
        """List the state that is the cell's output: its last node."""
        return [len(self.normal)]

    def __str__(self) -> str:
        """Spell the cell as the benchmark does."""
        return "+".join(f"|{'|'.join(f'{name}~{state}' for name, state in node)}|" for node in self.normal)

    def to_json(self) -> dict[str, Any]:
        """Return the cell's string under the key `cell`."""
        return {"cell": str(self)}


def derive_nasbench201(
    space: NasBench201Space, alphas: Alphas, edge_weights: EdgeWeights, relax: Relax = softmax
) -> NasBench201Genotype:
    """Derive the cell: the operation with the largest alpha on each edge, `none` included (as their code)."""
    weights = relax(alphas["normal"]) * edge_weights["normal"][:, None]
    return NasBench201Genotype(strongest_edges(space, weights, alphas["normal"]))


def nasbench201_from_string(text: str) -> NasBench201Genotype:
    """Parse a cell's string; ValueError if it is none."""
    return NasBench201Genotype(NasBench201Space.parse_cell(text))


def nasbench201_from_json(value: Any, name: str) -> NasBench201Genotype:
    """Parse a genotype from its JSON value; UserError names the file `name`."""
    _check_space(value, "nasbench201", name)
    try:
        return nasbench201_from_string(str(value["cell"]))
    except ValueError as error:
        raise UserError(f"{name}: cell: {error}") from None


# --- implanted cells ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImplantGenotype(Genotype):
    """A cell to implant on skips; `normal_concat` lists the states in its output."""

    space: ClassVar[str] = "implant"
    normal: list[Node]
    normal_concat: list[int]

    @property
    def cells(self) -> dict[str, list[Node]]:
        """Return the nodes of the one kind of cell, normal."""
        return {"normal": self.normal}

    def outputs(self, kind: str) -> list[int]:
        """List the states in the cell's output."""
        return self.normal_concat

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as in the JSON file."""
        cell = [[list(edge) for edge in node] for node in self.normal]
        return {"normal": cell, "normal_concat": self.normal_concat}


def derive_implant(
    space: ImplantSpace, alphas: Alphas, edge_weights: EdgeWeights, relax: Relax = softmax
) -> ImplantGenotype:
    """Derive the cell as DARTS's normal one."""
    cell = strongest_edges(space, relax(alphas["normal"]) * edge_weights["normal"][:, None], alphas["normal"])
    return ImplantGenotype(cell, list(range(2, 2 + len(cell))))


def implant_from_json(value: Any, name: str) -> ImplantGenotype:
    """Parse a genotype from its JSON value; UserError names the file `name` and the node."""
    _check_space(value, "implant", name)
    return ImplantGenotype(_cell(value, "normal", name), value["normal_concat"])


# --- published ------------------------------------------------------------------------------------------


def _published(normal: Sequence[tuple[str, int]], reduce: Sequence[tuple[str, int]]) -> DartsGenotype:
    """Make a genotype from the papers' notation: a flat list of edges, two per node."""

    def pairs(flat: Sequence[tuple[str, int]]) -> list[Node]:
        return [list(flat[i : i + 2]) for i in range(0, len(flat), 2)]

    return DartsGenotype(pairs(normal), [2, 3, 4, 5], pairs(reduce), [2, 3, 4, 5])


# fmt: off
PUBLISHED: Choices[DartsGenotype] = {
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


def published(name: str) -> DartsGenotype:
    """Return the published genotype of DARTS's space with this name."""
    return PUBLISHED[name]


# --- by space -------------------------------------------------------------------------------------------

# (space, alphas, edge weights, relaxation), the middle two by kind of cell
DERIVATIONS: Kinds[Callable[..., Genotype]] = {
    DartsSpace: derive_darts,
    NasBench201Space: derive_nasbench201,
    ImplantSpace: derive_implant,
}

# by its name, or as it is spelled
GIVEN: Kinds[Callable[[str], Genotype]] = {
    DartsSpace: published,
    NasBench201Space: nasbench201_from_string,
}

# (JSON value, name of the file)
PARSERS: Kinds[Callable[[Any, str], Genotype]] = {
    DartsSpace: darts_from_json,
    NasBench201Space: nasbench201_from_json,
    ImplantSpace: implant_from_json,
}


def given(space: Space, genotype: str | dict[str, Any], name: str = "genotype") -> Genotype:
    """Return a given genotype of a space, by its name, as it is spelled, or of its JSON value.

    UserError, for the latter, names the file `name`.
    """
    if isinstance(genotype, str):
        return GIVEN[type(space)](genotype)
    return PARSERS[type(space)](genotype, name)


# what is drawn as each kind of cell: its title, nodes and outputs
Drawings = dict[str, tuple[str, list[Node], list[int]]]

# what is drawn in place of a kind of cell that is not searched
NO_CELL: Drawings = {}
RESIDUAL_BLOCK: Drawings = {
    "reduce": (
        "reduce cell",
        [[("conv_3x3, stride 2", 0)], [("conv_3x3", 1), ("avg_pool_2x2, conv_1x1", 0)]],
        [2],
    )
}
IMPLANT: Drawings = {  # s + P(cell(s, s))
    "reduce": (
        "skip (k-2 and k-1) with its normal cell",
        [[("normal cell", 0), ("normal cell", 1)], [("conv_1x1", 2), ("skip_connect", 0)]],
        [3],
    )
}
FIXED: Choices[Drawings] = {"darts": NO_CELL, "nasbench201": RESIDUAL_BLOCK, "implant": IMPLANT}


def drawings(genotype: Genotype) -> Drawings:
    """Return what is drawn of a genotype, and beside it."""
    cells = {kind: (f"{kind} cell", nodes, genotype.outputs(kind)) for kind, nodes in genotype.cells.items()}
    return cells | FIXED[genotype.space]


def from_json(value: Any, name: str) -> Genotype:
    """Parse a genotype of any space from its JSON value; UserError names the file `name`."""
    found = _space_of(value) or "darts"
    [parse] = [parse for space, parse in PARSERS.items() if space.model_fields["kind"].default == found]
    return parse(value, name)
