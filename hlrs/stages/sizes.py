"""The size of the network that a retraining makes of a genotype, within a search's budget."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlrs.artifacts.files import read_json
from hlrs.config.base import Kinds
from hlrs.config.jobs import BudgetedNetwork
from hlrs.config.spaces import Space
from hlrs.data.sources.open import open_source
from hlrs.errors import UserError
from hlrs.longtail.objectives import layout_of
from hlrs.nas.genotype import Genotype
from hlrs.nas.network import count_multiply_adds, count_weights
from hlrs.nas.spaces import NETWORKS
from hlrs.nas.trajectory import Architecture, derive

DRAWS = 1000  # of which one must fit
Excess = Callable[[Genotype], str]  # names the first number that exceeds a budget, or none

REMEDY = "raise it, or lower retrain.channels or retrain.cells"


# operations without weights and multiply-adds, of a space that has them; the last has some in reductions, but
# fewer than any convolution
CHEAPEST = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")


class SizeLimit:
    """Says by how much a genotype's network exceeds a budget, for so many classes."""

    def __init__(self, of: BudgetedNetwork, space: Space, classes: int) -> None:
        self.budget, self.space = of.budget, space
        in_channels, self.size, _ = open_source(of.images.source).read([0], of.images.image_size).shape[1:]
        self.layout: dict[str, Any] = {
            "in_channels": in_channels,
            "classes": classes,
            "channels": of.channels,
            "cells": of.cells,
            "stem": of.images.stem,
            **layout_of(of.objective),
        }

    def excess(self, genotype: Genotype) -> str:
        """Name the first number that exceeds the budget, and the budget's; "" if the network fits."""
        with torch.device("meta"):
            network = NETWORKS[type(self.space)](genotype, **self.layout)
        excess = self.budget.exceeded("weights", count_weights(network))
        if excess or self.budget.multiply_adds is None:  # which take longer to count
            return excess
        found = count_multiply_adds(network.eval(), self.layout["in_channels"], self.size)
        return self.budget.exceeded("multiply_adds", found)


def excess_over(of: BudgetedNetwork, space: Space, classes: int) -> Excess:
    """Return what says by how much a genotype's network exceeds a budget."""
    return SizeLimit(of, space, classes).excess


# a job without a budget does not depend on the networks
LIMITS: Kinds[Callable[..., Excess]] = {BudgetedNetwork: excess_over}


def limit_of(of: BudgetedNetwork | None, space: Space, inputs: Mapping[str, str]) -> Excess | None:
    """Return the limit that a job's parameters ask for, on its split's classes; None without a budget."""
    if of is None:
        return None
    return LIMITS[type(of)](of, space, len(read_json(Path(inputs["classes"]))["names"]))


def check_size(of: BudgetedNetwork, space: Space, inputs: Mapping[str, str], genotype: Genotype) -> None:
    """Raise UserError if a genotype that a search found exceeds its budget."""
    limit = limit_of(of, space, inputs)
    if limit is not None and (excess := limit(genotype)):
        raise UserError(f"search.budget: the network of the genotype found has {excess}: {REMEDY}")


def draw_fitting(draw: Callable[[], Architecture], space: Space, limit: Excess | None) -> Architecture:
    """Draw until a genotype fits: uniformly among those that fit, if all are drawn uniformly.

    UserError if none of DRAWS does.
    """
    for _ in range(DRAWS):
        drawn = draw()
        excess = "" if limit is None else limit(derive(space, drawn))
        if not excess:
            return drawn
    raise UserError(f"search.budget: none of {DRAWS:,} genotypes drawn fits; the last has {excess}: {REMEDY}")


def smallest(space: Space, nodes: int) -> Genotype | None:
    """Return the genotype with the smallest network; None of a space without an operation of CHEAPEST."""
    free = ("none", *CHEAPEST) if space.derives_none else CHEAPEST
    chosen = next((operation for operation in free if operation in space.primitives), None)
    if chosen is None:
        return None
    alphas = np.zeros((len(space.edges(nodes)), len(space.primitives)), dtype=np.float32)
    alphas[:, [*space.primitives].index(chosen)] = 1
    return derive(space, {f"alphas.{kind}": alphas for kind in space.kinds})
