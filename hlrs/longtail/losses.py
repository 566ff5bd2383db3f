"""Losses of logits z float [n, classes] against labels y int64 [n], built from the classes' training counts.

A class without images, which occurs in no batch, counts as one with a single image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hlrs.config.base import Kinds
from hlrs.config.methods import (
    BalancedSoftmax,
    ClassBalanced,
    ClassDependentTemperatures,
    CrossEntropy,
    Focal,
    Ldam,
    LogitAdjustment,
    Seesaw,
    VectorScaling,
)
from hlrs.config.methods import Loss as LossSpec

OfImages = Callable[[Tensor, Tensor], Tensor]  # logits, labels -> each image's loss [n]

SEESAW_FLOOR = 0.01  # the smallest σ_y that seesaw divides by


@dataclass(frozen=True)
class Loss:
    """The weighted mean Σ_i w_i s_i ℓ(z_i, y_i) / Σ_i w_i of a batch, with w_i = weights[y_i]: a scalar.

    The class weights, float64 [classes], act from progress `at` on; before that, and without weights, all w_i
    are 1. The shares s_i, float [n], are 1 unless images are mixed.
    """

    of_images: OfImages
    weights: Tensor | None = None
    at: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, t: float, share: Tensor | None = None) -> Tensor:
        losses = self.of_images(logits, labels)
        if share is not None:
            losses = share * losses
        if self.weights is None or not self.weighs(t):
            return losses.mean()
        weights = self.weights.to(logits)[labels]
        return (weights * losses).sum() / weights.sum()

    def weighs(self, t: float) -> bool:
        """Return whether class weights act at progress t, which is all that t changes in a captured step."""
        return self.weights is not None and t >= self.at


def cross_entropy(spec: CrossEntropy, counts: Tensor) -> Loss:
    """−log p_y, the target smoothed to (1 − s) y + s/C  (label smoothing; Szegedy et al. 2016, §7)."""
    return Loss(lambda z, y: F.cross_entropy(z, y, reduction="none", label_smoothing=spec.smoothing))


def class_balanced(spec: ClassBalanced, counts: Tensor) -> Loss:
    """−log p_y under the weights of the effective numbers, from `at` on  (Cui et al. 2019, §4)."""
    return Loss(_negative_log_p, effective_number_weights(counts, spec.beta), spec.at)


def focal(spec: Focal, counts: Tensor) -> Loss:
    """−(1 − p_y)^γ log p_y with p = softmax(z)  (Lin et al. 2017, eq. 4)."""

    def of_images(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = -_negative_log_p(logits, labels)
        # never 0, where a power γ < 1 has no finite slope
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(logits.dtype).tiny)
        return -(rest**spec.gamma) * log_p

    return Loss(of_images)


def ldam(spec: Ldam, counts: Tensor) -> Loss:
    """−log p_y of s (cos θ_c − Δ_y [c = y]), margins Δ_c ∝ n_c^(−1/4)  (Cao et al. 2019, §3.2).

    The logits are already s cos θ_c with s = `scale`, from the classifier (nas/network.py), so that inference
    uses them too. Effective-number weights act from `at` on (deferred re-weighting, §3.3); None: never.
    """
    margins = counts**-0.25
    shift = spec.scale * spec.max_margin * margins / margins.max()

    def of_images(logits: Tensor, labels: Tensor) -> Tensor:
        column = labels[:, None]
        return _negative_log_p(logits.scatter_add(1, column, -shift.to(logits)[column]), labels)

    if spec.at is None:
        return Loss(of_images)
    return Loss(of_images, effective_number_weights(counts, spec.beta), spec.at)


def balanced_softmax(spec: BalancedSoftmax, counts: Tensor) -> Loss:
    """−log p_y of z + log n_c  (Ren et al. 2020, eq. 4)."""
    shift = counts.log()
    return Loss(lambda z, y: _negative_log_p(z + shift.to(z), y))


def logit_adjustment(spec: LogitAdjustment, counts: Tensor) -> Loss:
    """−log p_y of z + τ log(n_c/n)  (Menon et al. 2021, eq. 10)."""
    shift = spec.tau * (counts / counts.sum()).log()
    return Loss(lambda z, y: _negative_log_p(z + shift.to(z), y))


def seesaw(spec: Seesaw, counts: Tensor) -> Loss:
    """−log p_y of z_c + log(M_yc C_yc)  (Wang et al. 2021, §3).

    Mitigation M_yc = min(1, n_c/n_y)^p, compensation C_yc = max(1, σ_c/σ_y)^q with σ = softmax(z), detached,
    and σ_y at least 0.01 (mmdet's seesaw_loss.py). n_c counts the training set, not the batches so far (our
    own reading).
    """
    log_n = counts.log()

    def of_images(logits: Tensor, labels: Tensor) -> Tensor:
        log_sigma, column, log_counts = logits.detach().log_softmax(1), labels[:, None], log_n.to(logits)
        mitigation = spec.p * (log_counts - log_counts[column]).clamp(max=0)
        of_label = log_sigma.gather(1, column).clamp(min=math.log(SEESAW_FLOOR))
        compensation = spec.q * (log_sigma - of_label).clamp(min=0)
        return _negative_log_p(logits + mitigation + compensation, labels)  # both are 0 for the label

    return Loss(of_images)


def vector_scaling(spec: VectorScaling, counts: Tensor) -> Loss:
    """−log p_y of (n_c/n_max)^γ z_c + τ log(n_c/n)  (Kini et al. 2021, with all weights ω 1)."""
    factor, shift = _temperature_factors(counts, spec.gamma), spec.tau * (counts / counts.sum()).log()
    return Loss(lambda z, y: _negative_log_p(factor.to(z) * z + shift.to(z), y))


def class_dependent_temperatures(spec: ClassDependentTemperatures, counts: Tensor) -> Loss:
    """−log p_y of (n_c/n_max)^γ z_c  (Ye et al. 2020)."""
    factor = _temperature_factors(counts, spec.gamma)
    return Loss(lambda z, y: _negative_log_p(factor.to(z) * z, y))


LOSSES: Kinds[Callable[..., Loss]] = {
    CrossEntropy: cross_entropy,
    ClassBalanced: class_balanced,
    Focal: focal,
    Ldam: ldam,
    BalancedSoftmax: balanced_softmax,
    LogitAdjustment: logit_adjustment,
    Seesaw: seesaw,
    VectorScaling: vector_scaling,
    ClassDependentTemperatures: class_dependent_temperatures,
}


def make_loss(spec: LossSpec, counts: Tensor) -> Loss:
    """Build the loss of a spec; counts: training images per class, int64 [classes]."""
    return LOSSES[type(spec)](spec, counts.double().clamp(min=1))


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """w_c ∝ (1 − β)/(1 − β^n_c), which sum to C: float64 [classes]  (Cui et al. 2019, eq. 2 and §4)."""
    weights = (1 - beta) / (1 - beta ** counts.double())
    return weights * len(counts) / weights.sum()


def _temperature_factors(counts: Tensor, gamma: float) -> Tensor:
    return (counts / counts.max()) ** gamma


def _negative_log_p(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")
