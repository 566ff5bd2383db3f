"""DARTS (Liu et al. 2019)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hlrs.nas.searchers.base import Searcher


class DartsSearcher(Searcher):
    """Weigh operations by the softmax of their alphas (eq. 2)."""

    def draw(
        self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int
    ) -> Tensor | None:
        """Draw nothing."""
        return None

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """softmax(α)."""
        return alphas.softmax(-1)

    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> None:
        """Weigh all edges alike."""

    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> Tensor | None:
        """Add nothing."""
        return None
