"""The last architecture of a search, as read from its trajectory; loads without torch."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hlrs.artifacts.tables import read_table
from hlrs.config.spaces import Space
from hlrs.errors import Failure

Values = npt.NDArray[np.float32]


def final_architecture(
    path: Path, space: Space, column: str
) -> tuple[int, dict[str, Values], dict[str, Values]]:
    """Read the last epoch, and its `column`, alpha or weight, and edge weights by kind of cell.

    Float32 [edges, operations] and [edges]; Failure if incomplete.
    """
    rows = read_table(path, "trajectory").to_pylist()
    last = max((row["epoch"] for row in rows), default=0)
    of_operations, edge_weights, every = {}, {}, list(space.primitives)
    for cell in space.kinds:
        own = [row for row in rows if row["epoch"] == last and row["cell"] == cell]
        nodes = max((row["node"] + 1 for row in own), default=0) + (2 - space.inputs)
        expected = [(node, state, primitive) for node, state in space.edges(nodes) for primitive in every]
        if not expected or [(row["node"], row["input"], row["primitive"]) for row in own] != expected:
            raise Failure(f"{path}: the {cell} cell does not hold every edge and primitive once, in order")
        values = np.array([(row[column], row["edge_weight"]) for row in own], dtype=np.float32)
        of_operations[cell], by_primitive = values.T.reshape(2, -1, len(every))
        edge_weights[cell] = by_primitive[:, 0]
    return last, of_operations, edge_weights
