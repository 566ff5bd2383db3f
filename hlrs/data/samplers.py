"""Samplers: which images an epoch reads, and how often."""

from collections.abc import Callable

import torch
from torch import Tensor

from hlrs.config.base import Kinds
from hlrs.config.methods import (
    ClassBalancedSampler,
    DeferredSampler,
    ProgressiveSampler,
    ReversedSampler,
    Sampler,
    SquareRootSampler,
    UniformSampler,
)


def uniform(spec: UniformSampler, labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions: whole permutations, one after the other, so that images occur equally often."""
    rounds = -(-count // len(labels))
    return torch.cat([torch.randperm(len(labels), generator=draw) for _ in range(rounds)])[:count]


def class_balanced(
    spec: ClassBalancedSampler, labels: Tensor, count: int, draw: torch.Generator, t: float
) -> Tensor:
    """`count` positions with replacement: P_c = 1/C  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, torch.ones_like)


def reversed_sampler(
    spec: ReversedSampler, labels: Tensor, count: int, draw: torch.Generator, t: float
) -> Tensor:
    """`count` positions with replacement: P_c = w_c/Σw, w_c = n_max/n_c  (Zhou et al. 2020 (BBN), §4.2)."""
    return _by_class(labels, count, draw, torch.reciprocal)


def square_root(
    spec: SquareRootSampler, labels: Tensor, count: int, draw: torch.Generator, t: float
) -> Tensor:
    """`count` positions with replacement: P_c ∝ √n_c  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, torch.sqrt)


def progressive(
    spec: ProgressiveSampler, labels: Tensor, count: int, draw: torch.Generator, t: float
) -> Tensor:
    """`count` positions with replacement: P_c = (1 − t) n_c/n + t/C  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, lambda n: (1 - t) * n / n.sum() + t / len(n))


def deferred(spec: DeferredSampler, labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`uniform` before progress `at`, `class_balanced` from there on (DRS of Cao et al. 2019, §4)."""
    if t < spec.at:
        return uniform(UniformSampler(), labels, count, draw, t)
    return class_balanced(ClassBalancedSampler(), labels, count, draw, t)


def _by_class(labels: Tensor, count: int, draw: torch.Generator, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """`count` positions with replacement: a class with P_c ∝ weigh(n)_c, then any of its images.

    n, float64, counts the images of the classes that occur; classes without images are not part of C.
    """
    _, own, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    per_image = (weigh(counts.double()) / counts)[own]  # the class's share, spread over its images
    return torch.multinomial(per_image, count, replacement=True, generator=draw)


SAMPLERS: Kinds[Callable[..., Tensor]] = {
    UniformSampler: uniform,
    ClassBalancedSampler: class_balanced,
    ReversedSampler: reversed_sampler,
    SquareRootSampler: square_root,
    ProgressiveSampler: progressive,
    DeferredSampler: deferred,
}


def sample(spec: Sampler, labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """Draw `count` positions, int64, among labels int64 [n], with the generator `draw` at progress t."""
    return SAMPLERS[type(spec)](spec, labels, count, draw, t)
