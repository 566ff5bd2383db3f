"""Extract: the genotype of the final alphas, or a given one, and a drawing of its cells."""

from pathlib import Path
from typing import Any

import numpy as np

from hlrs.artifacts.files import write_json, write_text
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import ExtractJob
from hlrs.config.spaces import Space
from hlrs.errors import Failure
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import DERIVATIONS, FIXED, GIVEN, Alphas, EdgeWeights


def run(job: Job) -> dict[str, Any]:
    """Write genotype.json, normal.svg and reduce.svg."""
    params = ExtractJob.model_validate(job.params)
    space = params.space
    genotype = (
        GIVEN[type(space)](params.genotype)
        if params.genotype
        else DERIVATIONS[type(space)](space, *final_architecture(Path(job.inputs["alphas"]), space))
    )
    write_json(job.output("genotype.json"), genotype.to_json())
    cells = {kind: (nodes, genotype.outputs(kind)) for kind, nodes in genotype.cells.items()}
    cells = FIXED[type(space)] | cells
    for kind, (nodes, outputs) in cells.items():
        drawn = draw_cell(nodes, f"{job.run} · {kind} cell", outputs, space.inputs)
        write_text(job.output(f"{kind}.svg"), drawn)
    return {}


def final_architecture(path: Path, space: Space) -> tuple[Alphas, EdgeWeights]:
    """Read the last epoch's alphas and edge weights by kind of cell; Failure if incomplete."""
    rows = read_table(path, "trajectory").to_pylist()
    last = max((row["epoch"] for row in rows), default=0)
    alphas, edge_weights, every = {}, {}, list(space.primitives)
    for cell in space.kinds:
        own = [row for row in rows if row["epoch"] == last and row["cell"] == cell]
        nodes = max((row["node"] + 1 for row in own), default=0) + (2 - space.inputs)
        expected = [(node, state, primitive) for node, state in space.edges(nodes) for primitive in every]
        if not expected or [(row["node"], row["input"], row["primitive"]) for row in own] != expected:
            raise Failure(f"{path}: the {cell} cell does not hold every edge and primitive once, in order")
        values = np.array([(row["alpha"], row["edge_weight"]) for row in own], dtype=np.float32)
        alphas[cell], by_primitive = values.T.reshape(2, -1, len(every))
        edge_weights[cell] = by_primitive[:, 0]
    return alphas, edge_weights
