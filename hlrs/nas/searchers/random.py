"""The random baseline (Li & Talwalkar 2019): an architecture that is drawn, not trained."""

import torch

from hlrs.config.methods import Random
from hlrs.config.spaces import Space
from hlrs.nas.trajectory import Architecture


def draw_architecture(spec: Random, space: Space, nodes: int, generator: torch.Generator) -> Architecture:
    """Independent, equally distributed alphas: a uniformly random genotype derives from them."""
    shape = len(space.edges(nodes)), len(space.primitives)
    return {f"alphas.{kind}": torch.randn(shape, generator=generator).numpy() for kind in space.kinds}
