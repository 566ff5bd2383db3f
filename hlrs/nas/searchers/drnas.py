"""DrNAS (Chen et al. 2021): operation weights are drawn from a Dirichlet distribution."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.nas.searchers.darts import DartsSearcher

TRIES = 16  # of which a gamma draw takes the first accepted; more than 95 % are, so 16 fail once in 10²⁰
SMALLEST = 1e-6  # concentration


class DrnasSearcher(DartsSearcher):
    """Weigh the operations of an edge by a draw from Dirichlet(ELU(α) + 1).

    The gradient is that of the draw when its concentrations move at fixed noise (Jankowiak & Obermeyer 2018,
    as in torch.distributions). Second derivatives take the draw as linear in them (our own reading).
    """

    def draw(self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int) -> Tensor:
        """Noise: float [kinds of cell, 2 · TRIES + 1, edges, operations], TRIES normal, then uniform."""
        kinds, *rest = shape
        normal = torch.randn([kinds, TRIES, *rest], generator=generator)
        return torch.cat([normal, torch.rand([kinds, TRIES + 1, *rest], generator=generator)], 1)

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """x ~ Dirichlet(c), c = ELU(α) + 1, with ∂x_j/∂c_i = s_i (δ_ij − x_j)."""
        assert drawn is not None
        concentration = (F.elu(alphas) + 1).clamp_min(SMALLEST)
        with torch.no_grad():
            sample = dirichlet(concentration, drawn)
            total = concentration.sum(-1, keepdim=True).expand_as(concentration)
            slope = torch._dirichlet_grad(sample, concentration, total)
        moved = slope * (concentration - concentration.detach())  # the difference is exactly 0
        weights: Tensor = sample + moved - sample * moved.sum(-1, keepdim=True)
        return weights


def dirichlet(concentration: Tensor, noise: Tensor) -> Tensor:
    """Turn noise, [2 · TRIES + 1, edges, operations], into draws from Dirichlet(c), c [edges, operations].

    They are normalized draws G(c) from Gamma(c, 1). With u uniform, G(c) = G(c + 1) · u^(1/c), and G(c + 1)
    is that of Marsaglia & Tsang (2000): dv with d = c + 2/3, v = (1 + z/√(9d))³, z normal, accepted if
    log u < z²/2 + d − dv + d log v.
    """
    normal, uniform, boost = noise.split([TRIES, TRIES, 1])
    d = concentration + 2 / 3
    v = (1 + normal / (9 * d).sqrt()).clamp_min(0) ** 3
    accepted = uniform.log() < normal**2 / 2 + d - d * v + d * v.log()
    first = accepted.int().argmax(0, keepdim=True)
    tiny = torch.finfo(noise.dtype).tiny
    logarithm = (d * v).log().gather(0, first) + boost.clamp_min(tiny).log() / concentration
    weights: Tensor = logarithm.squeeze(0).softmax(-1).clamp_min(tiny)
    return weights
