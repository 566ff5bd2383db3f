"""β-DARTS (Ye et al. 2022)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.methods import BetaDarts
from hlrs.nas.searchers.darts import DartsSearcher


class BetaDartsSearcher(DartsSearcher):
    """Weigh operations as DARTS does, and keep the alphas from growing apart (beta-decay, §3).

    The architecture's loss gains w(t) · Σ_kind mean_edge logsumexp(α_edge), w(t) = weight · epoch/epochs. The
    mean over edges and the weight are those of the authors' code for NAS-Bench-201, which has one kind of
    cell; to sum over several, so that none weakens another's term, is our own reading.
    """

    def __init__(self, spec: BetaDarts) -> None:
        super().__init__(spec)
        self.weight = spec.weight

    def draw(self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int) -> Tensor:
        """w(t) for each kind of cell: float [kinds of cell]."""
        return torch.full((shape[0],), self.weight * epoch / epochs)

    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> Tensor:
        """w(t) · Σ_kind mean_edge logsumexp(α_edge)."""
        assert drawn is not None
        by_kind = torch.stack([alphas.logsumexp(-1).mean() for alphas in architecture.values()])
        return (drawn * by_kind).sum()
