"""Mixtures: the weights of all operations and edges, of an architecture or of a genotype decoded in it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hlrs.config.spaces import Space
from hlrs.nas.genotype import Genotype
from hlrs.nas.relaxation import Relax, softmax
from hlrs.nas.trajectory import Architecture, by_cell


class Mixture(NamedTuple):
    """Weights of operations, float32 [kinds of cell, edges, operations], and edges, [kinds of cell, edges].

    In the order of `space.kinds`, `space.edges(nodes)` and `space.primitives`.
    """

    operations: Tensor
    edges: Tensor


def continuous(space: Space, architecture: Architecture, relax: Relax = softmax) -> Mixture:
    """Return the weights from which the genotype of an architecture is derived."""
    alphas, edge_weights = by_cell(space, architecture)
    weights = np.stack([relax(alphas[kind]) for kind in space.kinds])
    edges = np.stack([edge_weights[kind] for kind in space.kinds])
    return Mixture(torch.from_numpy(weights).float(), torch.from_numpy(edges))


def decoded(space: Space, nodes: int, found: Genotype) -> Mixture:
    """Return one-hot weights: 1 for each operation and edge of a genotype, 0 for all others."""
    every, columns = space.edges(nodes), list(map(str, space.primitives))
    operations = torch.zeros(len(space.kinds), len(every), len(columns))
    for kind, own in zip(space.kinds, operations, strict=True):
        for end, node in enumerate(found.cells[kind]):
            for name, state in node:
                own[every.index((end, state)), columns.index(name)] = 1.0
    return Mixture(operations, operations.amax(-1))
