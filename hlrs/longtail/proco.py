"""Probabilistic contrastive learning (Du et al. 2024): classes as von Mises-Fisher distributions.

A vMF distribution on the unit sphere in p dimensions has the density C_p(κ) exp(κ μ·z), its mean direction μ
and concentration κ estimated from the features of the last images.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 512  # units of the projection head
LARGEST = 1e5  # concentration, which has no bound for a single image; the authors' code, loss/proco.py
LARGE = 64  # order from which four terms of Debye's expansion are exact to about 10⁻¹¹
# Coefficients of Debye's polynomials U_k(q)/q^k in powers of q², k = 0 to 4 (DLMF, 10.41.9; 10.41.10 up to 3)
DEBYE = (
    (1.0,),
    (3 / 24, -5 / 24),
    (81 / 1152, -462 / 1152, 385 / 1152),
    (30375 / 414720, -369603 / 414720, 765765 / 414720, -425425 / 414720),
    (
        4465125 / 39813120,
        -94121676 / 39813120,
        349922430 / 39813120,
        -446185740 / 39813120,
        185910725 / 39813120,
    ),
)


class ProCoHead(nn.Module):
    """A projection head [n, width] -> unit features float64 [n, dimensions], and what it saw of each class.

    `sums` float64 [2, classes, dimensions] are the sums of the features in the last epoch and in this one,
    `counts` float64 [2, classes] their numbers: the estimates follow from both (authors' code, where a second
    estimator takes the first one's place after each epoch).
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, width: int, classes: int, dimensions: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, dimensions)
        )
        self.register_buffer("sums", torch.zeros(2, classes, dimensions, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, classes, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.projection(features).double())

    def see(self, z: Tensor, labels: Tensor) -> None:
        """Add unit features float64 [n, dimensions] with labels int64 [n] to this epoch's."""
        classes = torch.arange(self.counts.shape[1], device=labels.device)
        # [classes, n], as a product always adds up in the same order
        own = (labels == classes[:, None]).double()
        self.sums[1] += own @ z.detach()
        self.counts[1] += own.sum(1)

    def end_epoch(self) -> None:
        """Let this epoch become the last one, in place."""
        for tensor in (self.sums, self.counts):
            tensor[0].copy_(tensor[1])
            tensor[1].zero_()

    def estimates(self) -> tuple[Tensor, Tensor]:
        """Return mean directions [classes, dimensions] and concentrations [classes], float64.

        κ = R (p − R²)/(1 − R²), R the length of the mean feature (Banerjee et al. 2005, eq. 4.4). A
        class of which nothing was seen is uniform: κ = 0 (our own reading).
        """
        means = self.sums.sum(0) / self.counts.sum(0).clamp(min=1)[:, None]
        length = means.norm(dim=1)
        spread = (1 - length**2).clamp(min=1 / LARGEST**2)
        kappa = length * (means.shape[1] - length**2) / spread
        return F.normalize(means), kappa.clamp(max=LARGEST)

    def logits(self, z: Tensor, temperature: float) -> Tensor:
        """Return log E[exp(z·z′/τ)] over each class's z′, float64 [n, classes], of unit features z.

        = log C_p(κ) − log C_p(κ̃) with κ̃ = ‖κμ + z/τ‖  (Du et al. 2024, §3, without the classes' shares).
        """
        directions, kappa = self.estimates()
        tilted = kappa**2 + 2 * kappa / temperature * (z @ directions.T) + temperature**-2  # κ̃²
        order = z.shape[1] / 2 - 1
        return log_bessel(order, tilted) - log_bessel(order, kappa**2)


def log_bessel(order: float, squared: Tensor) -> Tensor:
    """Compute log(I_ν(x)/x^ν), float64, of the modified Bessel function I_ν, ν ≥ 0, at x² = `squared` ≥ 0.

    Up to a constant, this is −log C_p(x) for ν = p/2 − 1, and its slope by x is I_{ν+1}(x)/I_ν(x). Both come
    from Debye's expansion at orders N and N + 1, N ≥ LARGE, by the recurrence
    I_{n−1}(x) = I_{n+1}(x) + 2n/x I_n(x) down to ν, which only adds (DLMF, 10.41.3 and 10.29.1). Unlike
    Miller's recurrence from order 2ν (authors' code) it is as exact where x is far larger than ν.
    """
    steps = max(0, math.ceil(LARGE - order))
    top = order + steps
    value = _debye(top, squared)
    ratio = squared * (_debye(top + 1, squared) - value).exp()  # x I_{n+1}(x)/I_n(x)
    for step in range(steps):
        total = 2 * (top - step) + ratio
        value, ratio = value + total.log(), squared / total
    return value


def _debye(order: float, squared: Tensor) -> Tensor:
    """Compute log(I_ν(x)/x^ν) for a large order by Debye's expansion  (DLMF, 10.41.3)."""
    root = (order**2 + squared).sqrt()
    series = torch.zeros_like(squared)
    for coefficients in reversed(DEBYE):  # Σ_k U_k(q)/ν^k with q = ν/root, by Horner's rule in 1/root and q²
        own = torch.zeros_like(squared)
        for coefficient in reversed(coefficients):
            own = own * (order / root) ** 2 + coefficient
        series = series / root + own
    return root - order * (order + root).log() - (2 * math.pi * root).log() / 2 + series.log()
