"""The random baseline (Li & Talwalkar 2019): an architecture that is drawn, not trained."""

import torch

from hlrs.config.methods import Random
from hlrs.nas import genotype
from hlrs.nas.trajectory import CELLS, Architecture


def draw_architecture(spec: Random, nodes: int, generator: torch.Generator) -> Architecture:
    """Independent, equally distributed alphas: DARTS's rule derives a uniformly random genotype from them."""
    shape = (len(genotype.edges(nodes)), len(genotype.PRIMITIVES))
    return {f"alphas.{cell}": torch.randn(shape, generator=generator).numpy() for cell in CELLS}
