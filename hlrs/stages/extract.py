"""Extract: the genotype of the final alphas, or a published one, and a drawing of both cells."""

from pathlib import Path
from typing import Any

import numpy as np

from hlrs.artifacts.files import write_json, write_text
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import ExtractJob
from hlrs.errors import Failure
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import PRIMITIVES, PUBLISHED, Alphas, EdgeWeights, derive, edges


def run(job: Job) -> dict[str, Any]:
    """Write genotype.json, normal.svg and reduce.svg."""
    params = ExtractJob.model_validate(job.params)
    genotype = (
        PUBLISHED[params.genotype]
        if params.genotype
        else derive(*final_architecture(Path(job.inputs["alphas"])))
    )
    write_json(job.output("genotype.json"), genotype.to_json())
    for cell in ("normal", "reduce"):
        concat = getattr(genotype, f"{cell}_concat")
        write_text(
            job.output(f"{cell}.svg"), draw_cell(getattr(genotype, cell), f"{job.run} · {cell} cell", concat)
        )
    return {}


def final_architecture(path: Path) -> tuple[Alphas, EdgeWeights]:
    """Read the last epoch's alphas and edge weights by cell, "normal" and "reduce"; Failure if incomplete."""
    rows = read_table(path, "trajectory").to_pylist()
    last = max((row["epoch"] for row in rows), default=0)
    alphas, edge_weights = {}, {}
    for cell in ("normal", "reduce"):
        own = [row for row in rows if row["epoch"] == last and row["cell"] == cell]
        nodes = max((row["node"] + 1 for row in own), default=0)
        expected = [(node, state, primitive) for node, state in edges(nodes) for primitive in PRIMITIVES]
        if not expected or [(row["node"], row["input"], row["primitive"]) for row in own] != expected:
            raise Failure(f"{path}: the {cell} cell does not hold every edge and primitive once, in order")
        values = np.array([(row["alpha"], row["edge_weight"]) for row in own], dtype=np.float32)
        alphas[cell], by_primitive = values.T.reshape(2, -1, len(PRIMITIVES))
        edge_weights[cell] = by_primitive[:, 0]
    return alphas, edge_weights
