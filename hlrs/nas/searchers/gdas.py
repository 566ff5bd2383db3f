"""GDAS (Dong & Yang 2019): one operation per edge, drawn by Gumbel-max, differentiated by Gumbel-softmax."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.methods import Gdas
from hlrs.nas.searchers.base import Searcher


class GdasSearcher(Searcher):
    """Apply the operation argmax(log softmax(α) + g) to each edge, g ~ Gumbel(0, 1)  (eqs. 3 to 7).

    The gradient is that of the softmax of (log softmax(α) + g)/τ at the same noise g (straight-through).
    """

    def __init__(self, spec: Gdas) -> None:
        super().__init__(spec)
        self.tau_max, self.tau_min = spec.tau_max, spec.tau_min

    def temperature(self, epoch: int, epochs: int) -> float:
        """τ: linear in the epoch, `tau_max` in the first and `tau_min` in the last (the authors' code)."""
        return self.tau_max - (self.tau_max - self.tau_min) * epoch / max(1, epochs - 1)

    def draw(self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int) -> Tensor:
        """Noise g and temperature τ side by side: float [kinds of cell, 2, edges, operations]."""
        uniform = torch.rand(list(shape), generator=generator, dtype=torch.float64)
        noise = -(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
        return torch.stack([noise, torch.full_like(noise, self.temperature(epoch, epochs))], 1).float()

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """One-hot rows, with the gradient of the soft ones."""
        assert drawn is not None
        noise, temperature = drawn
        perturbed = alphas.log_softmax(-1) + noise
        soft = (perturbed / temperature).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, perturbed.detach().argmax(-1, keepdim=True), 1.0)
        weights: Tensor = hard + (soft - soft.detach())  # the difference is exactly 0
        return weights

    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> None:
        """Weigh all edges alike."""

    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> None:
        """Add nothing."""
