"""DARTS (Liu et al. 2019)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.methods import Sparsemax
from hlrs.nas.relaxation import sparsemax, temperature
from hlrs.nas.searchers.base import Searcher


class DartsSearcher(Searcher):
    """Weigh operations by the relaxation of their alphas that the spec names, by default softmax (eq. 2)."""

    def draw(
        self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int
    ) -> Tensor | None:
        """Sparsemax's temperature θ for each kind of cell: float [kinds of cell]. Softmax has none."""
        if isinstance(self.relaxation, Sparsemax):
            return torch.full((shape[0],), temperature(self.relaxation, epoch, epochs))
        return None

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """softmax(α), or sparsemax(α/θ)."""
        if isinstance(self.relaxation, Sparsemax):
            assert drawn is not None
            weights: Tensor = sparsemax(alphas / drawn)
            return weights
        return alphas.softmax(-1)

    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> Tensor | None:
        """Weigh all edges alike."""
        return None

    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> Tensor | None:
        """Add nothing."""
        return None
