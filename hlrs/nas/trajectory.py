"""The architecture parameters over a search, epoch by epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.config.methods import Relaxation
from hlrs.config.spaces import Space
from hlrs.nas import genotype
from hlrs.nas.genotype import DERIVATIONS, Genotype
from hlrs.nas.relaxation import Relax, relaxed, softmax

Architecture = dict[str, npt.NDArray[np.float32]]  # alphas.normal, ..., betas.reduce -> values


class Trajectory:
    """A supernet's architecture at the start and after each epoch; `parameters`: `Supernet.architecture`."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.architectures: list[Architecture] = []
        self.record()

    def record(self) -> None:
        """Append the architecture as it is now."""
        named = self.parameters.items()
        self.architectures.append({name: p.detach().cpu().numpy().copy() for name, p in named})

    def revise(self) -> None:
        """Replace the last architecture by the one as it is now."""
        self.architectures.pop()
        self.record()

    def roll_back(self, epochs: int) -> None:
        """Replace the last architecture, the supernet's as well, by the one recorded `epochs` before it."""
        self.architectures[-1] = self.architectures[-1 - epochs]
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(self.architectures[-1][name]))

    def state(self) -> dict[str, Tensor]:
        """All architectures, by name: float [epochs + 1, edges, operations] or [epochs + 1, edges]."""
        return {
            name: torch.from_numpy(np.stack([architecture[name] for architecture in self.architectures]))
            for name in self.parameters
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state."""
        epochs = zip(*(tensor.numpy() for tensor in state.values()), strict=True)
        self.architectures = [dict(zip(state, values, strict=True)) for values in epochs]


def by_cell(space: Space, architecture: Architecture) -> tuple[Architecture, Architecture]:
    """Alphas [edges, operations] and edge weights [edges], 1 without betas, of each kind of cell."""
    alphas = {cell: architecture[f"alphas.{cell}"] for cell in space.kinds}
    edge_weights = {
        cell: genotype.edge_softmax(architecture[f"betas.{cell}"], space.inputs)
        if f"betas.{cell}" in architecture
        else np.ones(len(alphas[cell]), dtype=np.float32)
        for cell in space.kinds
    }
    return alphas, edge_weights


def derive(space: Space, architecture: Architecture, relax: Relax = softmax) -> Genotype:
    """Derive the genotype of an architecture."""
    return DERIVATIONS[type(space)](space, *by_cell(space, architecture), relax)


def describe(space: Space, architecture: Architecture, relax: Relax = softmax) -> dict[str, float | None]:
    """Entropy of the operation weights, non-zero ones per edge, and number of skip connections.

    None for a cell not searched; non-zero weights also where none can be 0.
    """
    alphas, _ = by_cell(space, architecture)
    derived = derive(space, architecture, relax)
    facts: dict[str, float | None] = dict.fromkeys(
        f"{name}_{cell}" for name in ("entropy", "nonzero", "skips") for cell in ("normal", "reduce")
    )
    for cell in space.kinds:
        weights = relax(alphas[cell])
        facts[f"entropy_{cell}"] = genotype.entropy(weights)
        facts[f"skips_{cell}"] = derived.skips(cell)
        if relax is not softmax:
            facts[f"nonzero_{cell}"] = float((weights > 0).sum(-1).mean())
    return facts


def rows(
    space: Space, nodes: int, architectures: Sequence[Architecture], relaxation: Relaxation
) -> Iterator[tuple[Any, ...]]:
    """Rows of alphas.parquet: epoch, cell, node, input, operation, alpha, its weight, edge weight."""
    for epoch, architecture in enumerate(architectures):
        alphas, edge_weights = by_cell(space, architecture)
        relax = relaxed(relaxation, epoch, len(architectures) - 1)
        for cell in space.kinds:
            weights = relax(alphas[cell])
            for row, (node, state) in enumerate(space.edges(nodes)):
                edge = epoch, cell, node, state
                for column, operation in enumerate(space.primitives):
                    own = alphas[cell][row, column], weights[row, column], edge_weights[cell][row]
                    yield *edge, operation, *own
