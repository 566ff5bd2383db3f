"""The architecture parameters over a search, epoch by epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.nas import genotype

CELLS = ("normal", "reduce")

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


def by_cell(architecture: Architecture) -> tuple[Architecture, Architecture]:
    """Alphas [edges, operations] and edge weights [edges], 1 without betas, of each kind of cell."""
    alphas = {cell: architecture[f"alphas.{cell}"] for cell in CELLS}
    edge_weights = {
        cell: genotype.edge_softmax(architecture[f"betas.{cell}"])
        if f"betas.{cell}" in architecture
        else np.ones(len(alphas[cell]), dtype=np.float32)
        for cell in CELLS
    }
    return alphas, edge_weights


def describe(architecture: Architecture) -> dict[str, float]:
    """Entropy of the operation weights and number of skip connections, per kind of cell."""
    alphas, edge_weights = by_cell(architecture)
    derived = genotype.derive(alphas, edge_weights)
    return {
        **{f"entropy_{cell}": genotype.entropy(alphas[cell]) for cell in CELLS},
        **{f"skips_{cell}": derived.skips(cell) for cell in CELLS},
    }


def rows(nodes: int, architectures: Sequence[Architecture]) -> Iterator[tuple[Any, ...]]:
    """Rows of alphas.parquet: epoch, cell, node, input, operation, alpha, softmax weight, edge weight."""
    for epoch, architecture in enumerate(architectures):
        alphas, edge_weights = by_cell(architecture)
        for cell in CELLS:
            weights = genotype.softmax(alphas[cell])
            for row, (node, state) in enumerate(genotype.edges(nodes)):
                edge = epoch, cell, node, state
                for column, operation in enumerate(genotype.PRIMITIVES):
                    own = alphas[cell][row, column], weights[row, column], edge_weights[cell][row]
                    yield *edge, operation, *own
