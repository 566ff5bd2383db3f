"""DARTS (Liu et al. 2019)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.base import Kinds
from hlrs.config.methods import Softmax, Sparsemax
from hlrs.nas.relaxation import sparsemax, temperature
from hlrs.nas.searchers.base import Searcher


def without_temperature(spec: Softmax, epoch: int, epochs: int) -> None:
    """Return None: softmax has no temperature."""


def by_softmax(alphas: Tensor, theta: Tensor | None) -> Tensor:
    """softmax(α)  (DARTS, eq. 2)."""
    return alphas.softmax(-1)


def by_sparsemax(alphas: Tensor, theta: Tensor | None) -> Tensor:
    """sparsemax(α/θ)."""
    assert theta is not None  # it has a temperature
    weights: Tensor = sparsemax(alphas / theta)
    return weights


# of a relaxation: θ in an epoch, and the weights, float [edges, operations], that a step computes with their
# gradients, by the formulas of hlrs/nas/relaxation.py
TEMPERATURES: Kinds[Callable[..., float | None]] = {Softmax: without_temperature, Sparsemax: temperature}
OPERATION_WEIGHTS: Kinds[Callable[[Tensor, Tensor | None], Tensor]] = {
    Softmax: by_softmax,
    Sparsemax: by_sparsemax,
}


class DartsSearcher(Searcher):
    """Weigh operations by the relaxation of their alphas that the spec names, by default softmax (eq. 2)."""

    def draw(
        self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int
    ) -> Tensor | None:
        """The relaxation's temperature θ, if any, for each kind of cell: float [kinds of cell]."""
        theta = TEMPERATURES[type(self.relaxation)](self.relaxation, epoch, epochs)
        return None if theta is None else torch.full((shape[0],), theta)

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """Relax the alphas."""
        return OPERATION_WEIGHTS[type(self.relaxation)](alphas, drawn)

    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> Tensor | None:
        """Weigh all edges alike."""
        return None

    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> Tensor | None:
        """Add nothing."""
        return None
