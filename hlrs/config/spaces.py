"""Specs of search spaces: the cells' connections and operations, and the notation of their genotypes."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from hlrs.config.base import NAME, Name, Spec

# --- spaces ---------------------------------------------------------------------------------------------
# `kinds`: the kinds of cell that are searched. `inputs`: the states that a cell's first node reads. `kept`:
# how many edges into a node a genotype keeps; None: all. `derives_none`: whether an edge of a genotype may be
# `none`. `joins`: whether the last map of a network joins a cell's nodes. `stages`: a network has as many
# cells in each of so many stages; None: any number. `auxiliary`: whether its networks have an auxiliary head
# and drop path. `large_images`: whether they have a stem for these.


def _in_order(chosen: list[Any], every: tuple[str, ...]) -> list[Any]:
    """Sort chosen operations as the space lists them; ValueError if one repeats, or nothing can be chosen."""
    if len(set(chosen)) < len(chosen):
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise ValueError(f"repeats {twice}; list each operation once")
    if set(chosen) <= {"none"}:
        raise ValueError("leaves no operation besides none, so nothing passes a cell; add one")
    return sorted(chosen, key=every.index)


DartsPrimitive = Literal[  # in DARTS's order; NASNet's last two are in the authors' list, not in their space
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_7x7",
    "conv_7x1_1x7",
]
DARTS_PRIMITIVES: tuple[DartsPrimitive, ...] = DartsPrimitive.__args__  # type: ignore[attr-defined]


Published = Literal["DARTS_V1", "DARTS_V2", "PC_DARTS", "PDARTS"]  # of DARTS's space
PUBLISHED: tuple[Published, ...] = Published.__args__  # type: ignore[attr-defined]


class DartsCells(Spec):
    """What spaces of DARTS's cells share (Liu et al. 2019, §2.1): two inputs, two edges into each node.

    `primitives` are the operations of an edge, by default the paper's eight.
    """

    kind: Name
    inputs: ClassVar[int] = 2
    kept: ClassVar[int | None] = 2
    derives_none: ClassVar[bool] = False
    primitives: list[DartsPrimitive] = Field(list(DARTS_PRIMITIVES[:8]), min_length=1, max_length=10)

    @field_validator("primitives")
    @classmethod
    def _ordered(cls, chosen: list[DartsPrimitive]) -> list[DartsPrimitive]:
        return _in_order(chosen, DARTS_PRIMITIVES)

    def edges(self, nodes: int) -> list[tuple[int, int]]:
        """List (node, state it reads) per edge, in the order of the alphas' rows; node i reads 0 to i + 1."""
        return [(node, state) for node in range(nodes) for state in range(node + 2)]


class DartsSpace(DartsCells):
    """DARTS's space (Liu et al. 2019, §2.1): a normal and a reduction cell that read the two cells before.

    A node keeps two edges; a cell's output joins its `nodes` nodes.
    """

    kind: Literal["darts"] = "darts"
    kinds: ClassVar[tuple[str, ...]] = ("normal", "reduce")
    joins: ClassVar[bool] = True
    stages: ClassVar[int | None] = None
    auxiliary: ClassVar[bool] = True
    large_images: ClassVar[bool] = True

    @staticmethod
    def spells(genotype: str) -> bool:
        """Check whether a given genotype is one of this space: a published one's name."""
        return genotype in PUBLISHED


class ImplantSpace(DartsCells):
    """The cells of searcher `implant`: DARTS's normal cell, both of whose inputs are the skip it lies on.

    One cell in each stage of a ResNet, whose residual blocks count as the network's cells.
    """

    kind: Literal["implant"] = "implant"
    kinds: ClassVar[tuple[str, ...]] = ("normal",)
    joins: ClassVar[bool] = False
    stages: ClassVar[int | None] = 3
    auxiliary: ClassVar[bool] = False
    large_images: ClassVar[bool] = False

    @staticmethod
    def spells(genotype: str) -> bool:
        """Check whether a given genotype is one of this space: none is published."""
        return False


EDGE = r"[^|~+]+~[^|~+]+"
CELL = re.compile(rf"\|({EDGE}\|)+(\+\|({EDGE}\|)+)*")  # |operation~state|…|+|operation~state|…|
MOST_CHARACTERS = 10_000
NasBench201Primitive = Literal["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
NASBENCH201_PRIMITIVES: tuple[NasBench201Primitive, ...] = NasBench201Primitive.__args__  # type: ignore[attr-defined]


class NasBench201Space(Spec):
    """NAS-Bench-201 (Dong & Yang 2020, §2): one cell, a sum of all edges from each node to the later ones.

    Three stages of equally many cells, with fixed residual blocks between. Node 0 is the cell's input and
    counts among the `nodes`, as there; the last node is its output. `primitives` as in DARTS's space.
    """

    kind: Literal["nasbench201"] = "nasbench201"
    kinds: ClassVar[tuple[str, ...]] = ("normal",)
    inputs: ClassVar[int] = 1
    kept: ClassVar[int | None] = None
    derives_none: ClassVar[bool] = True
    joins: ClassVar[bool] = False
    stages: ClassVar[int | None] = 3
    auxiliary: ClassVar[bool] = False
    large_images: ClassVar[bool] = False
    primitives: list[NasBench201Primitive] = Field(list(NASBENCH201_PRIMITIVES), min_length=1, max_length=5)

    @field_validator("primitives")
    @classmethod
    def _ordered(cls, chosen: list[NasBench201Primitive]) -> list[NasBench201Primitive]:
        return _in_order(chosen, NASBENCH201_PRIMITIVES)

    def edges(self, nodes: int) -> list[tuple[int, int]]:
        """List (node, state it reads) per edge; node 0 follows the input, which is state 0."""
        return [(node, state) for node in range(nodes - 1) for state in range(node + 1)]

    @classmethod
    def spells(cls, genotype: str) -> bool:
        """Check whether a given genotype is one of this space, a cell; ValueError if that is misspelled."""
        return genotype.startswith("|") and bool(cls.parse_cell(genotype))

    @staticmethod
    def parse_cell(text: str) -> list[list[tuple[str, int]]]:
        """Parse the benchmark's string of a cell, edges (operation, state) per node; ValueError if none.

        For example |nor_conv_3x3~0|+|none~0|skip_connect~1| has two nodes, and the second adds none of the
        input to the first node's map.
        """
        if len(text) > MOST_CHARACTERS or not CELL.fullmatch(text):
            raise ValueError(f"{text[:60]!r} is not a cell like |nor_conv_3x3~0|+|none~0|skip_connect~1|")
        nodes = [node[1:-1].split("|") for node in text.split("+")]
        cell = []
        for number, node in enumerate(nodes, 1):  # node 0 is the input
            edges = [edge.partition("~")[::2] for edge in node]
            for operation, _ in edges:
                if operation not in NASBENCH201_PRIMITIVES:
                    allowed = ", ".join(NASBENCH201_PRIMITIVES)
                    raise ValueError(f"node {number}: unknown operation {operation!r}; allowed: {allowed}")
            if [state for _, state in edges] != [str(state) for state in range(number)]:
                raise ValueError(f"node {number}: must read nodes 0 to {number - 1}, each once and in order")
            cell.append([(operation, int(state)) for operation, state in edges])
        return cell


Space = Annotated[DartsSpace | NasBench201Space | ImplantSpace, Field(discriminator="kind")]
SPACES: dict[str, Space] = {space.kind: space for space in (DartsSpace(), NasBench201Space(), ImplantSpace())}


def check_cells(space: Any, cells: int, field: str) -> None:
    """Reject a number of cells that does not fill the space's stages."""
    if space.stages is not None and cells % space.stages:
        raise ValueError(
            f"{field} {cells} is not a multiple of {space.stages}: a network of space {space.kind} has "
            f"{space.stages} stages of equally many cells; set 15 as published, or another multiple"
        )


def check_stem(space: Any, stem: str, field: str) -> None:
    """Reject a stem that networks of the space do not have."""
    if stem != "cifar" and not space.large_images:
        raise ValueError(f"{field} {stem}: a network of space {space.kind} has CIFAR's stem: omit it")


# --- given genotypes ------------------------------------------------------------------------------------


def space_of(genotype: str) -> str:
    """Name the space of a given genotype, one by name or a cell; ValueError if it is of none."""
    for kind, space in SPACES.items():
        if space.spells(genotype):
            return kind
    raise ValueError(
        f"{genotype!r} is not a published genotype; allowed: {', '.join(PUBLISHED)}, or a cell of "
        "nasbench201 like |nor_conv_3x3~0|+|none~0|skip_connect~1|"
    )


def _of_a_space(genotype: str) -> str:
    """Reject what is a genotype of no space."""
    space_of(genotype)
    return genotype


Given = Annotated[str, Field(max_length=MOST_CHARACTERS), AfterValidator(_of_a_space)]
FILE = ".json"
RUN = re.compile(rf"({NAME[1:-1]}/){{2}}[0-9]{{1,20}}")  # data set/method/seed


def _given_or_found(genotype: str) -> str:
    """Reject what is neither a genotype, nor a file of one, nor a run that finds one."""
    if genotype.endswith(FILE) or RUN.fullmatch(genotype):
        return genotype
    try:
        return _of_a_space(genotype)
    except ValueError as error:
        raise ValueError(f"{error}; a genotype's file *{FILE}, or a run data set/method/seed") from None


Found = Annotated[str, Field(max_length=MOST_CHARACTERS), AfterValidator(_given_or_found)]
