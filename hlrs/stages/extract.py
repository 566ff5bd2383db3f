"""Extract: the genotype of the final alphas, and a drawing of both cells."""

from pathlib import Path
from typing import Any

import numpy as np

from hlrs.artifacts import Job, read_table, write_json, write_text
from hlrs.errors import Failure
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import PRIMITIVES, derive, edges


def run(job: Job) -> dict[str, Any]:
    """Write genotype.json, normal.svg and reduce.svg."""
    genotype = derive(final_alphas(Path(job.inputs["alphas"])))
    write_json(job.output("genotype.json"), genotype.to_json())
    for cell in ("normal", "reduce"):
        concat = getattr(genotype, f"{cell}_concat")
        write_text(
            job.output(f"{cell}.svg"), draw_cell(getattr(genotype, cell), f"{job.run} · {cell} cell", concat)
        )
    return {}


def final_alphas(path: Path) -> dict[str, Any]:
    """{"normal", "reduce"}: float32 [edges, primitives] after the last epoch; Failure if one is missing."""
    table = read_table(path, "alphas").to_pandas()
    last = table[table["epoch"] == table["epoch"].max()]
    alphas = {}
    for cell in ("normal", "reduce"):
        rows = last[last["cell"] == cell]
        nodes = 0 if rows.empty else int(rows["node"].max()) + 1
        expected = [(node, state, primitive) for node, state in edges(nodes) for primitive in PRIMITIVES]
        if not expected or list(zip(rows["node"], rows["input"], rows["primitive"], strict=True)) != expected:
            raise Failure(f"{path}: the {cell} cell does not hold every edge and primitive once, in order")
        alphas[cell] = rows["alpha"].to_numpy(np.float32).reshape(-1, len(PRIMITIVES))
    return alphas
