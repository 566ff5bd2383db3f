"""Fixed features of images by class: their scale, class Gaussians, and how far apart two sets are."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features float [n, width] and their labels int64 [n], on one device."""

    values: Tensor
    labels: Tensor

    def and_also(self, other: "Features") -> "Features":
        """Append others."""
        return Features(torch.cat([self.values, other.values]), torch.cat([self.labels, other.labels]))

    def of(self, label: int) -> Tensor:
        """Select a class: [n_c, width]."""
        return self.values[self.labels == label]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each feature, float [width]; a constant one has the deviation 1."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Scale":
        """Measure the scale of features [n, width]."""
        deviation = values.std(0, correction=0)
        return cls(values.mean(0), torch.where(deviation > 0, deviation, 1.0))

    def standardize(self, values: Tensor) -> Tensor:
        """Return (x − mean)/deviation."""
        return (values - self.mean) / self.deviation

    def restore(self, values: Tensor) -> Tensor:
        """Return x · deviation + mean."""
        return values * self.deviation + self.mean


def shared_covariance(features: Features, classes: int) -> tuple[Tensor, Tensor]:
    """Estimate the means μ_c [classes, width] and the shared covariance [width, width], float64.

    Σ = 1/(n − C) Σ_i (x_i − μ_{y_i})(x_i − μ_{y_i})ᵀ, as in linear discriminant analysis. Each class needs a
    feature, and one of them two.
    """
    values = features.values.double()
    means = torch.stack([features.of(label).double().mean(0) for label in range(classes)])
    centred = values - means[features.labels]
    return means, centred.T @ centred / (len(values) - classes)


def draw_gaussian(means: Tensor, covariance: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Return μ_c + Σ^{1/2} ε for labels int64 [n] and noise ε ~ N(0, I), [n, width], in its type."""
    return (means[labels] + noise.double() @ square_root(covariance)).to(noise.dtype)


def square_root(matrix: Tensor) -> Tensor:
    """Return the symmetric root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(x: Tensor, y: Tensor) -> float | None:
    """‖μ − ν‖² + tr(A + B − 2 (A^{1/2} B A^{1/2})^{1/2}) between N(μ, A) and N(ν, B), fitted to two sets.

    Dowson & Landau 1982, eq. 4. Of features [n, width]; None if a set has fewer than two, and no covariance.
    """
    if min(len(x), len(y)) < 2:
        return None
    x, y = x.double(), y.double()
    a, b = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
    root = square_root(a)
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross)


def principal_axes(values: Tensor) -> Tensor:
    """Return the two directions of largest variance of features [n, width], float64 [width, 2], PCA.

    A direction's largest entry is positive, so that pictures do not depend on the solver.
    """
    centred = values.double() - values.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    largest = axes.abs().argmax(0)
    oriented: Tensor = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    return oriented
