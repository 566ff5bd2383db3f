"""Extract: the genotype of the final alphas, or a given one, and a drawing of its cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hlrs.artifacts.files import read_json, write_json, write_text
from hlrs.artifacts.jobs import Job
from hlrs.config.jobs import ExtractJob
from hlrs.config.methods import Relaxation
from hlrs.config.spaces import Space
from hlrs.nas.drawing import draw_cell
from hlrs.nas.genotype import DERIVATIONS, Genotype, drawings, given
from hlrs.nas.relaxation import relaxed
from hlrs.stages.architectures import final_architecture


def run(job: Job) -> dict[str, Any]:
    """Write genotype.json, normal.svg and reduce.svg."""
    params = ExtractJob.model_validate(job.params)
    space = params.space
    genotype = _genotype(params, job.inputs)
    if params.limit is not None:
        from hlrs.stages.sizes import check_size  # which needs torch; an extraction without budget does not

        check_size(params.limit, space, job.inputs, genotype)
    write_json(job.output("genotype.json"), genotype.to_json())
    for kind, (title, nodes, outputs) in drawings(genotype).items():
        drawn = draw_cell(nodes, f"{job.run} · {title}", outputs, space.inputs)
        write_text(job.output(f"{kind}.svg"), drawn)
    return {}


def _genotype(params: ExtractJob, inputs: Mapping[str, str]) -> Genotype:
    """Return the given genotype, the one that another run found, or that of the alphas."""
    if params.genotype is not None:
        return given(params.space, params.genotype)
    if "genotype" in inputs:
        return given(params.space, read_json(Path(inputs["genotype"])), inputs["genotype"])
    return searched(Path(inputs["alphas"]), params.space, params.relaxation)


def searched(path: Path, space: Space, relaxation: Relaxation) -> Genotype:
    """Derive the genotype of the last epoch's alphas; Failure if incomplete."""
    epochs, alphas, edge_weights = final_architecture(path, space, "alpha")
    return DERIVATIONS[type(space)](space, alphas, edge_weights, relaxed(relaxation, epochs, epochs))
