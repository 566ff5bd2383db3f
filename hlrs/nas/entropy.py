"""The penalty on undecided architectures: the entropy of the softmax of their alphas."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hlrs.config.recipes import EntropyPenalty


def penalty_weight(spec: EntropyPenalty, t: float) -> float:
    """λ(t) = weight · max(0, t − at)/(1 − at) at progress t."""
    return spec.weight * max(0.0, t - spec.at) / (1 - spec.at)


def mean_entropy(architecture: Mapping[str, Tensor]) -> Tensor:
    """Compute the mean of H(softmax α) over all edges, in nats: a scalar, ln 8 = 2.079 for 8 equal alphas.

    From the alphas, [edges, operations] by kind of cell, and betas by name (`Supernet.architecture`).
    """
    by_name = architecture.items()
    logarithms = torch.cat([alphas.log_softmax(-1) for name, alphas in by_name if name.startswith("alphas.")])
    return -(logarithms.exp() * logarithms).sum(-1).mean()
